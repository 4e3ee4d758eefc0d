"""Trains a LeFusion network on lesions.

    python LeFusion/train/train.py data_type=lidc dataset_root_dir=... test_txt_dir=... results_folder=...

The same command goes on where it stopped. Several processes: accelerate launch, or torchrun. All keys:
--help, or configs/train.yaml.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from LeFusion.dataset.augmentation import Augmentation, HistogramMatching
from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.diffusion import NoiseSchedule, UNet3D
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.losses import LesionLoss
from LeFusion.painting import SamplerSettings, paint
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
from LeFusion.settings import TrainSettings
from LeFusion.textures.palette import load_palette
from LeFusion.textures.table_files import load_lesion_table
from LeFusion.training.network import new_network
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train


def run(settings: TrainSettings) -> Path:
    """Trains as the settings say; returns the path of the last checkpoint."""
    for key in ("like_size", "lesion_table"):
        if getattr(settings, key) and not settings.histogram_matching:
            raise UserError(f"{key}={getattr(settings, key)} is for histogram_matching above 0; set both")
    results_folder = output_folder(settings.results_folder, "results_folder")
    trainer = settings.trainer
    denoiser = Denoiser(settings.model.context, settings.model.prediction)
    loss = settings.loss.model_dump() | {"histogram_weight": trainer.histogram_loss}
    size = settings.crop_size or list(settings.region_size)
    dataset = _dataset(settings, size)
    for index in range(len(dataset)):  # a bad file should stop the run now, not in the middle of the night
        dataset[index]

    config = settings.model.of_network() | {
        "in_channels": denoiser.in_channels(settings.classes),
        "out_channels": settings.classes,
        "cond_dim": settings.cond_dim,
    }
    network = new_network(config, size, trainer.seed, settings.init_weights)
    schedule = NoiseSchedule.cosine(settings.timesteps)
    loss_fn = LesionLoss(schedule, trainer.seed, **loss, denoiser=denoiser)
    metadata = _metadata(settings, dataset, size, loss)
    say(f"{len(dataset)} cases, network of {sum(p.numel() for p in network.parameters()):,} parameters")
    sheet = _sample_sheet(dataset, schedule, trainer, denoiser)
    path = train(network, loss_fn, dataset, trainer, results_folder, metadata, sheet)
    say(f"wrote {path}, loss.csv and loss.png in {results_folder}")
    return path


def _dataset(settings: TrainSettings, size: Sequence[int]) -> LesionDataset:
    """The cases to train on, and what is changed in them at random. size: of the boxes, (D, H, W)."""
    root, test_txt = given_path(settings.dataset_root_dir), given_test_list(settings.test_txt_dir)
    cases = find_cases(root, settings.layout, test_txt, settings.split)
    bins, trainer = settings.histogram_bins, settings.trainer
    textures = load_palette(settings.textures, settings.cond_dim, bins, settings.data_type, settings.window)
    cache_bytes = settings.cache_gb * 1e9 if settings.cache else 0
    matching = HistogramMatching(
        settings.histogram_matching,
        textures.histograms,
        textures.reference_mean,
        settings.like_size,
        _lesion_table(settings),
    )
    return LesionDataset(
        cases,
        settings.layout,
        size=size,
        window=settings.window,
        bins=bins,
        region="random" if settings.crop_size else "whole",
        augmentation=Augmentation(settings.augment, settings.turns, settings.lesion_contrast, matching),
        edit_margin_mm=settings.edit_margin_mm,
        least_margin_mm=settings.least_margin_mm,
        spacing_mm=settings.spacing_mm,
        seed=trainer.seed,
        cache_bytes=cache_bytes / (1 + trainer.num_workers),  # every loader has a copy
    )


def _metadata(
    settings: TrainSettings, dataset: LesionDataset, size: Sequence[int], loss: dict[str, Any]
) -> dict[str, Any]:
    """What the checkpoints say of the training."""
    return {
        "data_type": settings.data_type,
        "context": settings.model.context,
        "prediction": settings.model.prediction,
        "schedule": {"kind": "cosine", "num_steps": settings.timesteps},
        "window": settings.window,
        "spacing_mm": settings.spacing_mm,
        "size": size,
        "region": "lesion" if settings.crop_size else "whole",
        "histogram_bins": settings.histogram_bins,
        "lesion_labels": list(settings.layout.lesion_labels),
        "loss": loss,
        "augment": settings.augment,
        "turns": settings.turns,
        "edit_margin_mm": settings.edit_margin_mm,
        "edit_margins_mm": [dataset.margins_mm[0], dataset.margins_mm[-1]],
        "lesion_contrast": settings.lesion_contrast,
        "histogram_matching": settings.histogram_matching,
        "like_size": settings.like_size,
        "lesion_table": settings.lesion_table and Path(settings.lesion_table).name,
        "init_weights": settings.init_weights and Path(settings.init_weights).name,
        "cases": len(dataset),
        "git_commit": git_commit(),
    }


def _lesion_table(settings: TrainSettings):
    """-> draw(volume in mm3, generator) of the table of real lesions; None without one."""
    if not settings.lesion_table:
        return None
    if settings.classes > 1:
        raise UserError(
            f"lesion_table={settings.lesion_table}: its lesions have one class, those of this run "
            f"{settings.classes}; leave it out"
        )
    return load_lesion_table(
        given_path(settings.lesion_table), settings.data_type, settings.window, settings.histogram_bins
    ).draw_whole


def _sample_sheet(
    dataset: LesionDataset,
    schedule: NoiseSchedule,
    settings: TrainingSettings,
    denoiser: Denoiser,
    shown: int = 6,
):
    """-> draw(network, path): the first few training lesions beside what the network paints for them."""

    def draw(network: UNet3D, path: Path) -> None:
        rows, outlines, names = [], [], []
        for index in range(min(shown, len(dataset))):
            item = dataset[index]
            batch = collate([item])
            image, lesions = batch["image"], batch["lesions"]
            walk = SamplerSettings("dpmpp", num_steps=min(15, schedule.num_steps))
            address = (settings.seed, "sample", item["name"])
            given = (image, lesions, batch["histogram"], [address], denoiser, batch["edit"])
            painted = paint(network, schedule, walk, *given)
            where = lesions[0].any(dim=0).numpy()
            level = lesion_slice(where)
            rows.append([x[0, 0, level].numpy() for x in (image, painted)])
            outlines.append([where[level], None])
            names.append(item["name"])
        save_contact_sheet(path, rows, outlines, ["real, outline", "painted"], names, (-1, 1))

    return draw


@any_path
@hydra.main(version_base=None, config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    run_command(lambda: run(TrainSettings.of(plain(config))))


if __name__ == "__main__":
    main()
