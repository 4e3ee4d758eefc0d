"""Trains a segmenter on real and synthetic cases, validated on one fold of the real patients.

    python run_segmentation_training.py --real_data_dir datasets/LIDC_real \\
        --synthetic_data_dir datasets/LeFusion_H_N_prime --model_name SwinUNETR \\
        --output_model_dir trained_models/LeFusion_H_P+N_prime_SwinUNETR --fold 0

The same command goes on where it stopped. Several processes: accelerate launch --multi_gpu, or torchrun.
Synthetic images made from the fold's validation patients are left out; one made from a test patient is an
error. The same --steps_per_epoch for real and for real + synthetic data gives both as many updates.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data.meta_obj import set_track_meta

from evaluation_pipeline.cases.patients import stored_folds
from evaluation_pipeline.cases.training_data import (
    SPLITS_FILE,
    TrainingData,
    check_fold,
    inspect,
    select_data,
)
from evaluation_pipeline.segmentation.models import (
    MODEL_NAMES,
    SIZES,
    build_model,
    default_learning_rate,
    default_patch_size,
)
from evaluation_pipeline.segmentation.preprocessing import (
    AddressedDataset,
    Preprocessing,
    augmentation,
    cached_dataset,
)
from evaluation_pipeline.segmentation.segmenter import assemble
from evaluation_pipeline.segmentation.training import SampleOrder, TrainingSettings, check_precision, train
from LeFusion.runtime.commandline import choose_device, command_parser, git_commit, run_with_flags, say

ORIGINAL = "nnUNetv2"
VALIDATIONS = 10  # of a training, unless --val_every says otherwise


def run(arguments: argparse.Namespace) -> Path:
    """Trains as the command line says; returns the path of the best model."""
    arguments.output_model_dir = output_dir = arguments.output_model_dir or default_folder(arguments)
    data = selected(arguments)
    (median_shape, spacing_mm, resample), data_sha256 = inspect(data)
    describe(data, arguments.fold)
    say(f"output_model_dir: {output_dir}")
    if arguments.model_name == ORIGINAL:
        from evaluation_pipeline.segmentation.nnunet_original import find_programs, train_original

        find_programs(arguments.max_epochs)
        metadata = described(data, arguments, data_sha256)
        store_folds(data, arguments)
        best = train_original(data, arguments.fold, arguments.max_epochs, output_dir, metadata)
        print(f"wrote {best}, which stands for nnU-Net's own files in {output_dir / 'nnunet'}")
        return best

    name, size = arguments.model_name, arguments.model_size
    patch_size = tuple(arguments.patch_size or default_patch_size(name, median_shape, spacing_mm, size))
    preprocessing = Preprocessing(data.real.modality, spacing_mm, resample, patch_size, data.real.window)
    settings = training_settings(arguments, len(data.items))
    order = SampleOrder(len(data.train), len(data.synthetic), arguments.synthetic_share, arguments.seed)
    model = {
        "name": name,
        "in_channels": 1,
        "out_channels": 1 + len(data.real.classes),
        "patch_size": list(patch_size),
        "size": size,
        "spacing_mm": list(spacing_mm),
    }
    torch.manual_seed(arguments.seed)
    network = build_model(**model)
    content = {
        "model": model,
        "preprocessing": preprocessing.as_dict(),
        "labels": data.real.classes,
        "metadata": described(data, arguments, data_sha256),
    }
    set_track_meta(False)  # plain tensors are faster, and nothing here needs MONAI's
    cached = cached_dataset(
        data.items, preprocessing, data.real.lesion_labels, arguments.cache_rate, progress=True
    )
    dataset = AddressedDataset(cached, augmentation(preprocessing), arguments.seed)
    segmenter = assemble(network, content, choose_device("cpu"))  # training moves the network
    parameters = sum(p.numel() for p in network.parameters())
    say(
        f"{name} ({size}, {parameters:,} parameters), patches of {' x '.join(map(str, patch_size))} voxels, "
        f"{settings.max_epochs} epochs of {settings.steps_per_epoch} steps of {settings.batch_size} samples"
    )
    store_folds(data, arguments)  # only now: a run that is refused leaves nothing behind
    best = train(network, dataset, order, data.validation, segmenter, settings, output_dir, content)
    say(f"wrote {best}, last_model.pt, curves.csv, curves.png and tensorboard/ in {output_dir}")
    return best


def selected(arguments: argparse.Namespace) -> TrainingData:
    """The cases of this training; see select_data."""
    return select_data(
        arguments.real_data_dir,
        synthetic_folders(arguments),
        arguments.fold,
        (arguments.output_model_dir or default_folder(arguments)) / SPLITS_FILE,
        arguments.num_folds,
        arguments.split_seed,
        arguments.real_fraction,
        arguments.synthetic_ratio,
        arguments.seed,
        arguments.real_count,
    )


def synthetic_folders(arguments: argparse.Namespace) -> list[Path]:
    return [Path(folder) for folder in arguments.synthetic_data_dir if folder.lower() != "none"]


def default_folder(arguments: argparse.Namespace) -> Path:
    """trained_models/<method>_<model>_fold<k>: a folder of its own for each method, number of real cases,
    model, fold and seed."""
    method = "+".join(folder.absolute().name for folder in synthetic_folders(arguments)) or "P"
    fold = "all" if arguments.fold is None else arguments.fold
    count = "" if arguments.real_count is None else f"_n{arguments.real_count}"
    seed = f"_seed{arguments.seed}" if arguments.seed else ""
    return Path("trained_models") / f"{method}{count}_{arguments.model_name}_fold{fold}{seed}"


def training_settings(arguments: argparse.Namespace, num_cases: int) -> TrainingSettings:
    """What the options say, with defaults that depend on the model and on the number of training cases."""
    name, batch_size = arguments.model_name, arguments.batch_size
    steps_per_epoch, val_every = arguments.steps_per_epoch, arguments.val_every
    learning_rate = arguments.learning_rate
    return TrainingSettings(
        name,
        arguments.max_epochs,
        batch_size,
        math.ceil(num_cases / max(1, batch_size)) if steps_per_epoch is None else steps_per_epoch,
        default_learning_rate(name) if learning_rate is None else learning_rate,
        math.ceil(arguments.max_epochs / VALIDATIONS) if val_every is None else val_every,
        arguments.val_overlap,
        arguments.seed,
        arguments.amp,
        arguments.num_workers,
        arguments.device,
    )


def check_options(arguments: argparse.Namespace) -> None:
    """Raises ValueError for options that no data would make good, before there are any."""
    check_fold(arguments.fold, arguments.num_folds)
    if arguments.model_name == ORIGINAL:
        from evaluation_pipeline.segmentation.nnunet_original import find_programs

        find_programs(arguments.max_epochs)
        return
    check_precision(training_settings(arguments, 1), choose_device(arguments.device).type)


def store_folds(data: TrainingData, arguments: argparse.Namespace) -> None:
    names = [case.name for case in data.real.train]
    stored_folds(arguments.output_model_dir / SPLITS_FILE, names, arguments.num_folds, arguments.split_seed)


def describe(data: TrainingData, fold: int | None) -> None:
    part = "all folds" if fold is None else f"fold {fold}"
    left_out = f" ({data.left_out} left out: made from cases it must not see)" if data.left_out else ""
    say(
        f"{part}: {len(data.train)} real and {len(data.synthetic)} synthetic training cases{left_out}, "
        f"{len(data.validation)} validation cases"
    )


def described(data: TrainingData, arguments: argparse.Namespace, data_sha256: str) -> dict[str, Any]:
    """What the checkpoint says of its training, in plain Python."""
    lesions = [name for name, value in data.real.labels.items() if value in data.real.lesion_labels]
    return {
        "lesions": lesions,
        **({"ignore": data.real.ignore} if data.real.ignore is not None else {}),
        "fold": "all" if arguments.fold is None else arguments.fold,
        "seed": arguments.seed,
        "real_data_dir": str(arguments.real_data_dir),
        "synthetic_data_dir": list(arguments.synthetic_data_dir),
        "real_fraction": arguments.real_fraction,
        "real_count": arguments.real_count,
        "synthetic_ratio": arguments.synthetic_ratio,
        "synthetic_share": arguments.synthetic_share,
        "real_cases": [case.name for case in data.train],
        "synthetic_sources": sorted(
            {name for image in data.synthetic for name in (image.name, image.donor) if name}
        ),
        "synthetic_cases": len(data.synthetic),
        "data_sha256": data_sha256,
        "git_commit": git_commit(),
    }


def fold(text: str) -> int | None:
    return None if text == "all" else int(text)


def share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1")
    return value


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    data = described.add_argument_group("data")
    data.add_argument("--real_data_dir", type=Path, required=True, help="made by prepare_real_dataset.py")
    data.add_argument(
        "--synthetic_data_dir",
        action="extend",
        nargs="+",
        default=[],
        help="folders of synthetic images (imagesTr/Image_1.. and labelsTr/Mask_1..); none: real cases only",
    )
    data.add_argument(
        "--fold",
        type=fold,
        default=0,
        help="0 to 4: validated on that fold of the patients, trained on the others (default 0, of five); "
        "all: no validation, best = last",
    )
    data.add_argument("--num_folds", type=int, default=5, help="folds of patients (default 5)")
    data.add_argument("--split_seed", type=int, default=0, help="deals the patients to the folds (default 0)")
    data.add_argument(
        "--real_fraction", type=float, default=1.0, help="share of the training patients used (default 1)"
    )
    data.add_argument(
        "--real_count",
        type=int,
        help="real training cases used, drawn by --seed; fewer are among more, for learning curves (default "
        "all)",
    )
    data.add_argument(
        "--synthetic_ratio",
        type=float,
        help="synthetic images drawn for each real case (default: all synthetic images are used)",
    )
    data.add_argument(
        "--synthetic_share",
        type=float,
        help="share of the training samples that is synthetic (default: by number of images)",
    )
    data.add_argument("--cache_rate", type=share, default=1.0, help="share held in memory (default 1)")
    data.add_argument("--num_workers", type=int, default=0, help="processes that load (default 0)")
    model = described.add_argument_group("model")
    model.add_argument("--model_name", choices=[*MODEL_NAMES, ORIGINAL], required=True)
    model.add_argument("--model_size", choices=SIZES, default="standard", help="small: for a CPU")
    model.add_argument("--patch_size", type=int, nargs=3, help="voxels in stored axes (default: by the data)")
    training = described.add_argument_group("training")
    training.add_argument(
        "--output_model_dir",
        type=Path,
        help="best_model.pt, curves, ... (default trained_models/<method>_<model>_fold<k>, where the method "
        "is the name of the synthetic folder, P for none; with _n<count> for --real_count and _seed<s> for a "
        "seed other than 0)",
    )
    training.add_argument("--max_epochs", type=int, default=100, help="default 100")
    training.add_argument(
        "--steps_per_epoch", type=int, help="updates in an epoch (default: one pass over the cases)"
    )
    training.add_argument("--batch_size", type=int, default=2, help="of each process (default 2)")
    training.add_argument("--learning_rate", type=float, help="default 0.01 for nnUNet, else 0.001")
    training.add_argument("--val_every", type=int, help="epochs (default: ten validations in all)")
    training.add_argument("--val_overlap", type=float, default=0.5, help="of sliding windows (default 0.5)")
    training.add_argument("--seed", type=int, default=0, help="default 0")
    training.add_argument("--amp", action="store_true", help="mixed precision, bfloat16 where possible")
    training.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if any")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
