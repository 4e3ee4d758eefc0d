"""Which patient a file belongs to, and folds that never split a patient."""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from LeFusion.dataset.cases import patient_of as patient_of_case
from LeFusion.dataset.cases import stem
from LeFusion.dataset.storage import write_json
from LeFusion.errors import UserError

CHANNEL_SUFFIX = "_0000"


def case_name(name: str | os.PathLike) -> str:
    """A file's name without folder, NIfTI ending and nnU-Net's channel suffix."""
    return stem(Path(name).name).removesuffix(CHANNEL_SUFFIX)


def patient_of(name: str | os.PathLike) -> str:
    """The patient of an image, a mask or a synthetic image by its file's name, e.g. `A-0001_CVol_3.nii.gz` ->
    `A-0001`."""
    return patient_of_case(case_name(name))


def split_folds(names: Iterable[str], num_folds: int = 5, seed: int = 0) -> list[list[str]]:
    """Deals the cases to folds by patient; -> the validation cases of each fold, sorted.

    Patients with many cases are dealt first, each to the fold that has the fewest cases so far, so that the
    folds' sizes differ by at most one patient. Ties are dealt in an order drawn by `seed` from the patients'
    names alone: the order of `names` changes nothing.

    Raises ValueError for a name given twice and when there are fewer patients than folds.
    """
    names = sorted(names)
    repeated = {first for first, second in zip(names, names[1:], strict=False) if first == second}
    if repeated:
        raise UserError(f"the case {min(repeated)} is listed twice")
    cases = defaultdict(list)
    for name in names:
        cases[patient_of(name)].append(name)
    if not 2 <= num_folds <= len(cases):
        raise UserError(
            f"{len(cases)} patients cannot be dealt to {num_folds} folds; choose --num_folds between 2 and "
            "the number of patients"
        )

    def order(patient: str) -> tuple:
        drawn = hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()
        return -len(cases[patient]), drawn

    folds: list[list[str]] = [[] for _ in range(num_folds)]
    for patient in sorted(cases, key=order):
        min(folds, key=len).extend(cases[patient])
    return [sorted(fold) for fold in folds]


def patient_share(names: Sequence[str], share: float, seed: int = 0) -> list[str]:
    """The cases of a share of the patients, for studies with little data; at least one patient.

    Shares are nested: the patients of a smaller share are among those of a larger one.
    Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UserError(f"--real_fraction {share} must be above 0 and at most 1")
    patients = _drawn_patients(names, seed)
    kept = set(patients[: max(1, round(share * len(patients)))])
    return [name for name in names if patient_of(name) in kept]


def drawn_cases(names: Sequence[str], number: int, seed: int = 0) -> list[str]:
    """So many cases, for learning curves: one patient's after another's, the patients in an order drawn by
    `seed`.

    Draws with one seed are nested: the cases of a smaller number are among those of a larger one. Raises
    ValueError for a number below 1 or above that of the names.
    """
    if not 1 <= number <= len(names):
        raise UserError(
            f"--real_count {number} must be 1 to {len(names)}: so many real cases has the training part of "
            "this --fold"
        )
    rank = {patient: place for place, patient in enumerate(_drawn_patients(names, seed))}
    kept = set(sorted(names, key=lambda name: (rank[patient_of(name)], name))[:number])
    return [name for name in names if name in kept]


def _drawn_patients(names: Iterable[str], seed: int) -> list[str]:
    """All patients, in an order drawn by `seed` from their names alone."""
    return sorted(
        {patient_of(name) for name in names},
        key=lambda patient: hashlib.sha256(f"share/{seed}/{patient}".encode()).hexdigest(),
    )


def checked_folds(path: Path, names: Iterable[str], num_folds: int = 5, seed: int = 0) -> list[list[str]]:
    """The folds of the cases, after a check that the file `path`, if there is one, holds the same.

    Raises ValueError when the file is damaged or was made from other cases, folds or another seed.
    """
    made = _described_folds(names, num_folds, seed)
    if path.exists():
        try:
            stored = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UserError(f"{path}: is damaged; delete it to deal the folds again") from None
        if stored != made:
            raise UserError(
                f"{path}: holds the folds of other cases, another --num_folds or --split_seed; train into "
                "another --output_model_dir, or delete the file"
            )
    return made["validation"]


def stored_folds(path: Path, names: Iterable[str], num_folds: int = 5, seed: int = 0) -> list[list[str]]:
    """The folds in the file `path`; dealt and written there if there is no such file.

    It says beside a model which cases it was validated on, and that runs of one study had the same folds.
    Raises ValueError when the file is damaged or was made from other cases, folds or another seed.
    """
    names = list(names)
    folds = checked_folds(path, names, num_folds, seed)
    if not path.exists():
        write_json(path, _described_folds(names, num_folds, seed))
    return folds


def _described_folds(names: Iterable[str], num_folds: int, seed: int) -> dict:
    return {"num_folds": num_folds, "seed": seed, "validation": split_folds(names, num_folds, seed)}
