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
from DiffMask.shapes.validation import SAMPLER, ShapeValidation
from LeFusion.dataset.cases import Layout
from LeFusion.diffusion import NoiseSchedule, UNet3D, start_from
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import (
    check_whole_numbers,
    git_commit,
    given_path,
    output_folder,
    output_path,
    plain,
    required_path,
    run_command,
    say,
)
from LeFusion.runtime.pictures import lesion_slice, save_contact_sheet
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train


def run(config: dict) -> Path:
    """Trains as the composed configuration says; returns the path of the last checkpoint."""
    results_folder = output_folder(output_path(config, "results_folder"), "results_folder")
    settings, model, prediction = parts(config)
    check_whole_numbers(
        config,
        diffusion_depth_size=1,
        diffusion_img_size=1,
        timesteps=1,
        validation_masks=0,
        validation_steps=1,
    )
    layout = Layout(**config["layout"])
    size = config["crop_size"] or [
        config["diffusion_depth_size"],
        config["diffusion_img_size"],
        config["diffusion_img_size"],
    ]
    schedule = NoiseSchedule.cosine(config["timesteps"])
    loss_fn = MaskLoss(schedule, settings.seed, config["loss_type"], prediction, config["level_power"])
    given = {
        "size": size,
        "sphere": config["sphere"],
        "guide": config["guide"],
        "shrink": config["shrink"],
        "skip_empty": config["skip_empty"],
        "seed": settings.seed,
    }
    vary = {key: config[key] for key in ("augment", "turns", "max_shift")}
    root, test_txt = required_path(config, "dataset_root_dir"), given_path(config["test_txt_dir"])
    masks, held_out = find_masks(root, layout, test_txt, config["split"]), {}
    if config["validation_masks"]:
        masks, held_out = hold_out(masks, layout, config["validation_share"], settings.seed)
    dataset = MaskDataset(masks, layout, **given, **vary)
    _report(dataset, "to train on")
    validate, shown = None, dataset
    if held_out:
        shown = MaskDataset(held_out, layout, **given)
        _report(shown, "held out")
        validate = ShapeValidation(
            shown,
            schedule,
            config["validation_masks"],
            config["validation_steps"],
            prediction,
            settings.seed,
        )

    torch.manual_seed(settings.seed)
    network = UNet3D(in_channels=2, out_channels=1, **model)
    if config["init_weights"]:
        start_from(network, given_path(config["init_weights"]))
    for length in size[1:]:
        if length % network.plane_multiple:
            raise UserError(f"height and width of {size} must be multiples of {network.plane_multiple}")
    metadata = {
        "data_type": config["data_type"],
        "makes": "masks",
        "prediction": prediction,
        "sphere": config["sphere"],
        "guide": config["guide"],
        **({"ellipsoids": dataset.ellipsoids()} if config["guide"] == "ellipsoid" else {}),
        "schedule": {"kind": "cosine", "num_steps": config["timesteps"]},
        "size": list(size),
        "shrink": config["shrink"],
        "spacing_mm": list(dataset.spacing_mm),
        "lesion_labels": list(layout.lesion_labels),
        "loss": {key: config[key] for key in ("loss_type", "level_power")},
        "init_weights": config["init_weights"] and Path(config["init_weights"]).name,
        **vary,
        "masks": len(dataset),
        "validation": {
            key: config[key] for key in ("validation_masks", "validation_share", "validation_steps")
        },
        "git_commit": git_commit(),
    }
    say(f"network of {sum(p.numel() for p in network.parameters()):,} parameters")
    sheet = _sample_sheet(shown, schedule, settings, prediction)
    path = train(network, loss_fn, dataset, settings, results_folder, metadata, sheet, validate)
    say(f"wrote {path}, loss.csv and loss.png in {results_folder}")
    return path


def parts(config: dict) -> tuple[TrainingSettings, dict, str]:
    """The groups of the configuration -> settings, arguments of the network, what the network predicts."""
    trainer, model = dict(config["trainer"]), dict(config["model"])
    if trainer.pop("histogram_loss"):
        raise UserError("trainer.histogram_loss must be 0: masks have no histograms")
    if model.pop("context") != "noised":
        raise UserError("model.context must be noised: masks have no surroundings")
    return TrainingSettings.of(trainer, "trainer"), model, model.pop("prediction")


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


@hydra.main(version_base=None, config_path="../../LeFusion/configs", config_name="diffmask_train")
def main(config: DictConfig) -> None:
    run_command(lambda: run(plain(config)))


if __name__ == "__main__":
    main()
