"""Lists the scans that nothing may be painted into, for test_txt_dir= of LeFusion/inference/inference.py.

    python held_out_sources.py --source_dir ../data/LIDC/Normal \\
        --test_txt_path ../data/LIDC/Pathological/test.txt --output_txt datasets/held_out.txt

These are the test cases and all other scans of their patients, such as normal regions cut from the same CT:
A_Vol_1 in the list holds back A_CVol_1 as well. A training refuses images that were made from them.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluation_pipeline.cases.patients import patient_of
from LeFusion.dataset.cases import find_images, read_names
from LeFusion.dataset.storage import write_text
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, given_path, run_with_flags

IMAGE_FOLDERS = ("Image", "images", "imagesTr")  # of lungs, hearts and nnU-Net's layout


def held_out(scans: Sequence[str], test_names: Iterable[str]) -> list[str]:
    """Those of the scans that are of a patient in test_names, in their order."""
    patients = {patient_of(name) for name in test_names}
    return [name for name in scans if patient_of(name) in patients]


def run(arguments: argparse.Namespace) -> None:
    source_dir, test_txt = given_path(arguments.source_dir), given_path(arguments.test_txt_path)
    folder = next((source_dir / name for name in IMAGE_FOLDERS if (source_dir / name).is_dir()), source_dir)
    test_names = read_names(test_txt)
    scans = list(find_images(folder))
    found = held_out(scans, test_names)
    if len(found) == len(scans):
        raise UserError(
            f"{folder}: all {len(scans)} scans are of patients of {test_txt}; nothing is left to paint into"
        )
    write_text(arguments.output_txt, "".join(f"{name}\n" for name in sorted({*found, *test_names})))
    print(
        f"{len(found)} of {len(scans)} scans in {folder} are of patients of {test_txt}; "
        f"wrote {arguments.output_txt}"
    )


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    add = described.add_argument
    add("--source_dir", type=Path, required=True, help="dataset_root_dir of inference.py")
    add("--test_txt_path", type=Path, required=True, help="names of the test images, one a line")
    add("--output_txt", type=Path, required=True, help="where the list goes")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
