"""What a viewer page shows of a scan: parts of it that are small enough to send along, and its lesions."""

import base64
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from nibabel.nifti1 import Nifti1Header
from scipy import ndimage

from LeFusion.dataset.boxes import extent
from LeFusion.dataset.parts import numbered

MOST_VOXELS = 3_000_000  # of one picture: a larger scan is shown around its lesions, and coarsely as a whole
CONTEXT_MM = 32.0  # of a large scan around a lesion, at least
INT16 = np.iinfo(np.int16)
CT_WINDOWS = (("lung", -1000, 400), ("mediastinum", -160, 240))
PERCENTILES = ((1, 99), (5, 99.9), (0, 100))  # windows where units differ from scan to scan
Slices = tuple[slice, slice, slice]
Lesion = tuple[Slices, np.ndarray]  # its box in the scan, and where it is in that box


@dataclass(frozen=True, eq=False)
class Stored:
    """An image of which only parts are turned into values. raw: (D, H, W), a view of what a file holds."""

    raw: np.ndarray
    slope: float = 1.0
    inter: float = 0.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.raw.shape

    @property
    def size(self) -> int:
        return self.raw.size

    def __getitem__(self, part) -> np.ndarray:
        values = self.raw[part]
        return values if (self.slope, self.inter) == (1, 0) else values * self.slope + self.inter


Image = np.ndarray | Stored


@dataclass(frozen=True, eq=False)
class Version:
    """Lesions of a scan. labels: (D, H, W), 0 where there is no lesion, else its class or its number; image:
    (D, H, W), the scan with these lesions in it, None where nothing was painted. instances: labels are
    numbers; otherwise connected voxels are a lesion."""

    title: str
    labels: np.ndarray
    image: Image | None = None
    instances: bool = False


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan to look at. image: (D, H, W) in `unit` ("": arbitrary). affine: (4, 4), index (depth, row,
    column) to RAS mm. oriented: whether the affine tells left from right."""

    name: str
    image: Image
    versions: Sequence[Version]
    affine: np.ndarray
    oriented: bool
    unit: str


def scenes(scan: Scan) -> Iterator[dict]:
    """A scan as pictures for the page, each ready for JSON: whole, or coarsely and around its lesions."""
    lesions = [_lesions(version) for version in scan.versions]
    everything = tuple(slice(0, n) for n in scan.image.shape)
    if scan.image.size <= MOST_VOXELS:
        yield _scene(scan, lesions, scan.name, "", everything, (1, 1, 1))
        return
    steps = _steps(scan)
    coarse = f"whole, one voxel of {steps[2]} x {steps[1]} x {steps[0]} shown"
    yield _scene(scan, lesions, scan.name, coarse, everything, steps)
    for number, place in enumerate(_places(scan, lesions), start=1):
        yield _scene(scan, lesions, f"{scan.name}, part {number}", "cut out, all voxels", place, (1, 1, 1))


def _spacing(affine: np.ndarray) -> np.ndarray:
    return np.linalg.norm(affine[:3, :3], axis=0)


def _steps(scan: Scan) -> tuple[int, int, int]:
    """Every so many voxels are shown of a large scan, as evenly in mm as can be."""
    steps, spacing = np.ones(3, int), _spacing(scan.affine)
    while np.prod(-(-np.array(scan.image.shape) // steps)) > MOST_VOXELS:
        steps[np.argmin(steps * spacing)] += 1
    return tuple(steps.tolist())


def _places(scan: Scan, lesions: Sequence[list[Lesion]]) -> list[Slices]:
    """Boxes around the lesions of a large scan, one for all that lie near each other."""
    shape, rim = np.array(scan.image.shape), np.ceil(CONTEXT_MM / _spacing(scan.affine)).astype(int)
    boxes: list[tuple[np.ndarray, np.ndarray]] = []
    for of_version in lesions:
        for found, _ in of_version:
            start, end = (np.array([getattr(cut, side) for cut in found]) for side in ("start", "stop"))
            for index, (low, high) in enumerate(boxes):
                if (start >= low + rim // 2).all() and (end <= high - rim // 2).all():
                    boxes[index] = np.minimum(low, start - rim // 2), np.maximum(high, end + rim // 2)
                    break
            else:
                boxes.append((start - rim, end + rim))
    return [
        tuple(slice(int(a), int(b)) for a, b in zip(low.clip(0), np.minimum(high, shape), strict=True))
        for low, high in boxes
    ]


def _lesions(version: Version) -> list[Lesion]:
    if not version.labels.any():
        return []
    place = extent(version.labels > 0)
    inside = version.labels[place.slices]
    numbers = numbered(inside > 0, inside if version.instances else None)
    lesions = []
    for number, found in enumerate(ndimage.find_objects(numbers), start=1):
        if found is not None:
            where = tuple(
                slice(cut.start + s, cut.stop + s) for cut, s in zip(found, place.start, strict=True)
            )
            lesions.append((where, numbers[found] == number))
    return lesions


def _scene(
    scan: Scan,
    lesions: Sequence[list[Lesion]],
    name: str,
    note: str,
    place: Slices,
    steps: tuple[int, int, int],
) -> dict:
    whole = steps == (1, 1, 1)

    def picture(array: Image) -> np.ndarray:
        if whole:
            return array[place]
        middles = [
            np.minimum(np.arange(cut.start, cut.stop, k) + k // 2, cut.stop - 1)
            for cut, k in zip(place, steps, strict=True)
        ]
        return array[np.ix_(*middles)]

    def map_of(labels: np.ndarray) -> np.ndarray:
        part = np.minimum(labels[place], 255).astype(np.uint8)
        if whole:
            return part
        from skimage.measure import block_reduce  # here: it takes half a second, and only large scans need it

        return block_reduce(part, steps, np.max)

    start = np.array([cut.start for cut in place])
    grid = np.eye(4)
    grid[:3, :3] = np.diag(steps)
    grid[:3, 3] = start + (np.array(steps) - 1) / 2
    affine = (scan.affine @ grid)[:, [2, 1, 0, 3]]  # of columns, rows, slices, as the page stores voxels
    image = picture(scan.image)
    painted = [None if version.image is None else picture(version.image) for version in scan.versions]
    scale = _scale([image, *(array for array in painted if array is not None)], scan.unit)
    source = _stored(image, *scale)
    versions = []
    for version, array, found in zip(scan.versions, painted, lesions, strict=True):
        # Voxels that did not change cost nothing; a difference that overflows wraps around, here and there
        change = None if array is None else _box(_stored(array, *scale) - source)
        versions.append(
            {
                "title": version.title,
                "painted": array is not None,
                "change": change,
                "labels": _box(map_of(version.labels)),
                "lesions": _listed(found, scan.affine, place),
            }
        )
    return {
        "name": name,
        "note": note,
        "unit": scan.unit,
        "oriented": scan.oriented,
        "shape": list(source.shape[::-1]),
        "scale": list(scale),
        "index_of_mm": np.linalg.inv(scan.affine)[:3].tolist(),  # slice, row, column of the whole scan
        "windows": _windows(image, scan.unit),
        "volume": _packed(_header(source, affine, *scale) + source.tobytes()),
        "versions": versions,
    }


def _listed(lesions: Sequence[Lesion], affine: np.ndarray, place: Slices) -> list[dict]:
    """The lesions that lie in a place, with a voxel of each that is shown when one jumps to it."""
    rows = []
    for number, (found, mask) in enumerate(lesions, start=1):
        voxels = np.argwhere(mask)
        middle = voxels[np.square(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()]
        index = middle + [cut.start for cut in found]
        if all(cut.start <= i < cut.stop for i, cut in zip(index, place, strict=True)):
            mm3 = len(voxels) * abs(np.linalg.det(affine[:3, :3]))
            rows.append(
                {
                    "number": number,
                    "mm": np.round(affine[:3] @ [*index, 1], 3).tolist(),
                    "ml": round(mm3 / 1000, 3),
                    "ball_mm": round(float(np.cbrt(6 * mm3 / np.pi)), 1),
                }
            )
    return rows


def _windows(image: np.ndarray, unit: str) -> list[list]:
    """[name, darkest, brightest], the first is shown."""
    if unit == "HU":
        return [list(window) for window in CT_WINDOWS]
    windows = []
    for low, high in PERCENTILES:
        darkest, brightest = (float(v) for v in np.percentile(image, (low, high)))
        windows.append([f"{low:g} to {high:g} %", darkest, max(brightest, darkest + 1e-6)])
    return windows


def _scale(images: Sequence[np.ndarray], unit: str) -> tuple[float, float]:
    """(slope, inter) by which int16 numbers become values: whole numbers and HU as they are."""
    low, high = min(float(a.min()) for a in images), max(float(a.max()) for a in images)
    whole = all(np.array_equal(array, np.rint(array)) for array in images)
    if unit == "HU" or (whole and low >= INT16.min and high <= INT16.max):
        return 1.0, 0.0
    slope = (high - low) / (INT16.max - INT16.min) or 1.0
    return slope, low - INT16.min * slope


def _stored(values: np.ndarray, slope: float, inter: float) -> np.ndarray:
    scaled = np.rint((values.astype(np.float64) - inter) / slope)
    return np.ascontiguousarray(scaled.clip(INT16.min, INT16.max).astype("<i2"))


def _header(voxels: np.ndarray, affine: np.ndarray, slope: float, inter: float) -> bytes:
    """Of a NIfTI file of (D, H, W) int16 voxels, whose columns run fastest."""
    header = Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(voxels.shape[::-1])
    header.set_sform(affine, code=1)
    header["pixdim"][1:4] = _spacing(affine)
    header.set_slope_inter(slope, inter)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


def _box(array: np.ndarray) -> dict | None:
    """What of an array is not zero, in its bounding box; None where all is zero."""
    if not array.any():
        return None
    place = extent(array != 0)
    part = np.ascontiguousarray(array[place.slices])
    return {"start": list(place.start), "size": list(place.size), "data": _packed(part.tobytes())}


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()
