"""Trains a LeFusion network on lesions.

    python LeFusion/train/train.py data_type=lidc dataset_root_dir=... test_txt_dir=... results_folder=...

The same command goes on where it stopped. Several processes: accelerate launch, or torchrun. All keys:
--help, or configs/train.yaml.
"""

from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from LeFusion.dataset.cases import Layout, find_cases
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.diffusion import NoiseSchedule, UNet3D, start_from
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.losses import LesionLoss
from LeFusion.painting import SamplerSettings, paint
from LeFusion.runtime.commandline import (
    check_whole_numbers,
    git_commit,
    given_path,
    output_folder,
    plain,
    required_path,
    run_command,
    say,
)
from LeFusion.runtime.pictures import lesion_slice, save_contact_sheet
from LeFusion.textures.conditions import load_palette
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train


def run(config: dict) -> Path:
    """Trains as the composed configuration says; returns the path of the last checkpoint."""
    results_folder = output_folder(config, "results_folder")
    settings, denoiser, model, loss = parts(config)
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1, histogram_bins=1, timesteps=1)
    layout = Layout(**config["layout"])
    classes = len(layout.lesion_labels)
    bins = config["histogram_bins"]
    if config["cond_dim"] != classes * bins:
        raise UserError(
            f"cond_dim={config['cond_dim']} must be {classes} classes x {bins} bins = {classes * bins}"
        )
    size = config["crop_size"] or [
        config["diffusion_depth_size"],
        config["diffusion_img_size"],
        config["diffusion_img_size"],
    ]
    cases = find_cases(
        required_path(config, "dataset_root_dir"), layout, given_path(config["test_txt_dir"]), config["split"]
    )
    textures = load_palette(
        config["textures"], config["cond_dim"], bins, config["data_type"], config["window"]
    )
    dataset = LesionDataset(
        cases,
        layout,
        size=size,
        window=config["window"],
        bins=bins,
        region="random" if config["crop_size"] else "whole",
        augment=config["augment"],
        lesion_contrast=config["lesion_contrast"],
        histogram_matching=config["histogram_matching"],
        other_histograms=textures.histograms,
        other_reference=textures.reference_mean,
        spacing_mm=config["spacing_mm"],
        seed=settings.seed,
        cache=config["cache"],
    )
    for index in range(len(dataset)):  # a bad file should stop the run now, not in the middle of the night
        dataset[index]

    torch.manual_seed(settings.seed)
    network = UNet3D(
        in_channels=denoiser.in_channels(classes),
        out_channels=classes,
        cond_dim=config["cond_dim"],
        **model,
    )
    if config["init_weights"]:
        start_from(network, given_path(config["init_weights"]))
    if config["diffusion_num_channels"] != classes:
        raise UserError(
            f"diffusion_num_channels={config['diffusion_num_channels']} must be {classes}, "
            "one for each lesion label"
        )
    for length in size[1:]:
        if length % network.plane_multiple:
            raise UserError(f"height and width of {size} must be multiples of {network.plane_multiple}")
    schedule = NoiseSchedule.cosine(config["timesteps"])
    loss_fn = LesionLoss(schedule, settings.seed, **loss, denoiser=denoiser)
    metadata = {
        "data_type": config["data_type"],
        "context": denoiser.context,
        "prediction": denoiser.prediction,
        "schedule": {"kind": "cosine", "num_steps": config["timesteps"]},
        "window": config["window"],
        "spacing_mm": config["spacing_mm"],
        "size": list(size),
        "region": "lesion" if config["crop_size"] else "whole",
        "histogram_bins": bins,
        "lesion_labels": list(layout.lesion_labels),
        "loss": loss,
        "augment": config["augment"],
        "lesion_contrast": config["lesion_contrast"],
        "histogram_matching": config["histogram_matching"],
        "init_weights": config["init_weights"] and Path(config["init_weights"]).name,
        "cases": len(cases),
        "git_commit": git_commit(),
    }
    say(f"{len(cases)} cases, network of {sum(p.numel() for p in network.parameters()):,} parameters")
    path = train(
        network,
        loss_fn,
        dataset,
        settings,
        results_folder,
        metadata,
        _sample_sheet(dataset, schedule, settings, denoiser),
    )
    say(f"wrote {path}, loss.csv and loss.png in {results_folder}")
    return path


def parts(config: dict) -> tuple[TrainingSettings, Denoiser, dict, dict]:
    """The groups of the configuration -> settings, denoiser, arguments of the network and of the loss."""
    trainer, model = dict(config["trainer"]), dict(config["model"])
    loss = config["loss"] | {"histogram_weight": trainer.pop("histogram_loss")}
    denoiser = Denoiser(model.pop("context"), model.pop("prediction"))
    return TrainingSettings(**trainer), denoiser, model, loss


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
            painted = paint(network, schedule, walk, image, lesions, batch["histogram"], [address], denoiser)
            where = lesions[0].any(dim=0).numpy()
            level = lesion_slice(where)
            rows.append([x[0, 0, level].numpy() for x in (image, painted)])
            outlines.append([where[level], None])
            names.append(item["name"])
        save_contact_sheet(path, rows, outlines, ["real, outline", "painted"], names, (-1, 1))

    return draw


@hydra.main(version_base=None, config_path="../configs", config_name="train")
def main(config: DictConfig) -> None:
    run_command(lambda: run(plain(config)))


if __name__ == "__main__":
    main()
