"""What painted lesions are to look like: what choosing a texture for a case comes to."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Look:
    """What the lesions of one part of a case are to look like.

    All intensities are the network's, in [-1, 1]. K: lesion classes.

    Attributes:
        histogram: (K * bins,), of each class the share of its voxels in each intensity bin, of sum 1; 0 for
            classes that the part lacks. The network's condition.
        layers: (K, layers, layer_bins), the same histogram parted by depth below the lesion's border, see
            textures.layers.layers_of; the layers of a class have sum 1 together. layer_bins is a multiple of
            bins. None: the histogram may lie anywhere in the lesion.
        depths_mm: where each layer but the innermost ends.
        drawn: the row, in the table of real lesions, of the one that the look is taken from; None: of none.
        grain: noise of the scan around the lesions, see textures.noise.Around.grain; None: not known.
        darkest: nothing is painted darker than this, unless the scan is darker there; None: no such limit.
        wall_level: thick tissue beside the lesions that is brighter is a wall, see textures.noise.walls_in:
            there a lesion has no border, and the wall is not painted. None: there are no walls.
        rim: (rim layers, layer_bins), histograms of what is around such a lesion, by distance from its
            border, see textures.layers.rim_layers_of; of sum 1 each, or 0 where it is not known. Only of one
            lesion class. None: not known.
        brightest: nothing around the lesions is painted brighter, unless the scan is; None: no such limit.
    """

    histogram: Tensor
    layers: Tensor | None = None
    depths_mm: Sequence[float] = ()
    drawn: int | None = None
    grain: tuple[float, ...] | None = None
    darkest: float | None = None
    wall_level: float | None = None
    rim: Tensor | None = None
    brightest: float | None = None
