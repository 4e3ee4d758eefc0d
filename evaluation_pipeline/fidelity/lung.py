"""Is it the lesions that are told, or the lung around them? Real nodules as beside the lung of the synthetic.

A scan breathed out, or with thick slices, has denser lung: voxels that a lesion shares with it are brighter,
and a classifier tells any lesion of that scan from those of other scans.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from evaluation_pipeline.fidelity.discriminator import discriminate
from evaluation_pipeline.fidelity.lesions import Lesion
from evaluation_pipeline.fidelity.profile import surroundings

DENSEST_HU = -500.0  # what is around a lesion, if that is lung


def moved_to_lung(lesion: Lesion, lung: float) -> Lesion:
    """The lesion as it would be where the median around it is `lung` HU; one that lies in no lung as it is.

    What is darker than water holds air: its distance from water grows with the lung's.
    """
    own, image = surroundings(lesion), lesion.image
    if not own < DENSEST_HU:
        return lesion
    moved = np.where(image < 0, image * (lung / own), image).clip(image.min(), image.max())
    return replace(lesion, image=moved.astype(image.dtype))


def told_in_like_lung(
    real: Sequence[Lesion],
    synthetic: Sequence[Lesion],
    measure: Callable[[Sequence[Lesion]], np.ndarray],
    groups: Sequence[str],
    generator: np.random.Generator,
    seed: int,
) -> dict | None:
    """How well a classifier tells synthetic lesions from real ones that were moved to their lung; None where
    half of either do not lie in lung.

    measure: lesions -> features (n, d). groups: see discriminate. Each real lesion is moved to the lung of a
    synthetic one that is drawn. -> "lesions": {auc, low, high}, and "scan": the same for real lesions
    against themselves moved, what the lung alone gives; real_hu, synthetic_hu: medians of the lung.
    """
    real_hu, synthetic_hu = (np.array([surroundings(one) for one in part]) for part in (real, synthetic))
    if not (np.nanmedian(real_hu) < DENSEST_HU and np.nanmedian(synthetic_hu) < DENSEST_HU):
        return None
    drawn = generator.choice(synthetic_hu[synthetic_hu < DENSEST_HU], len(real))
    moved = [moved_to_lung(lesion, lung) for lesion, lung in zip(real, drawn, strict=True)]
    first, features, of_real = measure(real), measure(moved), groups[: len(real)]
    everything = {"all": range(features.shape[1])}
    told = {
        "lesions": discriminate(features, measure(synthetic), groups, everything, generator, seed),
        "scan": discriminate(first, features, [*of_real, *of_real], everything, generator, seed),
    }
    found = {name: {key: part["all"][key] for key in ("auc", "low", "high")} for name, part in told.items()}
    medians = {"real_hu": np.nanmedian(real_hu), "synthetic_hu": np.nanmedian(synthetic_hu)}
    return found | {name: float(median) for name, median in medians.items()}
