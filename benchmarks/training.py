"""Times the training of a network: samples a second, memory, and the share of the time waiting for data.

    python benchmarks/training.py --batch 4 --workers 8 --out outputs/training        # on a GPU
    python benchmarks/training.py --data data/LIDC/Pathological --batch 4
    python benchmarks/training.py --device cpu --threads 2 --workers 2 --dim 16 --mults 1 3 6 12 --heads 2 \
        --dim-head 16 --size 16 32 32 --steps 5 --compile
    python benchmarks/training.py --variant ours-bf16 --json

Every variant runs in a fresh process (the last form is such a process; it writes no table), from the same
weights on the same samples under the same noise. `ours` is our trainer with its settings; `plain` is
the textbook: benchmarks/plain_unet.py in float32, torch's default Adam, noise drawn in the loop, nothing
pinned or compiled. Data are real regions (--data, in LIDC's layout), or made: noise with a ball as lesion,
written and read as NIfTI. Items are cached in memory after the first reading, as in training. The table
(Markdown, CSV) goes to --out; --warmup steps do not count:

- ratio to plain: samples a second over those of `plain`; larger is faster.
- at once: samples in one pass; the others of a step (--batch x --accumulate) are accumulated.
- waiting: share of the time in which the loop waited for the next batch, its move to the device included.
- MiB: on a GPU the most that was allocated, weights included; on a CPU how much the process grew in training
  (moving average, gradients, saving and compiling included, data loader's workers not).
- loss: mean over the counted steps; what does not agree with plain does not train the same.

Float32 means float32: TF32 is off unless --tf32. A variant whose batch does not fit in memory is measured
again with smaller batches and more of them, the same updates. One that fails is a row that says why, and the
exit code is 1.
"""

import argparse
import copy
import csv
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from measuring import (
    BINS,
    child_options,
    chosen,
    failed_cells,
    is_cuda,
    make_parser,
    measure_apart,
    peak_mib,
    restart_peak,
    seeded_network,
    set_up,
    write_and_exit,
)
from plain_unet import PlainUNet3D
from torch import Tensor, nn
from torch.utils.data import DataLoader

from LeFusion.dataset.augmentation import Augmentation
from LeFusion.dataset.cases import Layout, find_cases
from LeFusion.dataset.dataset import LesionDataset, collate
from LeFusion.diffusion import NoiseSchedule
from LeFusion.errors import UserError
from LeFusion.losses import LesionLoss
from LeFusion.training.batches import DrawSampler, TimedIterator
from LeFusion.training.settings import TrainingSettings
from LeFusion.training.trainer import train

PLAIN = "plain"
VARIANTS = {  # name -> the trainer's settings
    PLAIN: {},
    "ours": {},
    "ours-checkpointing": {"gradient_checkpointing": True},
    "ours-bf16": {"precision": "bf16"},
    "ours-compiled": {"compile": True},
    "ours-bf16-compiled": {"precision": "bf16", "compile": True},
}
OPTIONS = ("accumulate", "steps", "warmup", "workers")
CASES = 8  # made ones
COLUMNS = ("samples/s", "ratio to plain", "at once", "median ms a step", "waiting", "MiB", "loss")


# --- one variant, in a process of its own


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """-> seconds of each counted step, waiting (share of them), mib, loss, samples a step and at once."""
    warnings.filterwarnings("error", message="the network could not be compiled")
    settings = TrainingSettings(
        train_num_steps=arguments.warmup + arguments.steps,
        batch_size=arguments.batch,
        gradient_accumulate_every=arguments.accumulate,
        save_and_sample_every=arguments.warmup + arguments.steps,
        num_workers=arguments.workers,
        device="auto" if is_cuda(arguments.device) else "cpu",
        **VARIANTS[name],
    )
    network = seeded_network(arguments)
    if any(length % network.plane_multiple for length in arguments.size[1:]):
        raise UserError(
            f"height and width of --size {arguments.size} must be multiples of {network.plane_multiple}"
        )
    set_up(arguments)
    loss_fn = LesionLoss(NoiseSchedule.cosine(300), settings.seed)
    with tempfile.TemporaryDirectory() as folder:
        dataset = read_dataset(
            arguments.data or make_cases(Path(folder) / "cases", arguments.size), arguments
        )
        if name == PLAIN:
            network = PlainUNet3D.like(network).to(arguments.device)
        start_of_peak = restart_peak(arguments.device)
        if name == PLAIN:
            rows = train_plainly(network, loss_fn, dataset, settings, arguments.device)
        else:
            train(network, whole_batches(loss_fn, settings), dataset, settings, Path(folder) / "run", {})
            with open(Path(folder) / "run" / "loss.csv", newline="") as file:
                rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        mib = peak_mib(arguments.device) - start_of_peak
    before, counted = rows[arguments.warmup - 1], rows[arguments.warmup :]
    seconds = np.diff([row["seconds"] for row in (before, *counted)])
    return {
        "seconds": seconds.tolist(),
        "waiting": (counted[-1]["waiting"] - before["waiting"]) / float(seconds.sum()),
        "mib": mib,
        "loss": statistics.mean(row["loss"] for row in counted),
        "samples": arguments.batch * arguments.accumulate,
        "at_once": arguments.batch,
    }


def train_plainly(
    network: nn.Module,
    loss_fn: Callable[[nn.Module, dict], Tensor],
    dataset: LesionDataset,
    settings: TrainingSettings,
    device: str,
) -> list[dict[str, float]]:
    """The textbook loop -> for each step its loss, and the seconds and those of them waiting since the start.

    The samples and their noise are those of LeFusion.training.trainer.train.
    """
    average = copy.deepcopy(network)
    optimizer = torch.optim.Adam(network.train().parameters(), lr=settings.train_lr)
    sampler = DrawSampler(len(dataset), settings, 0, 0, 1)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=settings.num_workers, collate_fn=collate)
    batches = TimedIterator(on_device(batch, device) for batch in loader)
    start, rows, draw = time.perf_counter(), [], 0
    for step in range(settings.train_num_steps):
        total = 0.0
        for _ in range(settings.gradient_accumulate_every):
            draws = range(draw, draw := draw + settings.batch_size)
            loss = loss_fn(network, next(batches) | {"draw": draws}) / settings.gradient_accumulate_every
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for mean, parameter in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(parameter, 1 - settings.ema_decay_at(step))
        if is_cuda(device):
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        rows.append({"loss": total, "seconds": seconds, "waiting": batches.seconds})
    return rows


def on_device(batch: dict, device: str) -> dict:
    return {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}


def whole_batches(loss_fn: Callable, settings: TrainingSettings) -> Callable:
    """loss_fn, but an error for a part of a batch: out of memory, the trainer goes on with such, whose times
    and memory are those of another setting."""

    def checked(network: nn.Module, batch: dict) -> Tensor:
        if len(batch["draw"]) < settings.batch_size:
            raise UserError(f"out of memory with {settings.batch_size} samples at once")
        return loss_fn(network, batch)

    checked.draw = loss_fn.draw
    return checked


def make_cases(folder: Path, size: list[int]) -> Path:
    """Writes CASES regions of `size` in LIDC's layout, noise with a ball as lesion -> their folder."""
    for part in ("Image", "Mask"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    voxels = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"))
    for number in range(CASES):
        centre = rng.uniform(0.3, 0.7, 3) * size
        ball = np.square(voxels - centre[:, None, None, None]).sum(axis=0) < max(4, (min(size) / 4) ** 2)
        image = rng.normal(-700, 200, size) + 600 * ball
        for part, name, array in (("Image", "Vol", image.astype(np.int16)), ("Mask", "Mask", ball)):
            volume = nibabel.Nifti1Image(array.astype(np.uint8) if part == "Mask" else array, np.eye(4))
            nibabel.save(volume, folder / part / f"made-{number}_{name}_1.nii.gz")
    return folder


def read_dataset(folder: Path, arguments: argparse.Namespace) -> LesionDataset:
    """Whole regions with flips, each read once into memory, as LeFusion/train/train.py does."""
    layout = Layout()
    dataset = LesionDataset(
        find_cases(folder, layout), layout, arguments.size, bins=BINS, augmentation=Augmentation(True)
    )
    for index in range(len(dataset)):
        dataset[index]
    return dataset


# --- the table


def row_of(name: str, result: dict | str, plain_rate: float | None) -> dict[str, str]:
    """One row of the table; a result that is a text is the reason why there is none."""
    if isinstance(result, str):
        return {"variant": name} | failed_cells(COLUMNS, result)
    numbers = (
        f"{rate_of(result):.4g}",
        f"{rate_of(result) / plain_rate:.3f}" if plain_rate else "",
        str(result["at_once"]),
        f"{1e3 * statistics.median(result['seconds']):.4g}",
        f"{result['waiting']:.1%}",
        f"{result['mib']:.0f}",
        f"{result['loss']:.4g}",
    )
    return {"variant": name} | dict(zip(COLUMNS, numbers, strict=True))


def rate_of(result: dict) -> float:
    """Samples a second."""
    return result["samples"] / statistics.mean(result["seconds"])


def compare(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Measures all variants, one after the other, on the same cases -> the rows of the table."""
    compiles = is_cuda(arguments.device) or arguments.compile
    fits = {name: compiles or not settings.get("compile") for name, settings in VARIANTS.items()}
    rows, plain_rate = [], None
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or make_cases(Path(folder) / "cases", arguments.size)
        for name in chosen(fits, arguments):
            result = measure_what_fits(name, data, arguments)
            if name == PLAIN and isinstance(result, dict):
                plain_rate = rate_of(result)
            rows.append(row_of(name, result, plain_rate))
            print(f"{name}: {rows[-1]['samples/s']} samples/s", flush=True)
    return rows


def measure_what_fits(name: str, data: Path, arguments: argparse.Namespace) -> dict | str:
    """measure_apart with the largest batch that fits in memory, of as many samples a step."""
    arguments = copy.copy(arguments)
    while True:
        options = [*child_options(arguments, *OPTIONS), "--data", str(data)]
        result = measure_apart(__file__, name, options)
        batch = arguments.batch
        if isinstance(result, dict) or "out of memory" not in result.lower() or batch == 1:
            return result
        arguments.batch = max(size for size in range(1, batch) if batch % size == 0)
        arguments.accumulate *= batch // arguments.batch
        print(f"{name}: out of memory with {batch} samples at once, trying {arguments.batch}", flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, VARIANTS, "outputs/training")
    parser.add_argument("--data", type=Path, help="folder of Image/ and Mask/ in LIDC's layout")
    parser.add_argument("--accumulate", type=int, default=1, help="batches a step")
    parser.add_argument("--steps", type=int, default=20, help="that count")
    parser.add_argument("--warmup", type=int, default=3, help="steps before these")
    parser.add_argument("--workers", type=int, default=4, help="of the data loader")
    arguments = parser.parse_args(argv)
    if arguments.device not in ("cpu", "cuda"):
        parser.error(f"--device {arguments.device} must be cpu or cuda (one GPU: set CUDA_VISIBLE_DEVICES)")
    for name in ("batch", "accumulate", "steps", "warmup"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} {getattr(arguments, name)} must be at least 1")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.variant:
        result = measure(arguments.variant, arguments)
        print(json.dumps(result) if arguments.json else row_of(arguments.variant, result, None))
        return
    data = f"--data {arguments.data}" if arguments.data else f"{CASES} made cases"
    write_and_exit(arguments, "training", compare(arguments), [*child_options(arguments, *OPTIONS), data])


if __name__ == "__main__":
    main()
