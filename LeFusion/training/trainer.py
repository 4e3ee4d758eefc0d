"""The training loop shared by every network of the project; `loss_fn` and the dataset are what differs.

One run lives in one folder: `model-<step>.safetensors` (weights, moving average and metadata),
`training_state.pt` (what an exact resume needs), `loss.csv`, `loss.png`, TensorBoard events and sample
sheets; with a validation also `validation.csv` and `best.safetensors`. The same command resumes: every random
choice is addressed by the number of the sample in the run, so that a run that was stopped and resumed
computes what an unbroken one computes.
"""

import contextlib
import copy
import csv
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from LeFusion.dataset.dataset import collate
from LeFusion.dataset.nifti import atomic_file
from LeFusion.diffusion import UNet3D, drawn, save_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import stays_on_cpu
from LeFusion.runtime.memory import free_memory, is_out_of_memory
from LeFusion.runtime.pictures import save_loss_curve

STATE_FILE = "training_state.pt"
BEST_FILE = "best.safetensors"
LONG_WAIT = 0.03  # share of the time waiting for data above which a run is told so
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
WHOLE_NUMBERS = {  # settings and their least values
    "train_num_steps": 1,
    "batch_size": 1,
    "gradient_accumulate_every": 1,
    "warmup_steps": 0,
    "save_and_sample_every": 1,
    "keep_checkpoints": 1,
    "num_workers": 0,
    "seed": 0,
}
CHOICES = {
    "lr_schedule": ("constant", "cosine"),
    "precision": ("no", "bf16", "fp16"),
    "device": ("auto", "cpu"),
}


@dataclass(frozen=True)
class TrainingSettings:
    """The paper's values are the defaults. A step is one update of the weights, after
    gradient_accumulate_every batches of batch_size on each process."""

    train_num_steps: int = 50_000
    batch_size: int = 20
    gradient_accumulate_every: int = 2
    train_lr: float = 1e-4
    lr_schedule: str = "constant"  # or "cosine": to zero at the last step
    warmup_steps: int = 0
    max_grad_norm: float | None = None
    ema_decay: float = 0.995
    save_and_sample_every: int = 1000
    keep_checkpoints: int | None = None  # None: all
    precision: str = "no"  # or "bf16", "fp16"
    num_workers: int = 4
    device: str = "auto"  # or "cpu"
    compile: bool = False  # the network, in the first step
    gradient_checkpointing: bool = (
        False  # layers are computed again in the backward pass: less memory, slower
    )
    seed: int = 0

    def __post_init__(self):
        for name, least in WHOLE_NUMBERS.items():
            value = getattr(self, name)
            if name == "keep_checkpoints" and value is None:
                continue
            if not isinstance(value, int) or value < least:
                raise UserError(f"{name}={value!r} must be a whole number of at least {least}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise UserError(f"{name}={getattr(self, name)!r} must be one of {', '.join(choices)}")
        for name in ("compile", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"{name}={getattr(self, name)!r} must be true or false")
        for name in ("train_lr", "max_grad_norm", "ema_decay"):
            value = getattr(self, name)
            if name == "max_grad_norm" and value is None:
                continue
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise UserError(f"{name}={value!r} must be a number, not negative")
        if self.ema_decay >= 1:
            raise UserError(f"ema_decay={self.ema_decay} must be in [0, 1)")

    def learning_rate(self, step: int) -> float:
        rate = self.train_lr * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.lr_schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * step / self.train_num_steps))
        return float(rate)

    def ema_decay_at(self, step: int) -> float:
        """Smaller in the first steps, so that the initial weights do not linger in the average."""
        return min(self.ema_decay, (1 + step) / (10 + step))


class Stopped(SystemExit):
    """Raised after a stop signal, when the run has been saved; exits with 128 + the signal."""


def train(
    network: UNet3D,
    loss_fn: Callable[[nn.Module, dict], Tensor],
    dataset,
    settings: TrainingSettings,
    results_folder: Path,
    metadata: dict[str, Any],
    sample_sheet: Callable[[UNet3D, Path], None] | None = None,
    validate: Callable[[UNet3D], dict[str, float]] | None = None,
) -> Path:
    """Trains, or goes on with the run in results_folder; returns the path of the last checkpoint.

    Args:
        loss_fn: (network, batch) -> scalar, a mean over the samples. The batch has the dataset's items plus
            `draw`, their numbers. With loss_fn.draw, see `drawn`, its noise is drawn by the loader's workers.
        dataset: `dataset[(index, draw)]` is item `index` with the random choices number `draw`.
        metadata: JSON-able; goes into the checkpoints. A run of other metadata is not resumed.
        sample_sheet: (network, path) -> writes a picture; called with the moving average at every save.
        validate: (network) -> values, among them "score", lower is better; called with the moving average
            at every save. The checkpoint with the best score so far is kept as best.safetensors.
    """
    results_folder = Path(results_folder)
    accelerator = Accelerator(
        mixed_precision=settings.precision,
        cpu=stays_on_cpu(settings.device),
    )
    main = accelerator.is_main_process
    set_seed(settings.seed)
    # First to the device, as a resumed optimizer's state goes where its parameters are at that time
    network = network.to(accelerator.device)
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    fused = accelerator.device.type in ("cuda", "cpu") or None
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.train_lr, fused=fused)
    run = _fingerprint(network, settings, metadata, accelerator.num_processes)
    step = _resume(results_folder, run, network, ema, optimizer, accelerator)
    if step >= settings.train_num_steps:
        if main:
            print(f"{results_folder} is already trained for {step} steps; nothing to do")
        return _checkpoint_path(results_folder, step)
    if main:
        results_folder.mkdir(parents=True, exist_ok=True)
    network.checkpointing = settings.gradient_checkpointing
    if settings.compile:
        compile_network(network)
    model, optimizer = accelerator.prepare(network, optimizer)
    model.train()
    parameters, averages = list(network.parameters()), list(ema.parameters())

    loader = _batches(dataset, settings, step, accelerator, getattr(loss_fn, "draw", None))
    batches = TimedIterator(loader)
    backward = _Backward(model, loss_fn, optimizer, settings, accelerator)
    log = _Log(results_folder, step) if main else None
    validation = _Validation(validate, results_folder, step, log.board) if main and validate else None
    if validation and step and step % settings.save_and_sample_every == 0 and not validation.has(step):
        validation.add(step, ema)  # the run was stopped between this save and its validation
    samples_a_step = settings.batch_size * settings.gradient_accumulate_every * accelerator.num_processes
    stop = _StopSignal()
    progress = tqdm(
        total=settings.train_num_steps,
        initial=step,
        unit="step",
        desc="training",
        disable=not main,
        smoothing=0.05,
    )
    with stop, progress, closing(loader):
        while step < settings.train_num_steps:
            started, waited = time.perf_counter(), batches.seconds
            # Forward and backward over the batches of one step
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            loss = backward([next(batches) for _ in range(settings.gradient_accumulate_every)])
            # Update
            if settings.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            # Moving average
            get_ema_multi_avg_fn(settings.ema_decay_at(step))(
                averages, [p.detach() for p in parameters], step
            )
            step += 1
            # Report
            mean_loss = float(accelerator.reduce(loss, reduction="mean"))
            if not np.isfinite(mean_loss):
                raise UserError(
                    f"the loss became {mean_loss} at step {step}; lower train_lr, or use precision=no. "
                    f"What is saved in {results_folder} is from before"
                )
            if main:
                seconds, waited = time.perf_counter() - started, batches.seconds - waited
                log.add(step, mean_loss, optimizer.param_groups[0]["lr"], seconds, waited)
                progress.update()
                progress.set_postfix(loss=f"{log.smoothed:.4f}")
            # Save
            last = step == settings.train_num_steps
            stopping = stop.agreed(accelerator) and not last
            if stopping or last or step % settings.save_and_sample_every == 0:
                accelerator.wait_for_everyone()
                if main:
                    log.flush()
                    _save(results_folder, step, run, metadata, network, ema, optimizer, accelerator, settings)
                    if sample_sheet is not None and not stopping:
                        progress.set_postfix_str("drawing samples")
                        sample_sheet(ema, results_folder / f"samples-{step:06d}.png")
                    if validation and not stopping:
                        progress.set_postfix_str("validating")
                        validation.add(step, ema)
                accelerator.wait_for_everyone()
            if stopping:
                if main:
                    tqdm.write(log.pace(samples_a_step))
                    tqdm.write(f"stopped at step {step}; saved in {results_folder}; the same command goes on")
                raise Stopped(128 + stop.received)
    if main:
        print(log.pace(samples_a_step))
        save_loss_curve(results_folder / "loss.csv", results_folder / "loss.png")
        log.close()
    return _checkpoint_path(results_folder, step)


class _Backward:
    """Gradients of one step: forward and backward over its batches, in smaller parts once memory ran out.

    A part counts by its samples, and gradients are added up, so that the update is the same.
    """

    def __init__(self, model, loss_fn, optimizer, settings: TrainingSettings, accelerator: Accelerator):
        self.model, self.loss_fn, self.optimizer = model, loss_fn, optimizer
        self.settings, self.accelerator = settings, accelerator
        self.at_once = settings.batch_size

    def __call__(self, batches: list[dict]) -> Tensor:
        """-> the mean loss of the batches, a scalar on the device."""
        while True:
            try:
                return self._add_up(batches)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).strip().split("\n")[0][:160]
            # Outside of the except block, whose traceback holds on to the tensors of the failed step
            self.optimizer.zero_grad()
            free_memory()
            self._shrink(reason)

    def _add_up(self, batches: list[dict]) -> Tensor:
        parts = [part for batch in batches for part in _parts(batch, self.at_once)]
        samples = sum(len(part["draw"]) for part in parts)
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts):
            # Processes exchange gradients once a step, with those of the last part
            waits = (
                contextlib.nullcontext() if number == len(parts) - 1 else self.accelerator.no_sync(self.model)
            )
            with waits:
                with self.accelerator.autocast():
                    loss = self.loss_fn(self.model, part) * (len(part["draw"]) / samples)
                self.accelerator.backward(loss)
            total += loss.detach()
        return total

    def _shrink(self, reason: str) -> None:
        settings, size = self.settings, self.at_once
        if self.accelerator.num_processes > 1 and size > 1:
            # One process alone must not go on with more parts: the others wait for its gradients
            raise UserError(
                f"out of memory with {size} samples at once ({reason}); batch_size={size // 2} "
                f"gradient_accumulate_every={settings.gradient_accumulate_every * 2} makes the same updates "
                "with half of the memory"
            )
        if size == 1:
            smaller = [
                f"trainer.{name}={value}"
                for name, value, now in (
                    ("precision", "bf16", settings.precision),
                    ("gradient_checkpointing", "true", str(settings.gradient_checkpointing).lower()),
                )
                if value != now
            ]
            raise UserError(
                f"out of memory with one sample at a time ({reason}); try "
                f"{' '.join([*smaller, 'a smaller crop_size or model.dim'])}"
            )
        self.at_once = (size + 1) // 2
        tqdm.write(
            f"out of memory with {size} samples at once; going on with {self.at_once}, the same updates"
        )


def _parts(batch: dict, size: int) -> Iterator[dict]:
    """The batch in parts of at most `size` samples."""
    for start in range(0, len(batch["draw"]), size):
        yield {key: value[start : start + size] for key, value in batch.items()}


class DrawSampler:
    """Batches of (index, draw) for one process: draw n of the run goes through all items once an epoch, in an
    order addressed by (seed, epoch). Yields the batches from optimiser step `first_step` on, without end."""

    def __init__(self, items: int, settings: TrainingSettings, first_step: int, process: int, processes: int):
        self.items, self.seed, self.batch_size = items, settings.seed, settings.batch_size
        self.batch_number = first_step * settings.gradient_accumulate_every
        self.process, self.processes = process, processes

    def __iter__(self):
        number = self.batch_number
        while True:
            first = (number * self.processes + self.process) * self.batch_size
            yield [(self.item(draw), draw) for draw in range(first, first + self.batch_size)]
            number += 1

    def item(self, draw: int) -> int:
        epoch, position = divmod(draw, self.items)
        return int(np.random.default_rng((self.seed, epoch)).permutation(self.items)[position])


class _WithDraw(torch.utils.data.Dataset):
    """The dataset's items with the number of their draw, which addresses the noise of the loss."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __getitem__(self, address: tuple[int, int]) -> dict:
        return self.dataset[address] | {"draw": address[1]}


class _Collate:
    """Items -> batch, with the noise of the loss."""

    def __init__(self, draw: Callable[[dict], dict] | None):
        self.draw = draw

    def __call__(self, items: list[dict]) -> dict:
        batch = collate(items)
        return batch if self.draw is None else drawn(batch, self.draw)


def _batches(
    dataset, settings: TrainingSettings, step: int, accelerator: Accelerator, draw
) -> Iterator[dict]:
    """The batches from `step` on, on the device, without end. Closing it ends the loader's workers."""
    sampler = DrawSampler(len(dataset), settings, step, accelerator.process_index, accelerator.num_processes)
    loader = DataLoader(
        _WithDraw(dataset),
        batch_sampler=sampler,
        num_workers=settings.num_workers,
        collate_fn=_Collate(draw),
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=_outlive_stop_signals,
    )
    for batch in loader:
        yield _to_device(batch, accelerator.device)


class TimedIterator:
    """The items of an iterator; `seconds` is how long the caller has waited for them so far."""

    def __init__(self, items: Iterator):
        self.items, self.seconds = items, 0.0

    def __iter__(self):
        return self

    def __next__(self):
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.seconds += time.perf_counter() - start


def _outlive_stop_signals(_worker: int) -> None:
    """Ctrl-C and batch systems signal the workers too, which are needed for the rest of the step.

    A second SIGTERM, which is how Python ends workers that are left over, does end them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: signal.signal(number, signal.SIG_DFL))


def _to_device(batch: dict, device: torch.device) -> dict:
    """But for the levels: the schedule looks its coefficients up on the CPU."""
    return {
        k: v.to(device, non_blocking=True) if torch.is_tensor(v) and k != "level" else v
        for k, v in batch.items()
    }


def _checkpoint_path(results_folder: Path, step: int) -> Path:
    return results_folder / f"model-{step:06d}.safetensors"


def _fingerprint(network: UNet3D, settings: TrainingSettings, metadata: dict, processes: int) -> dict:
    """What must be equal for a run to be resumed."""
    free = (
        *("train_num_steps", "save_and_sample_every", "keep_checkpoints", "num_workers", "device"),
        *("compile", "gradient_checkpointing"),
    )
    chosen = {name: value for name, value in asdict(settings).items() if name not in free}
    if settings.lr_schedule == "cosine":
        chosen["train_num_steps"] = settings.train_num_steps  # the rate depends on it
    fixed = {name: value for name, value in metadata.items() if name != "git_commit"}
    return {"network": network.config, **chosen, "processes": processes, **fixed}


def _save(results_folder, step, run, metadata, network, ema, optimizer, accelerator, settings) -> None:
    """Weights first, state last, each in one move: there is always a whole state to resume from."""
    path = _checkpoint_path(results_folder, step)
    with _one_write(path) as temporary:
        save_checkpoint(temporary, {**run, **metadata, "step": step}, model=network, ema=ema)
    state = {
        "step": step,
        "run": run,
        "model": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
    }
    with _one_write(results_folder / STATE_FILE) as temporary:
        torch.save(state, temporary)
    if settings.keep_checkpoints:
        for old in sorted(results_folder.glob("model-*.safetensors"))[: -settings.keep_checkpoints]:
            old.unlink()


@contextmanager
def _one_write(path: Path) -> Iterator[Path]:
    """atomic_file for the writers of tensors, which have their own errors for a full disk."""
    with atomic_file(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:
            raise OSError(str(error).strip().split("\n")[0][:200]) from None


def _resume(results_folder: Path, run: dict, network, ema, optimizer, accelerator) -> int:
    path = results_folder / STATE_FILE
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["run"]
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path} is damaged ({reason}); delete it to start the run again") from None
    other = sorted(name for name in {*run, *saved} if run.get(name) != saved.get(name))
    if other:
        listed = "; ".join(f"{name} was {saved.get(name)!r}, is {run.get(name)!r}" for name in other[:3])
        raise UserError(
            f"{results_folder} holds a run with other settings ({listed}); "
            "choose another results_folder, or delete that one to start again"
        )
    network.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    if accelerator.is_main_process:
        print(f"resuming {results_folder} at step {state['step']}")
    return int(state["step"])


class _StopSignal:
    """Remembers a stop signal while the loop runs, so that the step in progress is finished and saved."""

    received = 0

    def __enter__(self):
        self.previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_):
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number, _frame):
        self.received = number

    def agreed(self, accelerator: Accelerator) -> bool:
        """True on every process once any process has received a signal."""
        if accelerator.num_processes == 1:
            return self.received > 0
        received = torch.tensor(self.received, device=accelerator.device)
        self.received = int(accelerator.gather(received).max())
        return self.received > 0


class _Log:
    """Loss, learning rate and waiting for data of each step: TensorBoard and loss.csv; on resume later rows
    are dropped. In loss.csv, seconds and waiting (seconds, too) are since the run began."""

    def __init__(self, results_folder: Path, step: int):
        self.path = results_folder / "loss.csv"
        rows = []
        if step and self.path.exists():
            with open(self.path, newline="") as file:
                whole = (
                    row for row in csv.DictReader(file) if row["seconds"]
                )  # a kill may tear the last row
                rows = [row for row in whole if int(row["step"]) <= step]
        columns = ["step", "loss", "learning_rate", "seconds", "waiting"]
        with atomic_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            kept = csv.DictWriter(file, columns, lineterminator="\n")
            kept.writeheader()
            kept.writerows(rows)
        self.file = open(self.path, "a", newline="")
        self.writer = csv.DictWriter(self.file, columns, lineterminator="\n")
        self.before = float(rows[-1]["seconds"]) if rows else 0.0
        self.waiting = float(rows[-1].get("waiting") or 0) if rows else 0.0  # older runs do not tell
        self.start = time.perf_counter()
        self.steps = []  # (seconds, of these waiting for data) of each step since the start
        self.smoothed = float(rows[-1]["loss"]) if rows else None
        self.board = SummaryWriter(str(results_folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, loss: float, learning_rate: float, step_seconds: float, waited: float) -> None:
        """waited: how many of the step's seconds it waited for data."""
        self.steps.append((step_seconds, waited))
        self.waiting += waited
        self.smoothed = loss if self.smoothed is None else 0.98 * self.smoothed + 0.02 * loss
        seconds = self.before + time.perf_counter() - self.start
        self.writer.writerow(
            {
                "step": step,
                "loss": f"{loss:.6g}",
                "learning_rate": f"{learning_rate:.4g}",
                "seconds": f"{seconds:.3f}",
                "waiting": f"{self.waiting:.3f}",
            }
        )
        self.board.add_scalar("loss", loss, step)
        self.board.add_scalar("learning_rate", learning_rate, step)
        self.board.add_scalar("waiting_for_data", waited / step_seconds, step)

    def pace(self, samples: int) -> str:
        """How fast steps of so many samples were, in a sentence. Saves do not count, nor does the first step,
        in which workers start and a network is compiled."""
        counted = self.steps[1:] or self.steps
        seconds, waited = map(sum, zip(*counted, strict=True))
        steps = f"{len(self.steps)} step{'s' * (len(self.steps) > 1)}"
        sentence = (
            f"trained {steps}: {samples * len(counted) / seconds:.4g} samples/s, "
            f"{waited / seconds:.1%} of the time waiting for data"
        )
        return f"{sentence}; a larger num_workers may help" if waited > LONG_WAIT * seconds else sentence

    def flush(self) -> None:
        self.file.flush()
        self.board.flush()

    def close(self) -> None:
        self.file.close()
        self.board.close()


class _Validation:
    """The values of each validation: validation.csv and TensorBoard; and the best checkpoint so far.

    The best score is read back from validation.csv; there, on resume, rows of later steps are dropped.
    """

    def __init__(self, validate, results_folder: Path, step: int, board: SummaryWriter):
        self.validate, self.folder, self.board = validate, results_folder, board
        self.path = results_folder / "validation.csv"
        self.rows = []
        if step and self.path.exists():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        kept = (results_folder / BEST_FILE).exists()
        scores = [float(row["score"]) for row in self.rows if kept and row["score"] != "nan"]
        self.best = min(scores, default=np.inf)

    def has(self, step: int) -> bool:
        return any(int(row["step"]) == step for row in self.rows)

    def add(self, step: int, ema: UNet3D) -> None:
        """Validates what was saved at this step. The checkpoint first, then the row: a run that is stopped in
        between validates again."""
        values = self.validate(ema)
        row = {"step": step} | {name: f"{value:.6g}" for name, value in values.items()}
        if float(row["score"]) < self.best:  # as it will be read back
            self.best = float(row["score"])
            with _one_write(self.folder / BEST_FILE) as temporary:
                shutil.copyfile(_checkpoint_path(self.folder, step), temporary)
        self.rows.append(row)
        with atomic_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[-1]), lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows)
        for name, value in values.items():
            self.board.add_scalar(f"validation/{name}", value, step)
        self.board.flush()
        tqdm.write(f"step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))
