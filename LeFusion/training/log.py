"""What a run tells of itself: loss.csv, validation.csv, TensorBoard, and the best checkpoint so far."""

import csv
import shutil
import time
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from LeFusion.diffusion import UNet3D, load_checkpoint
from LeFusion.errors import UserError
from LeFusion.runtime.tables import write_csv
from LeFusion.training.state import checkpoint_path, one_write

BEST_FILE = "best.safetensors"
COLUMNS = ("step", "loss", "learning_rate", "seconds", "waiting")
LONG_WAIT = 0.03  # share of the time waiting for data above which a run is told so


class Log:
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
        write_csv(self.path, rows, COLUMNS)
        self.file = open(self.path, "a", newline="")
        self.writer = csv.DictWriter(self.file, COLUMNS, lineterminator="\n")
        self.before = float(rows[-1]["seconds"]) if rows else 0.0
        self.waiting = float(rows[-1].get("waiting") or 0) if rows else 0.0  # older runs do not tell
        self.start = time.perf_counter()
        self.pending = []  # steps whose loss was not fetched yet
        self.steps = []  # (seconds, of these waiting for data) of each step since the start
        self.smoothed = float(rows[-1]["loss"]) if rows else None
        self.board = SummaryWriter(str(results_folder / "tensorboard"), purge_step=step + 1 if step else None)

    def add(self, step: int, learning_rate: float, step_seconds: float, waited: float) -> None:
        """A step whose loss is still on the device. waited: how many of its seconds it waited for data."""
        self.steps.append((step_seconds, waited))
        self.waiting += waited
        now = self.before + time.perf_counter() - self.start
        self.pending.append((step, learning_rate, waited / step_seconds, now, self.waiting))

    def write(self, losses: list[float]) -> None:
        """The losses of the steps added since the last ones, or none."""
        for loss, (step, learning_rate, share, seconds, waiting) in zip(losses, self.pending, strict=False):
            self.smoothed = loss if self.smoothed is None else 0.98 * self.smoothed + 0.02 * loss
            row = (step, f"{loss:.6g}", f"{learning_rate:.4g}", f"{seconds:.3f}", f"{waiting:.3f}")
            self.writer.writerow(dict(zip(COLUMNS, row, strict=True)))
            self.board.add_scalar("loss", loss, step)
            self.board.add_scalar("learning_rate", learning_rate, step)
            self.board.add_scalar("waiting_for_data", share, step)
        del self.pending[: len(losses)]

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


class Validation:
    """The values of each validation: validation.csv and TensorBoard; and the best checkpoint so far.

    The best score is read back from validation.csv; there, on resume, rows of later steps are dropped.
    """

    def __init__(self, validate, results_folder: Path, step: int):
        self.validate, self.folder = validate, results_folder
        self.path = results_folder / "validation.csv"
        self.rows = []
        if step and self.path.exists():
            with open(self.path, newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        scores = [float(row["score"]) for row in self.rows if row["score"] != "nan"]
        kept = bool(scores) and _is_checkpoint(results_folder / BEST_FILE)
        self.best = min(scores) if kept else np.inf

    def has(self, step: int) -> bool:
        return any(int(row["step"]) == step for row in self.rows)

    def add(self, step: int, ema: UNet3D, board: SummaryWriter) -> None:
        """Validates what was saved at this step. The checkpoint first, then the row: a run that is stopped in
        between validates again."""
        values = self.validate(ema)
        row = {"step": step} | {name: f"{value:.6g}" for name, value in values.items()}
        if float(row["score"]) < self.best:  # as it will be read back
            self.best = float(row["score"])
            with one_write(self.folder / BEST_FILE) as temporary:
                shutil.copyfile(checkpoint_path(self.folder, step), temporary)
        self.rows.append(row)
        write_csv(self.path, self.rows, list(row))
        for name, value in values.items():
            board.add_scalar(f"validation/{name}", value, step)
        board.flush()
        tqdm.write(f"step {step}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()))


def _is_checkpoint(path: Path) -> bool:
    """Whether the best weights so far are still there and whole; without them any later ones are the best."""
    try:
        load_checkpoint(path)
    except UserError as error:
        print(f"the best of the validations from now on is kept: {error}")
        return False
    return True
