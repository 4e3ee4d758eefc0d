"""One box, as a network is to paint it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from LeFusion.guidance import Guide


@dataclass(frozen=True, eq=False)
class Prepared:
    """What painting one box takes. All masks and images are on the network's grid; K: lesion classes.

    Attributes:
        image: (1, D, H, W) in [-1, 1], what is painted into.
        lesions: (K, D, H, W) bool, the labels.
        edit: (K, D, H, W) bool, what is painted: the lesions and, with some weights, a rim around them.
        address: of the noise.
        histogram: (K * bins,), the network's condition; None: it has none.
        guide: where in lesions and rim which intensities are to lie; None without a condition.
        darkest, brightest: limits of what is painted, see textures.look.Look; None: there is none.
        seam: (D, H, W) bool, the surface of walls that a lesion now lies at; None: walls are not looked for.
        vessels: (D, H, W) bool, those of the scan that run on into what is painted; None: not looked for.
        share: (D, H, W) float32 in [0, 1], how much of a voxel is painted and not the scan's, less and less
            towards the end of the rim; None: all.
    """

    image: Tensor
    lesions: Tensor
    edit: Tensor
    address: tuple
    histogram: Tensor | None = None
    guide: Guide | None = None
    darkest: float | None = None
    brightest: float | None = None
    seam: Tensor | None = None
    vessels: Tensor | None = None
    share: Tensor | None = None

    def as_dict(self) -> dict[str, Any]:
        """As tensors, tuples and numbers, for another process."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        guide = None if self.guide is None else tuple(vars(self.guide).values())
        # clone: of a view the whole image would be sent
        return vars(self) | {name: value.clone() for name, value in tensors.items()} | {"guide": guide}

    @classmethod
    def from_dict(cls, sent: dict[str, Any]) -> "Prepared":
        """Back again."""
        return cls(**sent | {"guide": sent["guide"] and Guide(*sent["guide"])})
