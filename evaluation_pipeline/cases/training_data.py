"""Which real and synthetic cases a training sees, and which it is validated on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from evaluation_pipeline.cases.nnunet_layout import LabelledImage, RealDataset, read_dataset
from evaluation_pipeline.cases.patients import checked_folds, drawn_cases, patient_of, patient_share
from evaluation_pipeline.cases.synthetic import SyntheticImage, check_leakage, draw_synthetic, find_synthetic
from evaluation_pipeline.segmentation.preprocessing import check_pair, check_slices, fingerprint
from LeFusion.errors import UserError
from LeFusion.runtime.hashing import sha256_of_scan

SPLITS_FILE = "splits.json"


@dataclass(frozen=True)
class TrainingData:
    """train, validation: real cases of the fold. synthetic: what is added to train. left_out: how many
    synthetic images were made from validation cases, or from real cases that --real_fraction or --real_count
    leaves out."""

    real: RealDataset
    train: list[LabelledImage]
    validation: list[LabelledImage]
    synthetic: list[SyntheticImage]
    left_out: int

    @property
    def items(self) -> list[dict[str, Path]]:
        """Image and label files of the training, the real ones first."""
        return [{"image": case.image, "label": case.label} for case in (*self.train, *self.synthetic)]


def select_data(
    real_data_dir: Path,
    synthetic_data_dirs: Sequence[Path],
    fold: int | None,
    splits_path: Path,
    num_folds: int = 5,
    split_seed: int = 0,
    real_fraction: float = 1.0,
    synthetic_ratio: float | None = None,
    seed: int = 0,
    real_count: int | None = None,
) -> TrainingData:
    """The cases of one training. Writes nothing; splits_path: where the folds are or will be stored.

    fold: which part of the patients is for validation; None: none, all real training cases are trained on.
    real_fraction: the share of the patients of the fold's training part that is used. synthetic_ratio:
    synthetic images for each real one, drawn by `seed`; None: all. real_count: how many cases of the training
    part are used, drawn by `seed`, instead of a real_fraction; None: all.

    Raises FileNotFoundError and ValueError, above all for synthetic images made from test cases.
    """
    real = read_dataset(real_data_dir)
    cases = {case.name: case for case in real.train}
    check_fold(fold, num_folds)
    folds = checked_folds(splits_path, cases, num_folds, split_seed)
    validation = [] if fold is None else folds[fold]
    shared = sorted({patient_of(name) for name in cases} & {patient_of(case.name) for case in real.test})
    if shared:
        raise UserError(
            f"{real_data_dir}: {len(shared)} patients are in the training and the test set "
            f"({', '.join(shared[:5])}); make the data set again with prepare_real_dataset.py"
        )
    held_out = set(validation)
    candidates = [name for name in cases if name not in held_out]
    if real_count is None:
        train = patient_share(candidates, real_fraction, split_seed)
    elif real_fraction == 1:
        train = drawn_cases(candidates, real_count, seed)
    else:
        raise UserError(f"--real_count {real_count} and --real_fraction {real_fraction}: give one of them")
    # Images made from patients whom the training is not to know would bring them in by the back door
    unknown = [name for name in cases if name not in set(train)]
    kept, left_out = check_leakage(
        find_synthetic(synthetic_data_dirs, real.layout), unknown, [case.name for case in real.test]
    )
    if synthetic_data_dirs and not kept:
        raise UserError(
            f"all {len(left_out)} synthetic images were made from cases that the training must not see; "
            "generate more, choose another --fold, or leave out --synthetic_data_dir"
        )
    if synthetic_ratio is not None:
        if not synthetic_data_dirs or synthetic_ratio <= 0:
            raise UserError(
                f"--synthetic_ratio {synthetic_ratio} must be above 0 and needs --synthetic_data_dir"
            )
        kept = draw_synthetic(kept, max(1, round(synthetic_ratio * len(train))), seed)
    chosen = ([cases[name] for name in names] for names in (train, validation))
    return TrainingData(real, *chosen, kept, len(left_out))


def check_fold(fold: int | None, num_folds: int) -> None:
    """Raises ValueError for a fold that is none of so many; None stands for all."""
    if fold is not None and not 0 <= fold < num_folds:
        raise UserError(f"--fold {fold} must be 0 to {num_folds - 1}, or all")


def inspect(data: TrainingData) -> tuple[tuple, str]:
    """((median shape, median spacing in mm, whether they differ), SHA-256 over all files), of the real cases
    and of all cases. Reads and checks every pair, so that a bad file stops the run at once."""
    digest = hashlib.sha256()
    shapes, spacings = [], []
    pairs = [*data.train, *data.synthetic, *data.validation]
    for case in tqdm(pairs, unit="case", desc="checking", leave=False):
        shape, spacing_mm = check_pair(case.image, case.label, data.real.label_values)
        shapes.append(shape)
        spacings.append(spacing_mm)
        for path in (case.image, case.label):
            digest.update(bytes.fromhex(sha256_of_scan(path)))
    check_slices([case.image for case in pairs], spacings)
    real = len(data.train)  # synthetic data does not change the network's plan: runs stay comparable
    return fingerprint(shapes[:real], spacings[:real]), digest.hexdigest()
