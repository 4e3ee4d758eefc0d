"""MONAI transforms that paint lesions while a network trains."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends

from LeFusion.painter import Painter
from LeFusion.textures.conditions import Texture

SEEDS = 2**31  # that are drawn from
SEED_KEY, TEXTURE_KEY = "painted_seed", "painted_texture"  # of the image's metadata


class RandPaintLesiond(RandomizableTransform, MapTransform):
    """Paints lesions into images of a dictionary, under a mask, with a chance of `prob`.

    Works on images in the units of the painter's data type (HU in CT), so before intensities are scaled;
    before or after orientations, spacings and crops, as images say where their voxels lie (MetaTensor). What
    stands before it a CacheDataset keeps. Randomness is MONAI's: `set_random_state` makes it repeatable, and
    a DataLoader gives each worker a state of its own.

    The geometry stays, so there is nothing to invert: inverses of other transforms pass over it, as over
    MONAI's own intensity transforms. The metadata of a painted image say painted_seed and painted_texture;
    with that seed `painter.paint` paints the same. -1 and "": nothing was painted.

    Args:
        keys: of the images, (1, X, Y, Z) each.
        mask_key: of the mask: where the lesions are, with the data type's labels. An image whose mask has no
            lesion, such as a crop beside it, stays as it is.
        painter: see Painter.load. Processes paint on a CPU, with one thread each.
        texture: see Painter.paint.
        label_key: of the label to train on: lesions that were painted are set to their value in the mask, the
            rest stays. Where the dictionary has no label it gets one, 0 where nothing was painted. None: none.
        prob: how often an image is painted.
        allow_missing_keys: of `keys`, whether an image may be missing.
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]

    def __init__(
        self,
        keys: KeysCollection,
        mask_key: Hashable,
        painter: Painter,
        texture: Texture = "mixture",
        label_key: Hashable | None = None,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ):
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        painter.conditions(texture, seed=0)  # refuses an unknown texture now
        self.painter, self.texture = painter, texture
        self.mask_key, self.label_key = mask_key, label_key
        self.seed = 0

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        if self._do_transform:
            self.seed = int(self.R.randint(SEEDS))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with painted images. Raises UserError, naming the argument of Painter.paint."""
        given = dict(data)
        self.randomize()
        mask = given[self.mask_key]
        lesion = self._lesion(mask)
        paints = self._do_transform and bool(lesion.any())
        for key in self.key_iterator(given):
            if paints:
                given[key] = self.painter.paint(given[key], mask, self.texture, self.seed)
            if isinstance(given[key], MetaTensor):
                if not paints:
                    given[key] = given[key].clone()  # other metadata than those of what was given
                name = self.painter.conditions(self.texture, self.seed).name("image", 1) if paints else ""
                given[key].meta |= {SEED_KEY: self.seed if paints else -1, TEXTURE_KEY: name}
        if self.label_key is not None:
            label = given.get(self.label_key)
            label = mask * 0 if label is None else label
            given[self.label_key] = _where(lesion, mask, label) if paints else label
        return given

    def _lesion(self, mask: Any) -> Any:
        """Bool, where the mask has a lesion label."""
        labels = self.painter.lesion_labels
        if isinstance(mask, torch.Tensor):
            return torch.isin(mask, torch.as_tensor(labels, dtype=mask.dtype, device=mask.device))
        return np.isin(mask, labels)


def _where(where: Any, new: Any, old: Any) -> Any:
    """`new` of the type of `old` where it is to be, `old` elsewhere, with its metadata."""
    if isinstance(old, torch.Tensor):
        changed = old.clone()
        changed[torch.as_tensor(where, device=old.device)] = torch.as_tensor(new)[where].to(old)
        return changed
    return np.where(where, new, old).astype(old.dtype)
