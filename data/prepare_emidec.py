"""Make the folders of EMIDEC from its original archive.

    python data/prepare_emidec.py --archive emidec-dataset-1.0.1 --out data/EMIDEC

`--archive` is the unpacked archive: Case_P001/Images/Case_P001.nii.gz with its labels in Contours/, and so
on; N are normal cases, P pathological ones. Writes, below `--out`, Pathological/images and labels,
Normal/images and labels, and Pathological/test.txt (the test cases of LeFusion, or `--test-txt`, or a share).
Voxels, intensities and geometry stay as they are; the labels are brought to the grid of their image.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from phantoms.nodules import draw_test_patients
from phantoms.volumes import write_bytes
from preparation.command import finish
from tqdm import tqdm

from LeFusion.dataset.scans import find_scans, read_volume, write_label_like, write_volume
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError

LABELS = {0: "background", 1: "cavity", 2: "myocardium", 3: "infarct", 4: "no-reflow"}
LESIONS = (3, 4)
KINDS = {"P": "Pathological", "N": "Normal"}
TEST_TXT = Path(__file__).resolve().parents[1] / "configs" / "splits" / "emidec_test.txt"


def find_cases(archive: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> (image, labels) of every case. Raises UserError for one that lacks either."""
    if not archive.is_dir():
        raise FileNotFoundError(f"--archive {archive}: no such folder")
    found = {}
    for folder in sorted(archive.rglob("Case_*")):
        if not folder.is_dir():
            continue
        if folder.name[5:6] not in KINDS:
            raise UserError(f"{folder}: is no case of EMIDEC, Case_P... or Case_N...")
        parts = []
        for part in ("Images", "Contours"):
            scans = find_scans(folder / part) if (folder / part).is_dir() else []
            if len(scans) != 1:
                raise UserError(
                    f"{folder / part}: holds {len(scans)} files instead of one; unpack the archive again"
                )
            parts.append(scans[0].path)
        if folder.name in found:
            raise UserError(f"{folder}: {folder.name} is there twice; keep one")
        found[folder.name] = tuple(parts)
    if not found:
        raise UserError(
            f"{archive}: holds no folder Case_P... or Case_N...; give the unpacked archive of EMIDEC"
        )
    return found


def read_labels(path: Path, image: Volume, pathological: bool) -> tuple[Volume, np.ndarray]:
    """The labels on the grid of their image. Raises UserError for other values, and for lesions in a normal
    case."""
    volume = on_grid_of(read_volume(path), image)
    values = volume.labels
    odd = sorted(set(volume.found_labels.tolist()) - set(LABELS))
    if odd:
        raise UserError(f"{path}: holds the values {odd[:5]}; EMIDEC's labels are {LABELS}")
    lesion = np.isin(values, LESIONS)
    if lesion.any() and not pathological:
        raise UserError(
            f"{path}: is of a normal case, but holds {np.count_nonzero(lesion)} voxels of infarct"
        )
    return volume, values.astype(np.uint8)


def prepare(options: argparse.Namespace) -> None:
    """Checks all cases, then writes."""
    if options.test_share is not None and not 0 <= options.test_share < 1:
        raise ValueError(f"--test-share {options.test_share}: must be at least 0 and below 1")
    cases = find_cases(options.archive)
    pathological = {name for name in cases if KINDS[name[5]] == "Pathological"}
    healthy = []
    for check in (True, False):
        for name, (image_path, label_path) in tqdm(
            cases.items(), unit="case", desc="checking" if check else "writing", disable=None
        ):
            image = read_volume(image_path)
            volume, labels = read_labels(label_path, image, name in pathological)
            if check:
                if name in pathological and not np.isin(labels, LESIONS).any():
                    healthy.append(name)
                continue
            folder = options.out / KINDS[name[5]]
            write_volume(replace(image, path=folder / "images" / f"{name}.nii.gz"))
            write_label_like(volume, labels, folder / "labels" / f"{name}.nii.gz")
    if not pathological:
        print(f"{options.out}: {len(cases)} normal cases, none pathological")
        return
    test = _test_cases(sorted(pathological), options)
    write_bytes(options.out / "Pathological" / "test.txt", "".join(f"{name}\n" for name in test).encode())
    print(
        f"{options.out}: {len(pathological)} pathological cases, {len(test)} of them in test.txt; "
        f"{len(cases) - len(pathological)} normal ones"
    )
    if healthy:
        print(
            f"note: {', '.join(healthy)} hold no infarct; training leaves such cases out with "
            "skip_bad_cases=true"
        )


def _test_cases(names: list[str], options: argparse.Namespace) -> list[str]:
    if options.test_share is not None:
        return sorted(draw_test_patients(names, options.test_share, options.seed, options.test_txt))
    path = options.test_txt or TEST_TXT
    listed = path.read_text(encoding="utf-8").split()
    absent = sorted(set(listed) - set(names))
    if absent and options.test_txt:
        raise UserError(f"{path}: lists {', '.join(absent[:5])}, not found in {options.archive}")
    if absent:
        print(f"note: {len(absent)} of LeFusion's {len(listed)} test cases are not in {options.archive}")
    return sorted(set(listed) & set(names))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="prepare_emidec.py", description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, required=True, help="the unpacked archive of EMIDEC")
    parser.add_argument("--out", type=Path, required=True, help="folder for Pathological and Normal")
    parser.add_argument("--test-txt", type=Path, help="list of test cases (default: those of LeFusion)")
    parser.add_argument("--test-share", type=float, help="draw this share of the cases instead, 0 to 1")
    parser.add_argument("--seed", type=int, default=0, help="of that draw")
    options = parser.parse_args(arguments)
    return finish("prepare_emidec.py", lambda: prepare(options))


if __name__ == "__main__":
    sys.exit(main())
