"""A small synthetic chest: two lungs in a body, balls for nodules, as DICOM or MetaImage with reads."""

import numpy as np
import SimpleITK
from dicom_files import write_series

SHAPE = (56, 100, 110)  # slices, rows, columns
SPACING = (1.6, 1.6, 2.0)  # of rows, columns, slices
ORIGIN = (-85.0, -78.0, -300.0)  # LPS of the first voxel
INTERCEPT = -1024


def world_grid():
    """LPS coordinates of all voxels, each broadcast to (slices, rows, columns)."""
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    return ORIGIN[2] + z * SPACING[2], ORIGIN[1] + y * SPACING[0], ORIGIN[0] + x * SPACING[1]


def chest(nodules=()):
    """int16 HU of SHAPE. nodules: ((x, y, z) of LPS, radius in mm)."""
    z, y, x = world_grid()
    hu = np.full(SHAPE, -1000, np.int16)
    hu[np.broadcast_to((x / 82) ** 2 + (y / 72) ** 2 < 1, SHAPE)] = 40
    noise = np.random.default_rng(0).integers(-25, 25, SHAPE).astype(np.int16)
    for side in (-1, 1):
        lung = ((x - side * 38) / 31) ** 2 + (y / 52) ** 2 + ((z + 245) / 52) ** 2 < 1
        hu[lung] = -860
    hu += noise
    for (cx, cy, cz), radius in nodules:
        hu[(x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 <= radius**2] = 30
    return hu


def index_of(world):
    """(slice, row, column), fractions too, of a place in LPS."""
    x, y, z = world
    return (z - ORIGIN[2]) / SPACING[2], (y - ORIGIN[1]) / SPACING[0], (x - ORIGIN[0]) / SPACING[1]


def save_dicom(folder, hu, series, patient, turned=False):
    """As a series; `turned`: rows and columns run the other way, as for a patient who lies on the face."""

    def change(made, number):
        made.PatientID = patient

    stored, turn, origin = np.maximum(hu - INTERCEPT, 0).astype(np.uint16), ((1, 0, 0), (0, 1, 0)), ORIGIN
    if turned:
        stored = stored[:, ::-1, ::-1].copy()
        turn = ((-1, 0, 0), (0, -1, 0))
        origin = (ORIGIN[0] + (SHAPE[2] - 1) * SPACING[1], ORIGIN[1] + (SHAPE[1] - 1) * SPACING[0], ORIGIN[2])
    write_series(
        folder,
        stored,
        inter=INTERCEPT,
        spacing=SPACING,
        origin=origin,
        turn=turn,
        series=series,
        change=change,
    )


def save_mhd(path, hu):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(hu)
    image.SetSpacing((SPACING[1], SPACING[0], SPACING[2]))
    image.SetOrigin(ORIGIN)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def circles(world, radius, turned=False, scale=1.0):
    """(z, points) of the outlines of a ball: of each slice the pixels around it, as LIDC draws them."""
    middle, found = index_of(world), []
    for number in range(SHAPE[0]):
        z = ORIGIN[2] + number * SPACING[2]
        flat = (scale * radius) ** 2 - (z - world[2]) ** 2
        if flat <= 0:
            continue
        angle = np.linspace(0, 2 * np.pi, 120)
        row = np.rint(middle[1] + (np.sqrt(flat) / SPACING[0] + 0.7) * np.sin(angle))
        column = np.rint(middle[2] + (np.sqrt(flat) / SPACING[1] + 0.7) * np.cos(angle))
        if turned:
            row, column = SHAPE[1] - 1 - row, SHAPE[2] - 1 - column
        found.append((z, list(dict.fromkeys(zip(column.tolist(), row.tolist(), strict=True)))))
    return found


def nodule_xml(rois, number=1, texture=5):
    """rois: (z, inclusion, points) each."""
    parts = []
    for z, included, points in rois:
        edges = "".join(
            f"<edgeMap><xCoord>{x:.0f}</xCoord><yCoord>{y:.0f}</yCoord></edgeMap>" for x, y in points
        )
        parts.append(
            f"<roi><imageZposition>{z}</imageZposition><imageSOP_UID>1.2</imageSOP_UID>"
            f"<inclusion>{str(included).upper()}</inclusion>{edges}</roi>"
        )
    scores = f"<characteristics><subtlety>4</subtlety><texture>{texture}</texture></characteristics>"
    return f"<unblindedReadNodule><noduleID>{number}</noduleID>{scores}{''.join(parts)}</unblindedReadNodule>"


def save_xml(path, uid, sessions):
    """sessions: of each reader, the XML of what was marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(f"<readingSession>{session}</readingSession>" for session in sessions)
    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><LidcReadMessage xmlns="http://www.nih.gov"><ResponseHeader>'
        f"<SeriesInstanceUid>{uid}</SeriesInstanceUid></ResponseHeader>{body}</LidcReadMessage>"
    )
