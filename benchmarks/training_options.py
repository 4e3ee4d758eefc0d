"""What the options of model and training are worth: the same short training with each, measured the same way.

    python benchmarks/training_options.py --train data/LIDC/Pathological --data data/LIDC/Normal \
        --test-txt data/LIDC/Pathological/test.txt --steps 600 --out outputs/training_options

Trains model.context (noised, clean) x trainer.histogram_loss (0, 1) from the same seed on the same draws;
then measures the error of the predicted clean lesion on the test images, at three noise levels, and the
histograms of painted lesions, without any guidance in sampling. A word with an "=" is an override of all
trainings. Each is resumed where it was interrupted; tables go to --out as Markdown and CSV.
"""

import argparse
from pathlib import Path

import hydra
import numpy as np
import torch
from painted import paint, write_tables
from texture_control import in_order

from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.diffusion import AddressedNoise, NoiseSchedule, load_checkpoint
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.runtime.commandline import PROJECT_ROOT, command_parser, plain
from LeFusion.settings import TrainSettings
from LeFusion.train.train import run as train

LEVELS = (60, 150, 240)  # of 300: little, middling and much noise
OPTIONS = [(context, weight) for context in ("noised", "clean") for weight in (0, 1)]


@torch.no_grad()
def lesion_error(path: Path, settings: TrainSettings) -> float:
    """Mean |predicted x_0 - x_0| in test lesions, in image units, over LEVELS, under their own histograms."""
    checkpoint = load_checkpoint(path)
    denoiser, schedule = Denoiser.of(checkpoint.metadata), NoiseSchedule.cosine(settings.timesteps)
    cases = find_cases(settings.dataset_root_dir, settings.layout, settings.test_txt_dir, "test")
    dataset = LesionDataset(cases, settings.layout, window=settings.window)
    errors, (low, high) = [], settings.window
    for index in range(len(dataset)):
        item = dataset[index]
        batch = collate([item])
        image, lesions = batch["image"], batch["lesions"]
        x_0 = image.expand(-1, lesions.shape[1], -1, -1, -1)
        for level in LEVELS:
            t = torch.tensor([level])
            x_t = schedule.q_sample(x_0, t, AddressedNoise([("error", item["name"], level)])(x_0))
            given = (batch["histogram"], image, lesions, schedule)
            noise = denoiser.noise(checkpoint.network, x_t, t, *given)
            gap = (schedule.predict_x0(x_t, t, noise).clamp(-1, 1) - x_0).abs()[lesions].mean()
            errors.append(float(gap) * (high - low) / 2)
    return float(np.mean(errors))


def measure(context: str, weight: int, arguments: argparse.Namespace) -> dict:
    """Trains with one pair of options and measures. -> one row of the table."""
    name = f"{context}-{weight}"
    overrides = [
        "experiment=lidc_small",
        f"dataset_root_dir={arguments.train}",
        f"test_txt_dir={arguments.test_txt}",
        f"results_folder={arguments.out}/{name}",
        f"model.context={context}",
        f"trainer.histogram_loss={weight}",
        f"trainer.train_num_steps={arguments.steps}",
        *arguments.overrides,
    ]
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        chosen = TrainSettings.of(plain(hydra.compose("train", overrides)))
    path = train(chosen)
    settings = [f"model_path={path}", "sampler=ddim", "num_steps=10", "intensity_guidance=0"]
    rows = paint(arguments.out / f"{name}-painted", arguments.data, settings)
    table = {"context": context, "histogram loss": weight, "steps": arguments.steps}
    table["lesion error"] = f"{lesion_error(path, chosen):.1f}"
    for kind in sorted({row["type"] for row in rows}, key=int):
        values = [float(row["wasserstein"]) for row in rows if row["type"] == kind]
        table[f"Wasserstein {kind}"] = f"{np.mean(values):.1f}"
    table["mean Wasserstein"] = f"{np.mean([float(row['wasserstein']) for row in rows]):.1f}"
    table["pairs in order"] = in_order(rows)
    return table


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--train", type=Path, required=True, help="pathological regions: Image/ and Mask/")
    parser.add_argument("--test-txt", type=Path, required=True, help="the names of the test images")
    parser.add_argument("--data", type=Path, required=True, help="regions to paint: Image/ and Mask/")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=Path("outputs/training_options"))
    parser.add_argument("overrides", nargs="*", help="of train.py")
    arguments = parser.parse_args()
    rows = [measure(context, weight, arguments) for context, weight in OPTIONS]
    write_tables(arguments.out, "training_options", rows, arguments.overrides)


if __name__ == "__main__":
    main()
