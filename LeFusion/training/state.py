"""What a run leaves on disk to be resumed from, and reads back."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from LeFusion.dataset.storage import atomic_file
from LeFusion.diffusion import UNet3D, load_checkpoint, save_checkpoint
from LeFusion.errors import UserError, why_not_loaded
from LeFusion.runtime.commandline import check_same_settings
from LeFusion.training.settings import TrainingSettings

STATE_FILE = "training_state.pt"


def checkpoint_path(results_folder: Path, step: int) -> Path:
    return results_folder / f"model-{step:06d}.safetensors"


def fingerprint(network: UNet3D, settings: TrainingSettings, metadata: dict, processes: int) -> dict:
    """What must be equal for a run to be resumed."""
    free = (
        *("train_num_steps", "save_and_sample_every", "keep_checkpoints", "num_workers", "device"),
        *("compile", "gradient_checkpointing"),
    )
    chosen = settings.model_dump(include=TrainingSettings.model_fields.keys() - set(free))
    if settings.lr_schedule == "cosine":
        chosen["train_num_steps"] = settings.train_num_steps  # the rate depends on it
    fixed = {name: value for name, value in metadata.items() if name != "git_commit"}
    return {"network": network.config, **chosen, "processes": processes, **fixed}


@contextmanager
def one_write(path: Path) -> Iterator[Path]:
    """atomic_file for the writers of tensors, which have their own errors for a full disk."""
    with atomic_file(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:
            raise OSError(str(error).strip().split("\n")[0][:200]) from None


@dataclass(frozen=True)
class SavedRun:
    """A run as it is in its folder: weights by step, and the state that an exact resume needs.

    Attributes:
        folder: of the run.
        run: what must be equal for it to be resumed, see `fingerprint`.
        metadata: of its checkpoints, besides.
        network, ema: the weights, and their moving average.
        keep: how many checkpoints stay; None: all.
    """

    folder: Path
    run: dict
    metadata: dict
    network: UNet3D
    ema: UNet3D
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    keep: int | None

    def resume(self) -> int:
        """Reads the state into network, average and optimizer; returns its step, 0 where there is none.

        Raises UserError where it is damaged or of another run.
        """
        path = self.folder / STATE_FILE
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved = state["run"]
        except Exception as error:
            raise UserError(
                f"{path} is damaged ({why_not_loaded(error)}); delete it to start the run again"
            ) from None
        check_same_settings(self.folder, "results_folder", saved, self.run)
        self.network.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        if self.accelerator.is_main_process:
            print(f"resuming {self.folder} at step {state['step']}")
        return int(state["step"])

    def save(self, step: int) -> None:
        """Weights first, state last, each in one move: there is always a whole state to resume from."""
        self._save_weights(step)
        scaler = self.accelerator.scaler
        state = {
            "step": step,
            "run": self.run,
            "model": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
        }
        with one_write(self.folder / STATE_FILE) as temporary:
            torch.save(state, temporary)
        if self.keep:
            for old in sorted(self.folder.glob("model-*.safetensors"))[: -self.keep]:
                old.unlink()

    def mend_weights(self, step: int) -> None:
        """Writes the weights of a resumed step again where their file is lost or damaged: the state has
        them."""
        path = checkpoint_path(self.folder, step)
        try:
            for name, held in (("model", self.network), ("ema", self.ema)):
                there = load_checkpoint(path, name).network.state_dict()
                if not all(torch.equal(there[key], v.float().cpu()) for key, v in held.state_dict().items()):
                    raise UserError(f"{path} holds other weights")
        except UserError as error:
            print(f"written again: {error}")
            self._save_weights(step)

    def _save_weights(self, step: int) -> None:
        metadata = {**self.run, **self.metadata, "step": step}
        with one_write(checkpoint_path(self.folder, step)) as temporary:
            save_checkpoint(temporary, metadata, model=self.network, ema=self.ema)
