"""The training of a segmenter. One run lives in one folder; the same command goes on where it stopped.

best_model.pt: the weights with the best validation Dice. last_model.pt: those of the last validated epoch,
with what an exact resume needs. curves.csv, curves.png, tensorboard/. Every random choice is drawn from the
number of the sample in the training, so a resumed run computes what an unbroken one computes.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from evaluation_pipeline.cases.nnunet_layout import LabelledImage
from evaluation_pipeline.judging.metrics import dice
from evaluation_pipeline.segmentation.checkpoint import BEST_MODEL
from evaluation_pipeline.segmentation.models import SegmentationLoss, build_optimizer, learning_rate_at
from evaluation_pipeline.segmentation.preprocessing import AddressedDataset, address_seed
from evaluation_pipeline.segmentation.saved_training import SavedTraining
from evaluation_pipeline.segmentation.segmenter import Segmenter
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import stays_on_cpu

LARGEST_GRADIENT = 12.0  # norm; nnU-Net's
WHOLE_NUMBERS = {
    "max_epochs": 1,
    "batch_size": 1,
    "steps_per_epoch": 1,
    "val_every": 1,
    "num_workers": 0,
    "seed": 0,
}


@dataclass(frozen=True)
class TrainingSettings:
    """steps_per_epoch: updates of the weights in an epoch. batch_size: of each process."""

    model_name: str
    max_epochs: int
    batch_size: int
    steps_per_epoch: int
    learning_rate: float
    val_every: int
    val_overlap: float = 0.5
    seed: int = 0
    amp: bool = False
    num_workers: int = 0
    device: str = "auto"

    def __post_init__(self):
        for name, least in WHOLE_NUMBERS.items():
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)} must be at least {least}")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning_rate {self.learning_rate} must be above 0")
        if not 0 <= self.val_overlap < 1:
            raise UserError(f"--val_overlap {self.val_overlap} must be at least 0 and below 1")


class SampleOrder:
    """Which case the sample number `draw` of a training is: order(draw) -> index, real cases first.

    Without a share all cases are gone through in turns, each turn in an order of its own. With a share,
    that part of any run of samples is synthetic, and real and synthetic cases each take their own turns.
    """

    def __init__(self, real: int, synthetic: int, synthetic_share: float | None, seed: int):
        if synthetic_share is not None and not (synthetic and 0 < synthetic_share < 1):
            raise UserError(
                f"--synthetic_share {synthetic_share} must lie between 0 and 1 and needs --synthetic_data_dir"
            )
        self.real, self.synthetic, self.seed = real, synthetic, seed
        self.share = None if synthetic_share is None else Fraction(synthetic_share).limit_denominator(1000)
        self._turn = lru_cache(maxsize=4)(self._turn)

    def __call__(self, draw: int) -> int:
        if self.share is None:
            return self._pick("all", draw, self.real + self.synthetic)
        before, after = math.floor(draw * self.share), math.floor((draw + 1) * self.share)
        if after > before:
            return self.real + self._pick("synthetic", before, self.synthetic)
        return self._pick("real", draw - before, self.real)

    def _pick(self, group: str, number: int, size: int) -> int:
        turn, place = divmod(number, size)
        return self._turn(group, turn, size)[place]

    def _turn(self, group: str, turn: int, size: int) -> list[int]:
        generator = torch.Generator().manual_seed(address_seed(self.seed, "order", group, turn))
        return torch.randperm(size, generator=generator).tolist()


class _Batches:
    """The addresses of the samples of one process, batch by batch, from a step to the end."""

    def __init__(self, order: SampleOrder, first_step: int, last_step: int, batch_size: int, accelerator):
        self.order, self.steps, self.batch_size = order, range(first_step, last_step), batch_size
        self.process, self.processes = accelerator.process_index, accelerator.num_processes

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step in self.steps:
            start = (step * self.processes + self.process) * self.batch_size
            yield [(self.order(draw), draw) for draw in range(start, start + self.batch_size)]

    def __len__(self) -> int:
        return len(self.steps)


def train(
    network: nn.Module,
    dataset: AddressedDataset,
    order: SampleOrder,
    validation: Sequence[LabelledImage],
    segmenter: Segmenter,
    settings: TrainingSettings,
    output_dir: Path,
    content: dict[str, Any],
) -> Path:
    """Trains, or goes on with the run in output_dir; returns the path of the best model.

    segmenter: holds `network`; validates. content: what goes into the checkpoints besides the weights; a run
    with other content is not resumed. validation: without cases the last weights are the best.

    Raises ValueError for a folder with a run of other settings, and when the loss is no longer finite.
    """
    accelerator = Accelerator(
        cpu=stays_on_cpu(settings.device), mixed_precision=_precision(settings) if settings.amp else "no"
    )
    main = accelerator.is_main_process
    check_precision(settings, accelerator.device.type)
    optimizer = build_optimizer(settings.model_name, network, settings.learning_rate)
    free = ("num_workers", "device")
    run = {name: value for name, value in asdict(settings).items() if name not in free}
    content = content | {"run": run | {"processes": accelerator.num_processes}}
    saved = SavedTraining(output_dir, content, network, optimizer, accelerator)
    state = saved.read()
    if state and state["epoch"] >= settings.max_epochs:
        if main:
            print(f"{output_dir}: is already trained for {state['epoch']} epochs; nothing to do")
        return output_dir / BEST_MODEL
    network.to(accelerator.device, memory_format=torch.channels_last_3d)
    segmenter.device = accelerator.device
    if state:
        if main:
            print(f"{output_dir}: going on after epoch {state['epoch']}")
        saved.restore(state)
    model, optimizer = accelerator.prepare(network, optimizer)
    loss_fn = SegmentationLoss(segmenter.metadata.get("ignore"))
    first_epoch, history, best = (state["epoch"], state["history"], state["best"]) if state else (0, [], -1.0)
    steps, total = settings.steps_per_epoch, settings.steps_per_epoch * settings.max_epochs
    loader = DataLoader(
        dataset,
        batch_sampler=_Batches(order, first_epoch * steps, total, settings.batch_size, accelerator),
        num_workers=settings.num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    batches = iter(loader)
    board = SummaryWriter(str(output_dir / "tensorboard"), purge_step=first_epoch + 1) if main else None
    progress = tqdm(total=total, initial=first_epoch * steps, unit="step", desc="training", disable=not main)
    start = time.perf_counter() - (history[-1]["seconds"] if history else 0.0)

    for epoch in range(first_epoch, settings.max_epochs):
        # One epoch of updates
        model.train()
        torch.manual_seed(address_seed(settings.seed, "dropout", epoch, accelerator.process_index))
        losses = []
        for step in range(epoch * steps, (epoch + 1) * steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(settings.model_name, settings.learning_rate, step / total)
            batch = next(batches)
            image, label = (
                batch[key].to(accelerator.device, non_blocking=True) for key in ("image", "label")
            )
            with accelerator.autocast():
                logits = model(image.contiguous(memory_format=torch.channels_last_3d))
            loss = loss_fn(logits, label)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            progress.update()
        mean_loss = float(accelerator.reduce(torch.stack(losses).mean(), reduction="mean"))
        if not np.isfinite(mean_loss):
            raise UserError(
                f"the loss became {mean_loss} in epoch {epoch + 1}; lower --learning_rate or leave out "
                f"--amp. What is saved in {output_dir} is from before"
            )
        row = {"epoch": epoch + 1, "loss": mean_loss, "learning_rate": optimizer.param_groups[0]["lr"]}
        # Validation
        last = epoch + 1 == settings.max_epochs
        due = last or (epoch + 1) % settings.val_every == 0
        if due and validation:
            row |= validate(segmenter, validation, settings.val_overlap, accelerator)
        history.append(row | {"seconds": time.perf_counter() - start})
        progress.set_postfix(loss=f"{mean_loss:.3f}", dice=f"{best:.3f}" if best >= 0 else "-")
        # Save
        if main:
            for name in row.keys() - {"epoch"}:
                board.add_scalar(name.replace(" ", "/"), row[name], epoch + 1)
        if due:
            better = row["dice"] > best if validation else True
            best = row["dice"] if better and validation else best
            if main:
                saved.save(epoch + 1, history, best, better)
                board.flush()
    progress.close()
    if main:
        board.close()
    return output_dir / BEST_MODEL


def check_precision(settings: TrainingSettings, device_type: str) -> None:
    """Raises ValueError for a network that diverges in the precision that --amp means on this device."""
    if settings.amp and settings.model_name == "SwinUNETR" and device_type == "cpu":
        # measured: NaN after 60 steps on the LIDC regions, where float32 goes on
        raise UserError("--amp: SwinUNETR is not stable in bfloat16 on a CPU; leave --amp out")


def validate(
    segmenter: Segmenter, cases: Sequence[LabelledImage], overlap: float, accelerator: Accelerator
) -> dict[str, float]:
    """{"dice": mean over lesion classes and cases, "dice <name>": mean over cases, ...}, by all processes."""
    segmenter.network.eval()
    lesions = {name: segmenter.labels[name] for name in segmenter.metadata["lesions"]}
    scores = torch.zeros(len(cases), len(lesions), dtype=torch.float64, device=accelerator.device)
    for i in range(accelerator.process_index, len(cases), accelerator.num_processes):
        predicted = segmenter.predict(cases[i].image, overlap, mirror=False)
        reference = read_volume(cases[i].label).labels
        predicted = np.where(reference == segmenter.metadata.get("ignore"), 0, predicted)
        for k, value in enumerate(lesions.values()):
            scores[i, k] = dice(predicted == value, reference == value)
    means = accelerator.reduce(scores, reduction="sum").mean(dim=0).tolist()
    each = {f"dice {name}": mean for name, mean in zip(lesions, means, strict=True)}
    return {"dice": float(np.mean(means)), **each}


def _precision(settings: TrainingSettings) -> str:
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return "fp16" if on_gpu and not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
