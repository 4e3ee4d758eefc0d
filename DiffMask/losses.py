"""The loss of mask diffusion: what is wrong in a noisy mask, given its sphere, over all voxels."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from LeFusion.diffusion import AddressedNoise, NoiseSchedule, drawn
from LeFusion.errors import UserError

LOSS_TYPES = ("l1", "l2")  # the released code's "l2" is an l1
PREDICTIONS = ("noise", "velocity")


def mask_loss_fn(
    schedule: NoiseSchedule,
    seed: int,
    loss_type: str = "l1",
    prediction: str = "noise",
    level_power: float = 1.0,
) -> Callable[[nn.Module, dict], Tensor]:
    """-> loss_fn(network, batch): noises masks at random levels and scores what the network makes of them.

    The network is shown the noisy mask and the sphere as two channels. prediction: what it is asked for, and
    what its error is taken of: the noise, as released, or the velocity (see NoiseSchedule.velocity), by which
    the noisiest levels, where the shape is settled, count as much as the others.

    level_power: see AddressedNoise.levels; below 1 for more of the noisy levels, at which the overall
    shape is settled.

    What is random in it comes from loss_fn.draw(batch), which a loader may call in its workers; see `drawn`.

    A batch holds mask and sphere, (B, 1, D, H, W), and draw, the samples' numbers in the training run: level
    and noise are addressed by (seed, draw) and depend on neither batch size nor process count.
    """
    if loss_type not in LOSS_TYPES:
        raise UserError(f"loss_type={loss_type!r} must be one of {', '.join(LOSS_TYPES)}")
    if prediction not in PREDICTIONS:
        raise UserError(f"prediction={prediction!r} must be one of {', '.join(PREDICTIONS)}")
    if not isinstance(level_power, int | float) or not 0 < level_power <= 1:
        raise UserError(f"level_power={level_power!r} must be above 0 and at most 1")

    def draw(batch: dict) -> dict:
        draws = AddressedNoise([(seed, "loss", draw) for draw in batch["draw"]])
        return {"level": draws.levels(schedule.num_steps, level_power), "noise": draws(batch["mask"])}

    def loss_fn(network: nn.Module, batch: dict) -> Tensor:
        batch = drawn(batch, draw)
        mask, t, noise = (batch[key] for key in ("mask", "level", "noise"))
        x_t = schedule.q_sample(mask, t, noise)
        output = network(torch.cat([x_t, batch["sphere"]], dim=1), t.to(mask.device)).float()
        target = noise if prediction == "noise" else schedule.velocity(mask, t, noise)
        return mask_loss(output, target, loss_type)

    loss_fn.draw = draw
    return loss_fn


def mask_loss(output: Tensor, target: Tensor, loss_type: str) -> Tensor:
    """The mean absolute (l1) or squared (l2) difference of two tensors of one shape, a scalar."""
    gap = output - target
    return gap.abs().mean() if loss_type == "l1" else gap.square().mean()
