"""The training of a segmenter as it is in its folder: the best weights; the last ones, with what an exact
resume needs; curves."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn

from evaluation_pipeline.segmentation.checkpoint import BEST_MODEL, read_checkpoint, save_checkpoint
from evaluation_pipeline.tables import write_csv
from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import check_same_settings

LAST_MODEL = "last_model.pt"


@dataclass(frozen=True)
class SavedTraining:
    """What is read from and written to the folder of a training.

    Attributes:
        folder: of the training.
        content: what goes into the checkpoints besides the weights; a training with other content is not
            resumed.
        network, optimizer, accelerator: whose state it is.
    """

    folder: Path
    content: dict[str, Any]
    network: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator

    def read(self) -> dict[str, Any] | None:
        """What `save` wrote last; None: nothing yet. Raises UserError for another training, or a damaged
        one."""
        path = self.folder / LAST_MODEL
        if not path.exists():
            return None
        state = read_checkpoint(path)
        check_same_settings(self.folder, "--output_model_dir", _identity(state), _identity(self.content))
        try:
            read_checkpoint(self.folder / BEST_MODEL)
        except UserError:
            raise UserError(
                f"{self.folder / BEST_MODEL}: is lost or damaged, and {LAST_MODEL} has the last weights, not "
                "the best ones; delete the folder to train again"
            ) from None
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Network and optimizer as they were when that was written."""
        self.network.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def save(self, epoch: int, history: list[dict], best: float, better: bool) -> None:
        """The best model first, the state last: a run that is killed in between writes the best again.

        history: a row for each epoch. best: the best validation Dice so far; better: it is this epoch's.
        """
        weights = {name: v.detach().cpu().contiguous() for name, v in self.network.state_dict().items()}
        reached = {"epoch": epoch, "validation_dice": history[-1].get("dice")}
        content = self.content | {"metadata": self.content["metadata"] | reached, "weights": weights}
        if better:
            save_checkpoint(self.folder / BEST_MODEL, content)
        scaler = self.accelerator.scaler
        state = {
            "epoch": epoch,
            "history": history,
            "best": best,
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }
        save_checkpoint(self.folder / LAST_MODEL, content | state)
        write_curves(self.folder, history)


def _identity(content: dict[str, Any]) -> dict[str, Any]:
    """What must be the same in a resumed run."""
    keys = ("model", "preprocessing", "labels")
    data = {name: content["metadata"].get(name) for name in ("fold", "data_sha256", "synthetic_share")}
    return {key: content[key] for key in keys} | data | content["run"]


def write_curves(folder: Path, history: list[dict]) -> None:
    """curves.csv and curves.png: loss of every epoch, Dice of the validated ones."""
    curves = pd.DataFrame(history)
    write_csv(folder / "curves.csv", curves, digits=6)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curves["epoch"], curves["loss"])
    left.set(xlabel="epoch", ylabel="training loss (Dice + cross entropy)")
    names = [name for name in curves.columns if name.startswith("dice")]
    for name in names[1:] if len(names) == 2 else names:  # the mean of one class is that class
        judged = curves.dropna(subset=name)
        right.plot(judged["epoch"], judged[name], marker=".", label=name)
    right.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    if right.lines:
        right.legend()
    with atomic_file(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=110)
