"""MONAI transforms that paint lesions while a network trains."""

from collections.abc import Hashable, Mapping, Sequence
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


class _RandLesiond(RandomizableTransform, MapTransform):
    """What the transforms below share: MONAI's randomness, metadata, labels."""

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]
    seed = 0

    def randomize(self, data: Any = None) -> None:
        super().randomize(None)
        if self._do_transform:
            self.seed = int(self.R.randint(SEEDS))

    def note(self, image: Any, seed: int = -1, texture: str = "") -> Any:
        """The image with what was painted in its metadata, where it has some."""
        if isinstance(image, MetaTensor):
            if seed < 0:
                image = image.clone()  # other metadata than those of what was given
            image.meta |= {SEED_KEY: seed, TEXTURE_KEY: texture}
        return image


class RandPaintLesiond(_RandLesiond):
    """Paints lesions into images of a dictionary, under a mask, with a chance of `prob`.

    Put the transform before intensities are scaled: it needs the units of the painter's data type (HU in CT).
    Orientations, spacings and crops may stand before or after it, as a MetaTensor says where its voxels lie.
    A CacheDataset keeps what stands before it. Randomness is MONAI's: `set_random_state` makes it repeatable,
    and a DataLoader gives each worker a state of its own.

    The geometry stays, so there is nothing to invert: inverses of other transforms pass over this one, as
    over MONAI's own intensity transforms. The metadata of an image get `painted_seed` and `painted_texture`;
    with that seed `painter.paint` paints the same. Where nothing was painted they are -1 and "".

    Args:
        keys: of the images, (1, X, Y, Z) each.
        mask_key: of the mask: where the lesions are, with the data type's labels. An image whose mask has no
            lesion, such as a crop beside it, stays as it is.
        painter: see Painter.load. Processes paint on a CPU, with one thread each.
        texture: see Painter.paint.
        label_key: of the label to train on: lesions that were painted are set to their value in the mask, the
            rest stays. A dictionary without a label gets one, 0 where nothing was painted. None: no label.
        prob: how often an image is painted, 0 to 1.
        allow_missing_keys: whether images may be missing.

    Raises:
        UserError: for an unknown texture.
    """

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

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paints.

        Args:
            data: the dictionary.

        Returns:
            A dictionary with the same keys, and `label_key`.

        Raises:
            UserError: as Painter.paint does.
        """
        given = dict(data)
        self.randomize()
        mask = given[self.mask_key]
        lesion = self._lesion(mask)
        paints = self._do_transform and bool(lesion.any())
        for key in self.key_iterator(given):
            if paints:
                given[key] = self.painter.paint(given[key], mask, self.texture, self.seed)
            name = self.painter.conditions(self.texture, self.seed).name("image", 1) if paints else ""
            given[key] = self.note(given[key], self.seed if paints else -1, name)
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


class RandInsertLesiond(_RandLesiond):
    """Inserts lesions into whole chest CTs of a dictionary, with a chance of `prob`, see Painter.insert.

    Put the transform before crops and before intensities are scaled: it needs whole scans in HU. It takes
    seconds for each; a PaintedPool does this ahead. Randomness, metadata and inverses are as those of
    RandPaintLesiond; `painted_texture` has the textures of all lesions.

    Args:
        keys: of the images, (1, X, Y, Z) each.
        painter: see Painter.load; of lung weights.
        lesions: how many, or (fewest, most).
        texture: see Painter.insert.
        diameter_mm: see Painter.insert.
        label_key: of the label to train on: voxels of lesions are set to the data type's lesion label, the
            rest stays. A dictionary without a label gets one, 0 where nothing was painted. None: no label.
        prob: how often lesions are inserted, 0 to 1.
        allow_missing_keys: whether images may be missing.
    """

    def __init__(
        self,
        keys: KeysCollection,
        painter: Painter,
        lesions: int | Sequence[int] = (1, 3),
        texture: str | int = "realistic",
        diameter_mm: float | Sequence[float] | None = None,
        label_key: Hashable | None = None,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ):
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.painter, self.lesions, self.label_key = painter, lesions, label_key
        self.options = {"texture": texture, "diameter_mm": diameter_mm}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Inserts.

        Args:
            data: the dictionary.

        Returns:
            A dictionary with the same keys, and `label_key`.

        Raises:
            UserError: as Painter.insert does.
        """
        given = dict(data)
        self.randomize()
        for key in self.key_iterator(given):
            label = None if self.label_key is None else given.get(self.label_key)
            if not self._do_transform:
                given[key] = self.note(given[key])
                new = _empty(given[key]) if label is None else label
            else:
                found = self.painter.insert(given[key], self.lesions, self.seed, **self.options)
                textures = ", ".join(lesion.texture for lesion in found.lesions)
                given[key] = self.note(found.image, self.seed, textures)
                lesion = found.labels > 0
                old = _empty(found.labels) if label is None else label
                new = _where(lesion, lesion * self.painter.lesion_labels[0], old)
            if self.label_key is not None:
                given[self.label_key] = new
        return given


def _empty(image: Any) -> Any:
    """A label map of zeros beside an image, of its kind."""
    return (image * 0).to(torch.uint8) if isinstance(image, torch.Tensor) else np.zeros(image.shape, np.uint8)


def _where(where: Any, new: Any, old: Any) -> Any:
    """`new` of the type of `old` where it is to be, `old` elsewhere, with its metadata."""
    if isinstance(old, torch.Tensor):
        changed = old.clone()
        changed[torch.as_tensor(where, device=old.device)] = torch.as_tensor(new)[where].to(old)
        return changed
    return np.where(where, new, old).astype(old.dtype)
