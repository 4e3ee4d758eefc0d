"""The loss of mask diffusion: what is wrong in a noisy mask, given its sphere, over all voxels."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from LeFusion.diffusion import AddressedNoise, NoiseSchedule, drawn
from LeFusion.diffusion.denoiser import PREDICTIONS
from LeFusion.errors import UserError, check_choice

LOSS_TYPES = ("l1", "l2")  # the released code's "l2" is an l1


@dataclass(frozen=True)
class MaskLoss:
    """loss_fn(network, batch): noises masks at random levels and scores what the network makes of them.

    The network is shown the noisy mask and the sphere as two channels. A batch holds mask and sphere,
    (B, 1, D, H, W), and draw, the samples' numbers in the training run: level and noise are addressed by
    (seed, draw) and depend on neither batch size nor process count.

    What is random in it comes from draw(batch), which a loader may call in its workers; see `drawn`.

    prediction: what the network is asked for, and what its error is taken of: the noise, as released, or the
        velocity (see NoiseSchedule.velocity), by which the noisiest levels, where the shape is settled, count
        as much as the others.
    level_power: see AddressedNoise.levels; below 1 for more of the noisy levels, at which the overall shape
        is settled.
    """

    schedule: NoiseSchedule
    seed: int
    loss_type: str = "l1"
    prediction: str = "noise"
    level_power: float = 1.0

    def __post_init__(self):
        check_choice("loss_type", self.loss_type, LOSS_TYPES)
        check_choice("prediction", self.prediction, PREDICTIONS)
        if not isinstance(self.level_power, int | float) or not 0 < self.level_power <= 1:
            raise UserError(f"level_power={self.level_power!r} must be above 0 and at most 1")

    def draw(self, batch: dict) -> dict:
        """level (B,) on the CPU, and noise (B, 1, D, H, W)."""
        draws = AddressedNoise([(self.seed, "loss", draw) for draw in batch["draw"]])
        level = draws.levels(self.schedule.num_steps, self.level_power)
        return {"level": level, "noise": draws(batch["mask"])}

    def __call__(self, network: nn.Module, batch: dict) -> Tensor:
        batch = drawn(batch, self.draw)
        mask, t, noise = (batch[key] for key in ("mask", "level", "noise"))
        x_t = self.schedule.q_sample(mask, t, noise)
        output = network(torch.cat([x_t, batch["sphere"]], dim=1), t.to(mask.device)).float()
        target = noise if self.prediction == "noise" else self.schedule.velocity(mask, t, noise)
        return mask_loss(output, target, self.loss_type)


def mask_loss(output: Tensor, target: Tensor, loss_type: str) -> Tensor:
    """The mean absolute (l1) or squared (l2) difference of two tensors of one shape, a scalar."""
    gap = output - target
    return gap.abs().mean() if loss_type == "l1" else gap.square().mean()
