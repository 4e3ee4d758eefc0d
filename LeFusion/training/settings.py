"""How a network is trained: the keys of configs/trainer."""

from dataclasses import dataclass

import numpy as np

from LeFusion.errors import UserError

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
