"""Small tables of lesions, by hand."""

from dataclasses import replace

import numpy as np

from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.surroundings import Around


def table_of(count=60, bins=16) -> LesionTable:
    """Two textures; the bin of a lesion tells its texture and its size."""
    kind = np.arange(count) % 2
    histograms = np.zeros((count, bins))
    histograms[np.arange(count), 8 * kind + np.arange(count) * 8 // count] = 1
    return LesionTable(
        "lidc", (-1000.0, 400.0), bins, "1 mm", "one reader", "made up", ("dark", "bright"), kind,
        np.exp(np.linspace(2, 8, count)), histograms[:, None],
    )  # fmt: skip


def draw(table, *wanted, around=None):
    """The look of a lesion that `pick` chooses."""
    return table.layers_in(table.pick(*wanted), around)


def around(noise=0.1, lung=-0.8) -> Around:
    return Around(noise, -0.9, (0, 0, 0), lung)


def of_hearts() -> LesionTable:
    """Two labels; every second lesion has the second. The bin tells the lesion."""
    layers = np.zeros((8, 2, 10))
    layers[np.arange(8), 0, np.arange(8)] = 0.75
    layers[np.arange(0, 8, 2), 1, np.arange(1, 9, 2)] = 0.25
    layers[1::2, 0] *= 4 / 3
    return LesionTable(
        "emidec", (-4.0, 8.0), 10, "native", "of the cases", "made up", ("infarct",), np.zeros(8, int),
        np.exp(np.linspace(2, 8, 8)), layers, (), 2,
    )  # fmt: skip


def scored() -> LesionTable:
    """Lesion n has texture n % 2 and a score of texture of 1 + n % 4; the last is calcified, of others it
    is not known."""
    number = np.arange(60)
    return replace(
        table_of(), scores={"texture_score": 1 + number % 4, "calcification": np.where(number == 59, 3, 0)}
    )
