"""The lesion-focused loss: the network learns to predict noise inside lesions only (LeFusion, 3.2)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from LeFusion.diffusion import AddressedNoise, NoiseSchedule, drawn
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError, check_choice

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
    check_choice("loss_type", loss_type, LOSS_TYPES)
    check_choice("normalisation", normalisation, NORMALISATIONS)
    error = (predicted - noise).abs() if loss_type == "l1" else (predicted - noise).square()
    error = error * lesions
    if weight is not None:
        error = error * weight.reshape(-1, 1, 1, 1, 1)
    if normalisation == "volume":
        return error.mean(dim=(0, 2, 3, 4)).sum()
    voxels = lesions.sum(dim=(2, 3, 4)).clamp(min=1)
    return (error.sum(dim=(2, 3, 4)) / voxels).mean(dim=0).sum()


def histogram_loss(x_0: Tensor, lesions: Tensor, histogram: Tensor, softness: float = 0.25) -> Tensor:
    """How far the intensities of predicted lesions are from their histograms, differentiable in x_0.

    The gap between cumulative histograms at the inner bin edges, summed and divided by the bins, which is the
    Wasserstein-1 distance in shares of the intensity range. A voxel counts below an edge by a sigmoid instead
    of a step.

    Args:
        x_0: (B, K, D, H, W). lesions: (B, K, D, H, W) bool. histogram: (B, K * bins) over [-1, 1].
        softness: width of the sigmoid in bins.

    Returns:
        (B,): the sum over the classes that have both voxels and a histogram that is not all 0.
    """
    shares = histogram.unflatten(1, (x_0.shape[1], -1))
    bins = shares.shape[2]
    edges = torch.linspace(-1, 1, bins + 1, device=x_0.device)[1:-1]
    wanted = shares.cumsum(dim=2)[..., :-1]
    total = []
    for sample in range(len(x_0)):
        gaps = x_0.new_zeros(())
        for k in range(x_0.shape[1]):
            inside = x_0[sample, k][lesions[sample, k]]
            if len(inside) and bool(shares[sample, k].sum() > 0):
                below = torch.sigmoid((edges - inside[:, None]) * (bins / 2 / softness)).mean(dim=0)
                gaps = gaps + (below - wanted[sample, k]).abs().sum() / bins
        total.append(gaps)
    return torch.stack(total)


@dataclass(frozen=True)
class LesionLoss:
    """loss_fn(network, batch): noises the batch at random levels and scores the predicted noise.

    The error counts where the sample is painted, batch["edit"] (without it: the lesions), the histogram where
    the lesion is.

    What is random in it comes from draw(batch), which a loader may call in its workers; see `drawn`. Level,
    noise and the dropping of the condition (with probability cond_dropout, for classifier-free guidance) of
    each sample are addressed by (seed, draw), `batch["draw"]` being the sample's number in the training run:
    they depend on neither batch size nor process count.

    loss_type, normalisation: see `lesion_loss`.
    max_weight: 1 for the plain loss on the noise. Above it, samples noisier than their signal count more, by
        noise over signal variance, at most so much; with l2 that makes the error of the implied x_0 count.
        The lesion's overall intensity is settled at levels where the plain loss hardly feels it, so this
        makes a network follow its histogram early in the training (cf. Hang et al., "Min-SNR", 2023, 3.4).
    histogram_weight: adds so many times the `histogram_loss` of the implied x_0, scaled by the signal's share
        of the level (its standard deviation), to samples whose condition was kept.
    denoiser: what the network sees and predicts.
    """

    schedule: NoiseSchedule
    seed: int
    loss_type: str = "l1"
    normalisation: str = "volume"
    cond_dropout: float = 0.0
    max_weight: float = 1.0
    histogram_weight: float = 0.0
    denoiser: Denoiser = Denoiser()

    def __post_init__(self):
        if not 0 <= self.cond_dropout < 1:
            raise UserError(f"cond_dropout={self.cond_dropout} must be in [0, 1)")
        if self.max_weight < 1:
            raise UserError(f"max_weight={self.max_weight} must be at least 1")
        if self.histogram_weight < 0:
            raise UserError(f"histogram_loss={self.histogram_weight} must be at least 0")
        check_choice("loss_type", self.loss_type, LOSS_TYPES)
        check_choice("normalisation", self.normalisation, NORMALISATIONS)

    def draw(self, batch: dict) -> dict:
        """level (B,) on the CPU, noise (B, K, D, H, W), and dropped (B,) bool: without condition."""
        draws = AddressedNoise([(self.seed, "loss", draw) for draw in batch["draw"]])
        level = draws.levels(self.schedule.num_steps)
        dropped = torch.stack([torch.rand((), generator=g) < self.cond_dropout for g in draws.generators])
        if bool(batch["histogram"].isnan().any()):
            raise UserError(f"the histogram of one of the draws {list(batch['draw'])} holds NaN")
        noise = draws(batch["image"].expand_as(batch["lesions"]))
        return {"level": level, "dropped": dropped.to(noise.device), "noise": noise}

    def __call__(self, network: nn.Module, batch: dict) -> Tensor:
        batch = drawn(batch, self.draw)
        image, lesions, condition = (batch[key] for key in ("image", "lesions", "histogram"))
        edit = batch.get("edit", lesions)
        t, noise, dropped = (batch[key] for key in ("level", "noise", "dropped"))
        x_0 = image.expand(-1, lesions.shape[1], -1, -1, -1)  # every class sees the same anatomy
        x_t = self.schedule.q_sample(x_0, t, noise)
        given = (condition, image, lesions, self.schedule, dropped, edit)
        predicted = self.denoiser.noise(network, x_t, t, *given)
        signal, spread = self.schedule.signal_and_noise(t)
        weight = None
        if self.max_weight > 1:
            weight = (spread / signal).square().clamp(1, self.max_weight).to(noise.device, noise.dtype)
        loss = lesion_loss(predicted, noise, edit, self.loss_type, self.normalisation, weight)
        if self.histogram_weight:
            implied = self.schedule.predict_x0(x_t, t, predicted).clamp(-1, 1)
            kept = condition.masked_fill(dropped[:, None], 0)
            gaps = histogram_loss(implied, lesions, kept) * signal.to(noise.device, noise.dtype)
            loss = loss + self.histogram_weight * gaps.mean()
        return loss
