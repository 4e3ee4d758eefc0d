"""Trains a DiffMask network on lesion masks: from the sphere around a lesion to its shape.

    python DiffMask/train/train.py data_type=lidc dataset_root_dir=... test_txt_dir=... results_folder=...

The same command goes on where it stopped. Several processes: accelerate launch, or torchrun. All keys:
--help, or configs/diffmask_train.yaml.
"""

from pathlib import Path

import hydra
import numpy as np
import torch
from omegaconf import DictConfig

from DiffMask.dataset import MaskDataset, find_masks, hold_out
from DiffMask.losses import MaskLoss
from DiffMask.postprocess import clean_mask
from DiffMask.sampling import sample_masks
from DiffMask.settings import MaskTrainSettings
from DiffMask.shapes.validation import SAMPLER, ShapeValidation
from LeFusion.diffusion import NoiseSchedule, UNet3D
from LeFusion.runtime.commandline import (
    git_commit,
    given_path,
    given_test_list,
    output_folder,
    plain,
    run_command,
    say,
)
from LeFusion.runtime.overrides import any_path
from LeFusion.runtime.pictures import lesion_slice, save_contact_sheet
from LeFusion.training.network import new_network
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train


def run(settings: MaskTrainSettings) -> Path:
    """Trains as the settings say; returns the path of the last checkpoint."""
    results_folder = output_folder(settings.results_folder, "results_folder")
    trainer, prediction, layout = settings.trainer, settings.model.prediction, settings.layout
    size = settings.crop_size or list(settings.region_size)
    schedule = NoiseSchedule.cosine(settings.timesteps)
    loss_fn = MaskLoss(schedule, trainer.seed, settings.loss_type, prediction, settings.level_power)
    given = settings.model_dump(include={"sphere", "guide", "shrink", "skip_empty"})
    given |= {"size": size, "seed": trainer.seed}
    vary = settings.model_dump(include={"augment", "turns", "max_shift"})
    root, test_txt = given_path(settings.dataset_root_dir), given_test_list(settings.test_txt_dir)
    masks, held_out = find_masks(root, layout, test_txt, settings.split), {}
    if settings.validation_masks:
        masks, held_out = hold_out(masks, layout, settings.validation_share, trainer.seed)
    dataset = MaskDataset(masks, layout, **given, **vary)
    _report(dataset, "to train on")
    validate, shown = None, dataset
    if held_out:
        shown = MaskDataset(held_out, layout, **given)
        _report(shown, "held out")
        validate = ShapeValidation(
            shown,
            schedule,
            settings.validation_masks,
            settings.validation_steps,
            prediction,
            trainer.seed,
        )

    config = settings.model.of_network() | {"in_channels": 2, "out_channels": 1}
    network = new_network(config, size, trainer.seed, settings.init_weights)
    metadata = {
        "data_type": settings.data_type,
        "makes": "masks",
        "prediction": prediction,
        "sphere": settings.sphere,
        "guide": settings.guide,
        **({"ellipsoids": dataset.ellipsoids()} if settings.guide == "ellipsoid" else {}),
        "schedule": {"kind": "cosine", "num_steps": settings.timesteps},
        "size": size,
        "shrink": settings.shrink,
        "spacing_mm": list(dataset.spacing_mm),
        "lesion_labels": list(layout.lesion_labels),
        "loss": settings.model_dump(include={"loss_type", "level_power"}),
        "init_weights": settings.init_weights and Path(settings.init_weights).name,
        **vary,
        "masks": len(dataset),
        "validation": settings.model_dump(
            include={"validation_masks", "validation_share", "validation_steps"}
        ),
        "git_commit": git_commit(),
    }
    say(f"network of {sum(p.numel() for p in network.parameters()):,} parameters")
    sheet = _sample_sheet(shown, schedule, trainer, prediction)
    path = train(network, loss_fn, dataset, trainer, results_folder, metadata, sheet, validate)
    say(f"wrote {path}, loss.csv and loss.png in {results_folder}")
    return path


def _report(dataset: MaskDataset, what: str) -> None:
    diameters = np.quantile([lesion.diameter_mm for lesion in dataset.lesions], (0, 0.5, 1))
    say(
        f"{len(dataset)} masks {what}, diameters {diameters[0]:.1f} to {diameters[2]:.1f} mm (median "
        f"{diameters[1]:.1f}); {len(dataset.too_large)} larger than {dataset.size} "
        f"{'shrunk' if dataset.shrink else 'left out'}, {len(dataset.empty)} empty left out"
    )


def _sample_sheet(
    dataset: MaskDataset,
    schedule: NoiseSchedule,
    settings: TrainingSettings,
    prediction: str,
    shown: int = 6,
):
    """-> draw(network, path): lesions from small to large, their spheres, and what is made of those."""
    by_size = np.argsort([lesion.diameter_mm for lesion in dataset.lesions], kind="stable")
    chosen = by_size[np.unique(np.linspace(0, len(by_size) - 1, shown + 2).round().astype(int))]
    items = [dataset[int(i)] for i in (chosen[1:-1] if len(chosen) > 2 else chosen)]

    def draw(network: UNet3D, path: Path) -> None:
        soft = sample_masks(
            network,
            schedule,
            torch.stack([item["sphere"] for item in items]),
            [(settings.seed, "sample", item["name"]) for item in items],
            SAMPLER,
            min(20, schedule.num_steps),
            prediction,
        )
        rows, outlines, names = [], [], []
        for item, made in zip(items, soft[:, 0].numpy(), strict=True):
            real, sphere = item["mask"][0].numpy(), item["sphere"][0].numpy() == 1
            clean = clean_mask(made)
            level = lesion_slice(real > 0)
            rows.append([x[level] for x in (real, np.where(sphere, 1, -1), made)])
            outlines.append([None, real[level] > 0, None if clean is None else clean[level]])
            names.append(f"{item['name']}\n{item['diameter_mm']:.1f} mm")
        save_contact_sheet(path, rows, outlines, ["real", "guide, real", "generated"], names, (-1, 1))

    return draw


@any_path
@hydra.main(version_base=None, config_path="../../LeFusion/configs", config_name="diffmask_train")
def main(config: DictConfig) -> None:
    run_command(lambda: run(MaskTrainSettings.of(plain(config))))


if __name__ == "__main__":
    main()
