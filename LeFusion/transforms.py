"""MONAI transforms that paint lesions while a network trains."""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends

from LeFusion.errors import UserError
from LeFusion.painter import Painter
from LeFusion.shared_painter import SharedPainter
from LeFusion.textures.choice import Texture

SEEDS = 2**31  # that are drawn from
SEED_KEY, TEXTURE_KEY = "painted_seed", "painted_texture"  # of the image's metadata


class _RandLesiond(RandomizableTransform, MapTransform):
    """What the transforms below share: MONAI's randomness, metadata, labels."""

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]
    seed = 0

    def __init__(
        self,
        keys: KeysCollection,
        painter: Painter,
        label_key: Hashable | None,
        prob: float,
        allow_missing_keys: bool,
        mask_key: Hashable | None = None,
    ):
        if not isinstance(painter, Painter):
            raise UserError(f"painter: is a {type(painter).__name__}; give what Painter.load returns")
        if not isinstance(prob, int | float) or not 0 <= prob <= 1:
            raise UserError(f"prob={prob!r} must be from 0 to 1")
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        for name in {label_key, mask_key} - {None}:
            if name in self.keys or label_key == mask_key:
                raise UserError(f"{name!r} is given twice: keys, mask_key and label_key must differ")
        self.painter, self.mask_key, self.label_key = painter, mask_key, label_key

    def randomize(self, data: Any = None) -> None:
        """data: what the images hold; with a SharedPainter all that is drawn depends on it."""
        if isinstance(self.painter, SharedPainter):
            self.set_random_state(seed=self.painter.seed_of(data) % 2**32)
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

    def _marked(self, label: Any, lesion: Any, values: Any) -> Any:
        """The label with these values where the lesions are, of its type and with its metadata."""
        if not isinstance(label, np.ndarray | torch.Tensor) or tuple(label.shape) != tuple(lesion.shape):
            found = (
                f"has shape {tuple(label.shape)}"
                if hasattr(label, "shape")
                else f"is a {type(label).__name__}"
            )
            raise UserError(
                f"{self.label_key}: {found}; give an array or tensor of shape {tuple(lesion.shape)}"
            )
        if isinstance(label, torch.Tensor):
            where, changed = torch.as_tensor(lesion).as_subclass(torch.Tensor), label.clone()
            new = torch.as_tensor(values).as_subclass(torch.Tensor).to(label.device, label.dtype)
            changed[where.to(label.device)] = new[where.to(label.device)]
            return changed
        return np.where(_array(lesion), _array(values), label).astype(label.dtype)


class RandPaintLesiond(_RandLesiond):
    """Paints lesions into images of a dictionary, under a mask, with a chance of `prob`.

    Put the transform before intensities are scaled: it needs the units of the painter's data type (HU in CT).
    Orientations, spacings and crops may stand before or after it, as a MetaTensor says where its voxels lie.
    A CacheDataset keeps what stands before it. Randomness is MONAI's: `set_random_state` makes it repeatable,
    and a DataLoader gives each worker a state of its own.

    The geometry stays, so there is nothing to invert: inverses of other transforms pass over this one, as
    over MONAI's own intensity transforms. The metadata of an image get `painted_seed` and `painted_texture`,
    such as that of the real lesion drawn; with that seed and this transform's `texture`, `painter.paint`
    paints the same. Where nothing was painted they are -1 and "".

    Args:
        keys: of the images, (1, X, Y, Z) each.
        mask_key: of the mask: where the lesions are, with the data type's labels. An image whose mask has no
            lesion, such as a crop beside it, stays as it is.
        painter: see Painter.load; processes paint on a CPU, with one thread each. Or SharedPainter.load:
            draws by address instead of from MONAI's random state.
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
        texture: Texture | None = None,
        label_key: Hashable | None = None,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, painter, label_key, prob, allow_missing_keys, mask_key)
        painter.conditions(texture, seed=0)  # refuses an unknown texture now
        self.texture = texture

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with painted images, and `label_key`. Raises UserError as Painter.paint does."""
        given = dict(data)
        mask = given[self.mask_key]
        images = [given[key] for key in self.key_iterator(given)]
        for name, one in ((self.mask_key, mask), *zip(self.key_iterator(given), images, strict=True)):
            if not isinstance(one, np.ndarray | torch.Tensor):
                raise UserError(f"{name}: is a {type(one).__name__}; load it before, see LoadImaged")
        lesion = np.isin(_array(mask), self.painter.lesion_labels)
        has_lesion, content = bool(lesion.any()), ""
        if has_lesion and isinstance(self.painter, SharedPainter):
            content = _content(_around(lesion), mask, *images)
        self.randomize(content)
        paints = self._do_transform and has_lesion
        for key in self.key_iterator(given):
            if paints:
                painted, name = self._painted(given[key], mask, f"{key} {content}")
                given[key] = self.note(painted, self.seed, name)
            else:
                given[key] = self.note(given[key])
        if self.label_key is not None:
            label = given.get(self.label_key)
            label = _empty(mask) if label is None else label
            given[self.label_key] = self._marked(label, lesion, mask) if paints else label
        return given

    def _painted(self, image: Any, mask: Any, content: str) -> tuple[Any, str]:
        """The painted image and its texture; a SharedPainter may have what changes from an earlier epoch."""
        if not isinstance(self.painter, SharedPainter) or self.painter.every == 1:
            return self.painter.paint_named(image, mask, self.texture, self.seed)
        key = f"{content} {self.texture} {self.seed}"
        kept = self.painter.kept(key)
        if kept is None:
            painted, name = self.painter.paint_named(image, mask, self.texture, self.seed)
            place = _around(painted != image)
            box = torch.from_numpy(np.ascontiguousarray(_array(painted)[place]))
            corners = [(one.start, one.stop) for one in place]
            self.painter.keep(key, {"place": corners, "box": box, "texture": name})
            return painted, name
        painted = image.detach().clone() if isinstance(image, torch.Tensor) else image.copy()
        place = tuple(slice(*one) for one in kept["place"])
        painted[place] = kept["box"] if isinstance(image, torch.Tensor) else kept["box"].numpy()
        return painted, kept["texture"]


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
        texture: str | int | None = None,
        diameter_mm: float | Sequence[float] | str = "regions",
        label_key: Hashable | None = None,
        prob: float = 0.5,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, painter, label_key, prob, allow_missing_keys)
        self.lesions = lesions
        self.options = {"texture": texture, "diameter_mm": diameter_mm}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with lesions in images, and `label_key`. Raises UserError as Painter.insert does."""
        given = dict(data)
        shared = isinstance(self.painter, SharedPainter)
        images = [given[key] for key in self.key_iterator(given)] if shared else []
        self.randomize(_content((slice(None),) * 3, *images) if shared else "")
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
                new = self._marked(old, lesion, lesion * self.painter.lesion_labels[0])
            if self.label_key is not None:
                given[self.label_key] = new
        return given


def _content(place: tuple[slice, ...], *images: Any) -> str:
    """What identifies images: their voxels at a place, which that is, and their shapes."""
    found = hashlib.blake2b(repr((place, [tuple(image.shape) for image in images])).encode(), digest_size=16)
    for image in images:
        found.update(_array(image)[(..., *place[-3:])].tobytes())
    return found.hexdigest()


def _around(where: Any) -> tuple[slice, ...]:
    """The smallest box that holds all that is True; one voxel where nothing is."""
    where = _array(where)
    box = []
    for axis in range(where.ndim):
        found = np.flatnonzero(where.any(axis=tuple(n for n in range(where.ndim) if n != axis)))
        box.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 1))
    return tuple(box)


def _array(image: Any) -> np.ndarray:
    """As NumPy's, without a copy where it is on the CPU."""
    if not isinstance(image, torch.Tensor):
        return image
    plain = image.detach().as_subclass(torch.Tensor).cpu()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()  # NumPy has no bfloat16


def _empty(image: Any) -> Any:
    """A label map of zeros beside an image, of its kind."""
    return (image * 0).to(torch.uint8) if isinstance(image, torch.Tensor) else np.zeros(image.shape, np.uint8)
