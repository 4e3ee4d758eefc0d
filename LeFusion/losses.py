"""The lesion-focused loss: the network learns to predict noise inside lesions only (LeFusion, 3.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from LeFusion.diffusion import AddressedNoise, NoiseSchedule

LOSS_TYPES = ("l1", "l2")
NORMALISATIONS = ("volume", "lesion")


def lesion_loss(
    predicted: Tensor,
    noise: Tensor,
    lesions: Tensor,
    loss_type: str = "l1",
    normalisation: str = "volume",
    weight: Tensor | None = None,
) -> Tensor:
    """Error of channel k under lesion mask k, summed over the classes.

    Args:
        predicted, noise: (B, K, D, H, W).
        lesions: (B, K, D, H, W) bool.
        loss_type: "l1" or "l2".
        normalisation: "volume" divides by all voxels, as the released code does, so that a lesion counts by
            its size; "lesion" divides each lesion's error by its own voxels, so that each counts the same
            (an absent class counts 0).
        weight: (B,), how much each sample counts; None: all the same.

    Returns:
        a scalar.
    """
    _check_choice("loss_type", loss_type, LOSS_TYPES)
    _check_choice("normalisation", normalisation, NORMALISATIONS)
    error = (predicted - noise).abs() if loss_type == "l1" else (predicted - noise).square()
    error = error * lesions
    if weight is not None:
        error = error * weight.reshape(-1, 1, 1, 1, 1)
    if normalisation == "volume":
        return error.mean(dim=(0, 2, 3, 4)).sum()
    voxels = lesions.sum(dim=(2, 3, 4)).clamp(min=1)
    return (error.sum(dim=(2, 3, 4)) / voxels).mean(dim=0).sum()


def lesion_loss_fn(
    schedule: NoiseSchedule,
    seed: int,
    loss_type: str = "l1",
    normalisation: str = "volume",
    cond_dropout: float = 0.0,
    max_weight: float = 1.0,
) -> Callable[[nn.Module, dict], Tensor]:
    """-> loss_fn(network, batch): noises the batch at random levels and scores the predicted noise.

    Level, noise and the dropping of the condition (with probability cond_dropout, for classifier-free
    guidance) of each sample are addressed by (seed, draw), `batch["draw"]` being the sample's number in the
    training run: they depend on neither batch size nor process count.

    max_weight: 1 for the plain loss on the noise. Above it, samples noisier than their signal count more, by
    noise over signal variance, at most so much; with l2 that makes the error of the implied x_0 count. The
    lesion's overall intensity is settled at levels where the plain loss hardly feels it, so this makes a
    network follow its histogram early in the training (cf. Hang et al., "Min-SNR", 2023, section 3.4).
    """
    if not 0 <= cond_dropout < 1:
        raise ValueError(f"cond_dropout={cond_dropout} must be in [0, 1)")
    if max_weight < 1:
        raise ValueError(f"max_weight={max_weight} must be at least 1")
    _check_choice("loss_type", loss_type, LOSS_TYPES)
    _check_choice("normalisation", normalisation, NORMALISATIONS)

    def loss_fn(network: nn.Module, batch: dict) -> Tensor:
        lesions, condition = batch["lesions"], batch["histogram"]
        x_0 = batch["image"].expand(-1, lesions.shape[1], -1, -1, -1)  # every class sees the same anatomy
        draws = AddressedNoise([(seed, "loss", draw) for draw in batch["draw"]])
        levels = [torch.randint(schedule.num_steps, (), generator=g) for g in draws.generators]
        t = torch.stack(levels).to(x_0.device)
        dropped = torch.stack([torch.rand((), generator=g) < cond_dropout for g in draws.generators])
        condition = condition.masked_fill(dropped[:, None].to(condition.device), torch.nan)
        noise = draws(x_0)
        predicted = network(schedule.q_sample(x_0, t, noise), t, condition)
        weight = None
        if max_weight > 1:
            signal, spread = schedule.signal_and_noise(t)
            weight = (spread / signal).square().clamp(1, max_weight).to(noise.device, noise.dtype)
        return lesion_loss(predicted.float(), noise, lesions, loss_type, normalisation, weight)

    return loss_fn


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(choices)}")
