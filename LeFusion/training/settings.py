"""How a network is trained: the keys of configs/trainer."""

import numpy as np

from LeFusion.runtime.validation import (
    Count,
    Flag,
    NotNegative,
    Settings,
    TrainingSeed,
    choice,
    either,
    number,
    whole,
)

PRECISIONS = ("no", "bf16", "fp16")


class TrainingSettings(Settings):
    """The paper's values are the defaults. A step is one update of the weights, after
    gradient_accumulate_every batches of batch_size on each process."""

    train_num_steps: Count = 50_000
    batch_size: Count = 20
    gradient_accumulate_every: Count = 2
    train_lr: NotNegative = 1e-4
    lr_schedule: choice("constant", "cosine") = "constant"  # cosine: to zero at the last step
    warmup_steps: whole(0) = 0
    max_grad_norm: either(NotNegative, words=(None,)) = None
    ema_decay: number("a number from 0 to below 1", lambda value: 0 <= value < 1) = 0.995
    save_and_sample_every: Count = 1000
    keep_checkpoints: either(Count, words=(None,)) = None  # None: all
    precision: choice(*PRECISIONS) = "no"
    num_workers: whole(0) = 4
    device: choice("auto", "cpu") = "auto"
    compile: Flag = False  # the network, in the first step
    gradient_checkpointing: Flag = False  # layers are computed again backwards: less memory, slower
    seed: TrainingSeed = 0

    def learning_rate(self, step: int) -> float:
        rate = self.train_lr * min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.lr_schedule == "cosine":
            rate *= 0.5 * (1 + np.cos(np.pi * step / self.train_num_steps))
        return float(rate)

    def ema_decay_at(self, step: int) -> float:
        """Smaller in the first steps, so that the initial weights do not linger in the average."""
        return min(self.ema_decay, (1 + step) / (10 + step))
