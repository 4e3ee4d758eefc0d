"""Brings real and painted cases into nnU-Net v2's raw layout, which all other commands of this folder read.

    python prepare_real_dataset.py --source_image_dir ../data/LIDC/Pathological/Image \\
        --source_mask_dir ../data/LIDC/Pathological/Mask --test_txt_path ../data/LIDC/Pathological/test.txt \\
        --output_dir datasets/LIDC_real
    python prepare_real_dataset.py --synthetic_data_dir out --output_dir nnUNet_raw/Dataset101_Painted

Painted images (Image_1/, Mask_1/, ... of LeFusion) become training cases, beside real ones where both are
given: <case>_painted_<type>. One that was made from a test patient is refused.

Everything is checked before the first file is written. The same command again completes what is missing.
nnU-Net's own check, where nnunetv2 is installed: nnUNetv2_plan_and_preprocess --verify_dataset_integrity.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation_pipeline.cases.nnunet_layout import (
    DESCRIPTION,
    SPLITS,
    check_labels,
    description,
    file_names,
    own_settings,
    write_description,
)
from evaluation_pipeline.cases.patients import case_name, patient_of
from evaluation_pipeline.cases.synthetic import SyntheticImage, check_leakage, find_synthetic
from evaluation_pipeline.segmentation.preprocessing import check_pair
from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import PAINTED, Case, Layout, find_cases, refuse_among_sources
from LeFusion.dataset.scans import read_volume, write_label_like, write_volume
from LeFusion.dataset.storage import write_json
from LeFusion.dataset.volume import Volume
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import command_parser, given_path, run_with_flags
from LeFusion.runtime.hashing import sha256_of_scan

ROUNDING_MM = 1e-3  # of affines in NIfTI, which other formats keep with more digits
SOURCES = "sources.json"  # what the folder was made from
SOURCE_OPTIONS = ("source_image_dir", "source_mask_dir", "test_txt_path")


def prepare(
    source_image_dir: Path | None,
    source_mask_dir: Path | None,
    test_txt_path: Path | None,
    output_dir: Path,
    data_type: str = "lidc",
    labels: dict[str, int] | None = None,
    channel_name: str | None = None,
    overwrite: bool = False,
    synthetic_data_dir: Sequence[Path] = (),
) -> int:
    """Writes the data set; -> how many files were written now. The sources None: of painted images alone.

    Raises FileNotFoundError and ValueError, before anything is written: images without a mask, unknown label
    values, geometry that differs between image and mask, an empty split, test cases that do not exist, a
    patient in both splits, an output_dir made from other sources, images painted from a test patient.
    """
    kind = load_data_type(data_type)
    own = own_settings(kind, named=labels is None)
    labels, channel_name = labels or dict(kind.label_names), channel_name or kind.modality
    check_labels(labels)
    given = _sources(source_image_dir, source_mask_dir, test_txt_path, synthetic_data_dir)
    refuse_among_sources({"--output_dir": output_dir}, (*given[:2], *synthetic_data_dir))
    splits: dict[str, list[Case]] = {split: [] for split in SPLITS}
    if given:
        layout = Layout(*(str(folder.absolute()) for folder in given[:2]), kind.layout.mask_names)
        for split in SPLITS:
            splits[split] = find_cases(given[0], layout, given[2], split)
        _check_patients(splits, given[2])
    painted = find_synthetic(synthetic_data_dir, kind.layout)
    check_leakage(painted, (), [case.name for case in splits["test"]])
    planned = _plan(splits, painted)
    values = [0, *sorted(labels.values())]
    pairs = [(case.image_path, case.mask_path) for split in splits.values() for case in split]
    for pair in tqdm(
        [*pairs, *((image.image, image.label) for image in painted)], unit="case", desc="checking"
    ):
        check_pair(*pair, values)
    content = description(channel_name, labels, len(splits["train"]) + len(painted), own)
    sources = {name: sha256_of_scan(source) for name, source in planned.items()}
    _claim(output_dir, {"description": content, "files": sources}, overwrite)

    written = sum(
        _bring(read_volume(source), output_dir / name, labels=not name.startswith("images"))
        for name, source in tqdm(planned.items(), unit="file", desc="writing")
    )
    write_description(output_dir, content)  # last: without it the folder is not taken for a data set
    return written


def _bring(source: Volume, target: Path, labels: bool) -> bool:
    """Writes a copy, of masks one without scale factor, unless just that is there; whether it wrote."""
    stored = source.labels.astype(np.uint8) if labels else source.raw
    if target.exists():
        try:
            there = read_volume(target)
        except UserError:
            print(f"{target}: is damaged and is written again")
        else:
            same = there.raw.dtype == stored.dtype and np.array_equal(there.raw, stored)
            if same and np.allclose(there.affine, source.affine, atol=ROUNDING_MM):
                return False
            print(f"{target}: is not what was written there and is written again")
    if labels:
        write_label_like(source, stored, target)
    else:
        write_volume(replace(source, path=target))
    return True


def _check_patients(splits: dict[str, list[Case]], test_txt_path: Path) -> None:
    """A patient of whom one scan is for training and another for testing would flatter every result."""
    patients = {split: {patient_of(case.name) for case in cases} for split, cases in splits.items()}
    shared = sorted(patients["train"] & patients["test"])
    if shared:
        raise UserError(
            f"{test_txt_path}: {len(shared)} patients have cases in the test set and others in the training "
            f"set ({', '.join(shared[:5])}); list all cases of these patients, or none"
        )


def _sources(
    images: Path | None, masks: Path | None, test_txt: Path | None, painted: Sequence[Path]
) -> tuple[Path, Path, Path] | tuple[()]:
    """Those of the real cases, all or none of them."""
    if images is None and masks is None and test_txt is None and painted:
        return ()
    if images is None or masks is None or test_txt is None:
        options = ", ".join(f"--{name}" for name in SOURCE_OPTIONS)
        raise UserError(f"give {options} of the real cases, or none of them and --synthetic_data_dir")
    for folder, option in ((images, "--source_image_dir"), (masks, "--source_mask_dir")):
        if not folder.is_dir():
            raise MissingFileError(f"{option} {folder}: no such folder")
    return images, masks, test_txt


def _plan(splits: dict[str, list[Case]], painted: Sequence[SyntheticImage]) -> dict[str, Path]:
    """Path below the output folder -> the file that it is made from."""
    cases = [
        (split, case_name(case.name), (case.image_path, case.mask_path))
        for split, found in splits.items()
        for case in found
    ]
    cases += [("train", f"{one.name}{PAINTED}{one.kind}", (one.image, one.label)) for one in painted]
    planned: dict[str, Path] = {}
    for split, name, sources in cases:
        for folder, file_name, source in zip(SPLITS[split], file_names(name), sources, strict=True):
            before = planned.setdefault(f"{folder}/{file_name}", source)
            if before is not source:
                raise UserError(f"{source}: there is a case of this name and type already, {before}")
    return planned


def _claim(output_dir: Path, sources: dict, overwrite: bool) -> None:
    """Notes what the folder is made from; with other sources it is cleared of its files, or refused."""
    path = output_dir / SOURCES
    stored = _stored_sources(path)
    if stored == sources:
        return
    if stored is None and any(
        (output_dir / name).exists() for name in (DESCRIPTION, *sum(SPLITS.values(), ()))
    ):
        raise UserError(f"{output_dir}: holds a data set that this command did not write; choose another")
    if stored is not None and not overwrite:
        raise UserError(
            f"{output_dir}: was made from other files or with other labels; choose another --output_dir, or "
            "replace it with --overwrite"
        )
    if stored is not None:
        for name in (DESCRIPTION, *stored["files"]):
            (output_dir / name).unlink(missing_ok=True)
    write_json(path, sources)
    for folder in sum(SPLITS.values(), ()):
        (output_dir / folder).mkdir(exist_ok=True)


def _stored_sources(path: Path) -> dict | None:
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        names = [Path(name) for name in stored["files"]]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: is damaged; delete the folder to make the data set again") from None
    folders = sum(SPLITS.values(), ())
    if any(len(name.parts) != 2 or name.parts[0] not in folders for name in names):  # they may be deleted
        raise UserError(f"{path}: names files outside {', '.join(folders)}; delete the folder")
    return stored


def _label(text: str) -> tuple[str, int]:
    name, separator, value = text.partition("=")
    if not (separator and name and value.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} must be name=value, such as infarct=3")
    return name, int(value)


def run(arguments: argparse.Namespace) -> None:
    chosen = vars(arguments) | {"labels": dict(arguments.labels) if arguments.labels else None}
    chosen |= {name: given_path(path) for name, path in chosen.items() if name in SOURCE_OPTIONS}
    chosen["synthetic_data_dir"] = [given_path(path) for path in arguments.synthetic_data_dir]
    written = prepare(**chosen)
    output = arguments.output_dir
    counts = {split: len(list((output / SPLITS[split][0]).glob("[!.]*.nii.gz"))) for split in SPLITS}
    print(
        f"{output}: {counts['train']} training and {counts['test']} test cases, {written} files written now, "
        f"{output / DESCRIPTION}"
    )


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    add = described.add_argument
    add("--source_image_dir", type=Path, help="images, also in sub-folders")
    add("--source_mask_dir", type=Path, help="their masks")
    add("--test_txt_path", type=Path, help="names of the test images, one a line")
    add(
        "--synthetic_data_dir",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="painted images for the training part: folders with Image_1/ and Mask_1/, or with Image/ and "
        "Mask/, or imagesTr/ and labelsTr/, that hold those",
    )
    add("--output_dir", type=Path, required=True, help="where the data set goes")
    add(
        "--data_type",
        default="lidc",
        help="how masks are named and labelled, and the CT window: a name in configs/data_type, such as lidc "
        "(_Vol_ / _Mask_, 1), emidec (same names, 1 to 4) or nnunet (case_0000 / case, 1), or a YAML file "
        "like those; default lidc",
    )
    add(
        "--labels",
        type=_label,
        nargs="+",
        metavar="NAME=VALUE",
        help="other labels than the data type's, such as liver=1 tumour=2. What is called cavity, myocardium "
        "or background is no lesion",
    )
    add("--channel_name", help="CT (the data type's window) or MR (each volume's own mean and deviation)")
    add("--overwrite", action="store_true", help="replace a data set that was made from other files")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
