"""What a run leaves on disk to be resumed from, and reads back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError

from LeFusion.dataset.storage import atomic_file
from LeFusion.diffusion import UNet3D, load_checkpoint, save_checkpoint
from LeFusion.errors import UserError
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


def save(results_folder, step, run, metadata, network, ema, optimizer, accelerator, settings) -> None:
    """Weights first, state last, each in one move: there is always a whole state to resume from."""
    _save_weights(results_folder, step, run, metadata, network, ema)
    state = {
        "step": step,
        "run": run,
        "model": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
    }
    with one_write(results_folder / STATE_FILE) as temporary:
        torch.save(state, temporary)
    if settings.keep_checkpoints:
        for old in sorted(results_folder.glob("model-*.safetensors"))[: -settings.keep_checkpoints]:
            old.unlink()


def _save_weights(results_folder, step, run, metadata, network, ema) -> None:
    with one_write(checkpoint_path(results_folder, step)) as temporary:
        save_checkpoint(temporary, {**run, **metadata, "step": step}, model=network, ema=ema)


def mend_weights(results_folder: Path, step, run, metadata, network: UNet3D, ema: UNet3D) -> None:
    """Writes the weights of a resumed step again where their file is lost or damaged: the state has them."""
    path = checkpoint_path(results_folder, step)
    try:
        for name, held in (("model", network), ("ema", ema)):
            there = load_checkpoint(path, name).network.state_dict()
            if not all(torch.equal(there[key], v.float().cpu()) for key, v in held.state_dict().items()):
                raise UserError(f"{path} holds other weights")
    except UserError as error:
        print(f"written again: {error}")
        _save_weights(results_folder, step, run, metadata, network, ema)


@contextmanager
def one_write(path: Path) -> Iterator[Path]:
    """atomic_file for the writers of tensors, which have their own errors for a full disk."""
    with atomic_file(path) as temporary:
        try:
            yield temporary
        except (RuntimeError, SafetensorError) as error:
            raise OSError(str(error).strip().split("\n")[0][:200]) from None


def resume(results_folder: Path, run: dict, network, ema, optimizer, accelerator) -> int:
    path = results_folder / STATE_FILE
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["run"]
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"{path} is damaged ({reason}); delete it to start the run again") from None
    check_same_settings(results_folder, "results_folder", saved, run)
    network.load_state_dict(state["model"])
    ema.load_state_dict(state["ema"])
    optimizer.load_state_dict(state["optimizer"])
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    if accelerator.is_main_process:
        print(f"resuming {results_folder} at step {state['step']}")
    return int(state["step"])
