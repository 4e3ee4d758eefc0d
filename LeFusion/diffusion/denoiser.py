"""What a network is given besides x_t, and what its output means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from LeFusion.diffusion.schedule import NoiseSchedule
from LeFusion.errors import check_choice

CONTEXTS = ("noised", "clean")
PREDICTIONS = ("noise", "velocity")


def by_rows(predict: Callable[[Tensor, Tensor, slice], Tensor], x_t: Tensor, t: Tensor) -> Tensor:
    """predict(x_t, t, rows of the batch) for a batch: at once, or on a CPU sample by sample. A CPU gains
    nothing from batches, and matrix products of another size round differently, so that a sample would depend
    on the batch that it is in."""
    if x_t.device.type != "cpu":
        return predict(x_t, t, slice(None))
    rows = [slice(i, i + 1) for i in range(len(x_t))]
    return torch.cat([predict(x_t[row], t[row], row) for row in rows])


@dataclass(frozen=True)
class Denoiser:
    """How predicted noise is had from a network; with the defaults, the paper's way.

    context: "noised" = the network sees x_t only, whose surroundings carry the noise of its level; "clean" =
        it also gets the clean image with the lesions blanked, and the K lesion masks, as further channels.
    prediction: "noise", or "velocity", see NoiseSchedule.velocity.
    """

    context: str = "noised"
    prediction: str = "noise"

    def __post_init__(self):
        for name, choices in (("context", CONTEXTS), ("prediction", PREDICTIONS)):
            check_choice(name, getattr(self, name), choices)

    @classmethod
    def of(cls, metadata: dict) -> "Denoiser":
        """The one that a checkpoint was trained with; older and released checkpoints do not say."""
        return cls(metadata.get("context", "noised"), metadata.get("prediction", "noise"))

    def in_channels(self, classes: int) -> int:
        """Input channels of a network for so many lesion classes; it has `classes` output channels."""
        return classes + (1 + classes if self.context == "clean" else 0)

    def noise(
        self,
        network: nn.Module,
        x_t: Tensor,
        t: Tensor,
        condition: Tensor | None,
        image: Tensor,
        lesions: Tensor,
        schedule: NoiseSchedule,
        dropped: Tensor | None = None,
        edit: Tensor | None = None,
    ) -> Tensor:
        """The noise that the network predicts in x_t, float32.

        Args:
            x_t: (B, K, D, H, W). t: (B,). condition: (B, K * bins) or None.
            dropped: (B,) bool or None, see UNet3D.
            image: (B, 1, D, H, W) clean; not looked at where it is painted.
            lesions: (B, K, D, H, W) bool, the labels.
            edit: (B, K, D, H, W) bool, what is painted; None: the lesions.
        """
        if self.context == "clean":
            painted = lesions if edit is None else edit
            surroundings = image.masked_fill(painted.any(dim=1, keepdim=True), 0)
            beside = (surroundings, lesions.to(x_t.dtype))
        else:
            beside = ()
        return self.noise_beside(network, x_t, t, beside, schedule, condition, dropped)

    def noise_beside(
        self,
        network: nn.Module,
        x_t: Tensor,
        t: Tensor,
        beside: Sequence[Tensor],
        schedule: NoiseSchedule,
        *condition: Tensor | None,
    ) -> Tensor:
        """The same for a network that is shown these (B, ..., D, H, W) as further channels after x_t."""
        seen = torch.cat([x_t, *beside], dim=1) if beside else x_t
        output = network(seen, t.to(seen.device), *condition).float()
        if self.prediction == "noise":
            return output
        return schedule.noise_from_velocity(x_t.float(), t, output)
