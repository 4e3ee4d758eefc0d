"""Cases and settings by hand, and the conditions that they give."""

from functools import lru_cache

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.volume import Volume
from LeFusion.runtime.commandline import PROJECT_ROOT, plain
from LeFusion.settings import InferenceSettings
from LeFusion.textures.choice import choose_conditions
from LeFusion.textures.conditions import histogram_of
from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.table_files import write_lesion_table

FITTED = PROJECT_ROOT / "configs" / "fitted_textures"
BINS = 16
WINDOW = (0, 160)  # bin b is 10 b to 10 b + 10
LAYOUT = Layout()
TWO_CLASSES = Layout(lesion_labels=(3, 4), other_labels=(1, 2), reference_label=2)
LISTED = [[2] + [0] * 15, [0] * 8 + [1, 3] + [0] * 6, [0] * 14 + [5, 5]]


@lru_cache
def defaults(*overrides):
    with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        return plain(compose("inference", overrides))


def loaded(name="A", lesions=((100, 110, 120),), reference_mean=None, mm=1.0):
    """A case whose lesion of class k has voxels of these intensities."""
    image = torch.full((2, 4, 8), -1.0)
    masks = torch.zeros(len(lesions), 2, 4, 8, dtype=torch.bool)
    for k, intensities in enumerate(lesions):
        masks[k, 0, k, : len(intensities)] = True
        image[0, k, : len(intensities)] = torch.tensor(intensities, dtype=torch.float32) / 80 - 1
    labels = sum(number * mask.numpy().astype(np.uint8) for number, mask in enumerate(masks, start=1))
    case = Case(name, f"/images/{name}.nii.gz", f"/labels/{name}.nii.gz")
    values, affine = IntensityMap(*WINDOW).to_source(image.numpy()), np.diag([mm, mm, mm, 1])
    volume = Volume(case.image_path, values, 1, 0, affine, None)
    return LoadedCase(
        case,
        Layout(lesion_labels=range(1, len(lesions) + 1)),
        volume,
        None,
        Axes((0, 1, 2)),
        labels,
        labels.shape,
        IntensityMap(*WINDOW),
        reference_mean,
    )


def scan(sd=0.05, size=40, lesion=0.9):
    """Smooth tissue with white noise of this sd, and a bright cube in its middle."""
    noise = np.random.default_rng(0).normal(size=(size,) * 3) * sd
    labels = np.zeros((size,) * 3, np.uint8)
    labels[(slice(size // 2 - 3, size // 2 + 3),) * 3] = 1
    values = np.where(labels > 0, lesion, -0.3 + noise)
    case = Case("A", "/images/A.nii.gz", "/labels/A.nii.gz")
    volume = Volume(case.image_path, values, 1, 0, np.eye(4), None)
    axes = Axes((0, 1, 2))
    return LoadedCase(case, Layout(), volume, None, axes, labels, labels.shape, IntensityMap(-1, 1))


def histogram(shares):
    """{bin: share} -> (BINS,)."""
    values = torch.zeros(BINS)
    for number, share in shares.items():
        values[number] = share
    return values


def asked(conditions, case, kind, own=None, size=(9, 9, 9)):
    """(cond_dim,): the histogram that an output of a case is to have."""
    return histogram_of(case, conditions.looks(case, kind, size, own), size)


def choose(layout=LAYOUT, know_sizes=False, **changes):
    """What the settings of inference give: where nothing else is said, three textures of one lesion class."""
    of_hearts = "emidec" in str(changes.get("textures"))  # a file says what it was fitted for
    ours = {"textures": LISTED, "histogram_perturbation": 0.0, "window": list(WINDOW), "cond_dim": None}
    ours |= {"diffusion_num_channels": None, "layout": layout}
    ours |= {"data_type": "emidec", "window": "minmax"} if of_hearts else {}
    return choose_conditions(InferenceSettings.of(defaults() | ours | changes), know_sizes)


FIRST, SECOND, THIRD = histogram({0: 1}), histogram({8: 0.25, 9: 0.75}), histogram({14: 0.5, 15: 0.5})
OWN = histogram({10: 1 / 3, 11: 1 / 3, 12: 1 / 3})


def table_in(folder, window=(0.0, 160.0), depths=()):
    """Small lesions are dark and large ones bright, in the textures dim and vivid; each layer is a bin
    brighter than the one around it."""
    volumes, texture = np.repeat(np.array([3.0, 3000.0]), 40), np.tile([0, 1], 40)
    bins = np.where(volumes < 100, 2, 6) + 8 * texture
    layers = np.stack([np.eye(BINS)[bins + n] for n in range(len(depths) + 1)], axis=1)
    names = ("dim", "vivid")
    table = LesionTable(
        "lidc", window, BINS, "1 mm", "drawn", "made up", names, texture, volumes, layers, depths
    )
    write_lesion_table(folder / "table.json", table)
    return str(folder / "table.json")


SAME = {"published_textures": LISTED}  # the textures of the settings are those of the data type
