"""Can a small 3D network tell synthetic from real lesions by their voxels, with what lies around them?

It sees what features do not name: seams, patterns, a lesion that does not belong to its surroundings. It
also sees the scan. The same network on crops whose lesion is blanked says how much of its success is the scan
alone, and on crops in which only the lesion is left how much is the lesion.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, map_coordinates
from torch import nn

from evaluation_pipeline.fidelity.discriminator import auc_interval, folds_of
from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData

SIDE = 24  # voxels of 1 mm
SHIFT = 2  # voxels, by which crops are moved at random in training
BLANKED_MM = 3.0  # around the lesion, so that a painted rim is blanked as well, or left with it
# What a network sees -> what is blanked: nothing, the lesion, or what lies around it
VIEWS = {"lesion": "", "surroundings": "lesion", "alone": "surroundings"}
LEAST = 20  # lesions of each kind
STEPS = 250
BATCH = 16
RATE = 5e-3


def crops_of(lesions: Sequence[Lesion], scale: tuple[float, float], blanked: str = "") -> np.ndarray:
    """(lesions, 28, 28, 28) float32 in [-1, 1]: each lesion in the middle of SIDE + 2 SHIFT voxels of 1 mm.

    blanked: "lesion", with BLANKED_MM around it, or "surroundings", all else: they get the median of the
    surroundings.
    """
    found = []
    for lesion in lesions:
        image = lesion.image.astype(np.float32)
        if blanked:
            near = distance_transform_edt(~lesion.mask, sampling=lesion.spacing_mm) <= BLANKED_MM
            level = np.median(image[~near]) if not near.all() else 0
            image = np.where(near == (blanked == "lesion"), level, image)
        # On the voxels themselves where they are of 1 mm: between them, fine patterns average out
        centre = np.rint(np.argwhere(lesion.mask).mean(axis=0))
        offsets = np.arange(SIDE + 2 * SHIFT) - SIDE // 2 - SHIFT
        lines = [middle + offsets / mm for middle, mm in zip(centre, lesion.spacing_mm, strict=True)]
        grid = np.stack(np.meshgrid(*lines, indexing="ij"))
        values = map_coordinates(image, grid, order=1, mode="nearest")
        low, high = scale
        found.append(((values - low) / (high - low) * 2 - 1).clip(-1, 1).astype(np.float32))
    return np.stack(found)


def cnn_discriminate(
    real: Sequence[Lesion],
    synthetic: Sequence[Lesion],
    groups: Sequence[str],
    scale: tuple[float, float],
    generator: np.random.Generator,
    seed: int,
    progress: Callable[[Iterable, str], Iterable] = lambda folds, what: folds,
) -> dict:
    """{view: {auc, low, high}} for each of VIEWS, cross-validated by group.

    groups: of the real lesions, then the synthetic ones. Raises TooLittleData with fewer than LEAST of
    either.
    """
    if min(len(real), len(synthetic)) < LEAST:
        raise TooLittleData(
            f"too few lesions for a 3D network: {len(real)} real and {len(synthetic)} synthetic, at least "
            f"{LEAST} of each are needed"
        )
    lesions, truth = [*real, *synthetic], np.arange(len(real) + len(synthetic)) >= len(real)
    found = {}
    for name, blanked in VIEWS.items():
        crops = torch.from_numpy(crops_of(lesions, scale, blanked))
        scores = np.zeros(len(lesions))
        folds = list(folds_of(truth, groups, seed))
        for number, (train, test) in enumerate(progress(folds, f"3D network, {name}")):
            network = _trained(crops[train], torch.from_numpy(truth[train]), seed + number)
            scores[test] = _scored(network, crops[test])
        auc, low, high = auc_interval(scores, truth, groups, generator)
        found[name] = {"auc": auc, "low": low, "high": high}
    return found


def _network() -> nn.Module:
    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [nn.Conv3d(before, after, 3, stride, 1), nn.BatchNorm3d(after), nn.ReLU()]

    layers = [*block(1, 16, 2), *block(16, 32, 2), *block(32, 32, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 1))


def _trained(crops: torch.Tensor, synthetic: torch.Tensor, seed: int) -> nn.Module:
    """Trained on (n, 28, 28, 28) with random shifts and flips; classes weigh the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _network().train()
        optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=STEPS)
        weight = (~synthetic).sum() / synthetic.sum()
        for _ in range(STEPS):
            chosen = torch.randint(len(crops), (BATCH,))
            batch = torch.stack([_moved(crops[i]) for i in chosen])
            logits, wanted = network(batch[:, None])[:, 0], synthetic[chosen].float()
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
        return network.eval()


def _moved(crop: torch.Tensor) -> torch.Tensor:
    starts = torch.randint(2 * SHIFT + 1, (3,)).tolist()
    moved = crop[tuple(slice(start, start + SIDE) for start in starts)]
    return moved.flip([axis for axis in range(3) if torch.rand(()) < 0.5])


@torch.no_grad()
def _scored(network: nn.Module, crops: torch.Tensor) -> np.ndarray:
    """(n,) log odds of being synthetic: the mean over a crop and its mirror images."""
    middle = crops[:, None, SHIFT:-SHIFT, SHIFT:-SHIFT, SHIFT:-SHIFT]
    views = [middle] + [middle.flip(axis) for axis in (2, 3, 4)]
    return torch.stack([network(view)[:, 0] for view in views]).mean(dim=0).numpy()
