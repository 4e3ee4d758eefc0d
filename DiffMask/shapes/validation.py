"""Is the network of this moment any good? Masks made from the spheres of held-out lesions, against these."""

import numpy as np
import torch
from scipy.spatial.distance import pdist

from DiffMask.dataset import MaskDataset
from DiffMask.postprocess import clean_mask
from DiffMask.sampling import sample_masks
from DiffMask.shapes.features import SHAPE_FEATURES, mmd, shape_features
from LeFusion.diffusion import NoiseSchedule, UNet3D
from LeFusion.errors import UserError

SAMPLER = "dpmpp"
BATCH = 32


class ShapeValidation:
    """network -> {"score", ...}, for the trainer; the same network has the same score always.

    For `count` held-out lesions, drawn by the seed, a mask is sampled from the bounding sphere. The score is
    the maximum mean discrepancy of the shape features of these masks from those of these lesions, so between
    sets of like sizes, plus the share of masks that came out empty. Features are standardised by all held-out
    lesions. Besides: the share of empty masks, how the diameters of generated masks compare (median ratio to
    the real), and the mean of each feature.
    """

    def __init__(
        self,
        held_out: MaskDataset,
        schedule: NoiseSchedule,
        count: int = 32,
        num_steps: int = 20,
        prediction: str = "noise",
        seed: int = 0,
    ):
        count = min(count, len(held_out))
        if count < 4:
            raise UserError(
                f"{count} held-out masks are too few to validate on; give a larger validation_share, or set "
                "validation_masks=0"
            )
        self.schedule, self.prediction, self.seed = schedule, prediction, seed
        self.num_steps = min(num_steps, schedule.num_steps)
        chosen = np.random.default_rng(seed).permutation(len(held_out))[:count]
        self.items = [held_out[int(i)] for i in chosen]
        self.spacings = [held_out.lesions[i].spacing_mm for i in chosen]
        features = np.array([_features(found.lesion, found.spacing_mm)[0] for found in held_out.lesions])
        self.centre, spread = features.mean(axis=0), features.std(axis=0)
        self.scale = np.where(spread > 0, spread, 1)
        self.real = (features[chosen] - self.centre) / self.scale
        self.bandwidth = float(np.median(pdist(self.real))) or 1.0
        self.real_mm = np.array([item["diameter_mm"] for item in self.items])

    def sample(self, network: UNet3D) -> list[np.ndarray | None]:
        """A clean mask for each of the chosen lesions, None where it came out empty."""
        masks = []
        for start in range(0, len(self.items), BATCH):
            batch = self.items[start : start + BATCH]
            soft = sample_masks(
                network,
                self.schedule,
                torch.stack([item["sphere"] for item in batch]),
                [(self.seed, "validation", item["name"]) for item in batch],
                SAMPLER,
                self.num_steps,
                self.prediction,
            )
            masks += [clean_mask(mask[0].numpy()) for mask in soft]
        return masks

    def __call__(self, network: UNet3D) -> dict[str, float]:
        made = [
            (i, *_features(mask, self.spacings[i]))
            for i, mask in enumerate(self.sample(network))
            if mask is not None
        ]
        empty = 1 - len(made) / len(self.items)
        if not made:
            nothing = dict.fromkeys(("diameter_ratio", *SHAPE_FEATURES), float("nan"))
            return {"score": 2**0.5 + empty, "mmd": 2**0.5, "empty": empty} | nothing  # the MMD's upper bound
        features = np.array([values for _, values, _ in made])
        distance = mmd((features - self.centre) / self.scale, self.real, self.bandwidth)
        ratio = np.median([diameter_mm / self.real_mm[i] for i, _, diameter_mm in made])
        means = dict(zip(SHAPE_FEATURES, features.mean(axis=0).tolist(), strict=True))
        return {
            "score": distance + empty,
            "mmd": distance,
            "empty": empty,
            "diameter_ratio": float(ratio),
        } | means


def _features(mask: np.ndarray, spacing_mm) -> tuple[list[float], float]:
    """SHAPE_FEATURES of a mask and its diameter_mm."""
    values = shape_features(mask, spacing_mm)
    return [values[name] for name in SHAPE_FEATURES], values["diameter_mm"]
