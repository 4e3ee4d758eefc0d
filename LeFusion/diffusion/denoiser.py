"""What a network is given besides x_t, and what its output means."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from LeFusion.diffusion import NoiseSchedule
from LeFusion.errors import check_choice

CONTEXTS = ("noised", "clean")
PREDICTIONS = ("noise", "velocity")


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
    ) -> Tensor:
        """The noise that the network predicts in x_t, float32.

        Args:
            x_t: (B, K, D, H, W). t: (B,). condition: (B, K * bins) or None.
            image: (B, 1, D, H, W) clean; not looked at inside the lesions. lesions: (B, K, D, H, W) bool.
        """
        seen = x_t
        if self.context == "clean":
            surroundings = image.masked_fill(lesions.any(dim=1, keepdim=True), 0)
            seen = torch.cat([x_t, surroundings, lesions.to(x_t.dtype)], dim=1)
        output = network(seen, t.to(seen.device), condition).float()
        if self.prediction == "noise":
            return output
        return schedule.noise_from_velocity(x_t.float(), t, output)
