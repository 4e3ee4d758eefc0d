"""Which images and masks a data set holds, what is wrong with their names and its split."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from LeFusion.check.facts import CaseFacts, CheckSettings, Finding, relative
from LeFusion.dataset.cases import Layout, find_cases, listed_name
from LeFusion.dataset.scans import find_scans
from LeFusion.errors import MissingFileError, UserError


def list_cases(settings: CheckSettings) -> tuple[list[CaseFacts], list[Finding]]:
    """The images and masks of a data set, not yet read, and what is wrong with their names.

    Raises FileNotFoundError when the folders or all images are missing.
    """
    layout, root = settings.layout, settings.root
    image_dir, mask_dir = _folders(root, layout)
    skipped, findings = [], []
    try:
        cases = find_cases(root, layout, skipped=skipped)
    except MissingFileError:
        raise
    except UserError as error:  # two images of one name
        reason, _, fix = str(error).replace(f"{root}{os.sep}", "").rpartition("; ")
        fix += "; until names are unique, masks cannot be looked for"
        findings.append(Finding("error", "two images have the same case name", reason, fix))
        return [CaseFacts(scan.name, scan.path, None) for scan in find_scans(image_dir)], findings
    facts = [CaseFacts(case.name, case.image_path, case.mask_path) for case in cases]
    paired = {path for case in cases for path in (case.image_path, case.mask_path)}
    for scan in find_scans(image_dir):
        path = scan.path
        if path in paired:
            continue
        message = next((text for text in skipped if text.startswith(f"{path}: ")), f"{path}: has no mask")
        single = CaseFacts(scan.name, path, None)
        reason = message.removeprefix(f"{path}: ").partition("; ")[0].replace(f"{root}{os.sep}", "")
        single.add(
            "error",
            "image without a mask",
            f"{relative(path, root)} ({reason})",
            "add the mask, correct its name or layout.mask_names, or take the image out",
        )
        facts.append(single)
    for path in (scan.path for scan in find_scans(mask_dir)):
        if path in paired or any(str(path) in text.partition(": ")[2] for text in skipped):
            continue
        single = CaseFacts("", None, path)
        single.add(
            "warning",
            "mask without an image (not used)",
            relative(path, root),
            "add the image, correct the mask's name or layout.mask_names, or take the mask out",
        )
        facts.append(single)
    return sorted(facts, key=lambda f: (f.image_path is None, f.name)), findings


def assign_split(facts: Sequence[CaseFacts], test_txt: Path | None, layout: Layout) -> list[Finding]:
    """Sets the split of every image, "test" or "train", and says what is wrong with test.txt."""
    images = {case.name: case for case in facts if case.image_path is not None}
    if test_txt is None:
        return [
            Finding(
                "warning",
                "there is no split",
                "test_txt_dir is empty",
                "list the names of the test images in a text file, one a line, and give it as test_txt_dir; "
                "or train on all cases with split=all",
            )
        ]
    try:
        lines = test_txt.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = "is no UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        fix = "write the names of the test images into it, one a line; an empty file for none"
        return [Finding("error", "the list of test images cannot be read", f"{test_txt} ({reason})", fix)]
    names = [listed_name(line) for line in lines if line.strip()]
    findings, alike = [], {name.casefold(): name for name in images}
    for name, times in Counter(names).items():
        if times > 1:
            fix = "remove the repeated lines"
            findings.append(Finding("warning", "name occurs more than once in test.txt", name, fix))
        if name not in images:
            near = alike.get(name.casefold())
            findings.append(
                Finding(
                    "error",
                    "name in test.txt is no image, so an image meant for testing may be trained on",
                    f"{name} (there is {near})" if near else name,
                    "correct the line: the image's file name without its ending, in the same case of letters",
                )
            )
    for name, case in images.items():
        case.split = "test" if name in names else "train"
    if images and all(case.split == "test" for case in images.values()):
        fix = "take lines out of test.txt"
        findings.append(Finding("error", "all images are test images", f"{len(images)} images", fix))
    return findings + _shared_patients(images, layout)


def patients_of(names: Sequence[str], layout: Layout) -> tuple[dict[str, str], str]:
    """A guess at the patient of each image, and the rule in words.

    The part of the name before the layout's image part (`A_Vol_1` -> `A`); in a name without, before the last
    underscore (`P1_2` -> `P1`) if a digit comes before it (`liver_2` stays) and not all would be one patient.
    """
    parts = [part for part, _ in layout.mask_names]
    patients = {}
    for name in names:
        part = next((part for part in parts if part in name), "_")
        before = name.rpartition(part)[0]
        patients[name] = before if before and (part != "_" or re.search(r"\d", before)) else name
    if not parts and len(set(patients.values())) == 1:
        patients = {name: name for name in names}
    return patients, f"the name before {' or '.join(parts) or 'the last underscore'}"


def _shared_patients(images: dict[str, CaseFacts], layout: Layout) -> list[Finding]:
    patients, rule = patients_of(list(images), layout)
    splits = defaultdict(set)
    for name, case in images.items():
        splits[patients[name]].add(case.split)
    return [
        Finding(
            "warning",
            f"the same patient in test and train (guess: a patient is {rule})",
            patient,
            "move all images of a patient to one side of the split, or ignore this where the guess is wrong",
        )
        for patient, found in sorted(splits.items())
        if len(found) > 1
    ]


def _folders(root: Path, layout: Layout) -> tuple[Path, Path]:
    """The folders of images and masks; whether they exist is for find_cases to say."""
    parent = root if (root / layout.image_folder).is_dir() else root.parent
    return parent / layout.image_folder, parent / layout.mask_folder
