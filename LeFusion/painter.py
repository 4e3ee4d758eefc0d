"""Painting the lesions of a case: value in, value out. Commands and training loops call the same."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from nibabel.spatialimages import SpatialImage
from torch import Tensor

from LeFusion.box_painter import BoxPainter, paint_case
from LeFusion.dataset.axes import refuse_turned
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import LoadedCase, load_case
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import Checkpoint, load_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.errors import UserError, check_whole, plain_value
from LeFusion.images import given_image, placed
from LeFusion.painting import DTYPES
from LeFusion.runtime.commandline import choose_device
from LeFusion.runtime.memory import BatchSize, largest_batch, needs_less_memory
from LeFusion.settings import InferenceSettings, InsertSettings
from LeFusion.tasks import Key, MakeTask, Patch, Task, paint_together
from LeFusion.textures.choice import Texture, conditions_of
from LeFusion.textures.conditions import Conditions
from LeFusion.textures.look import Look
from LeFusion.weights import painter_settings

if TYPE_CHECKING:
    from LeFusion.insertion.call import Inserted
    from LeFusion.insertion.sites import Site
    from LeFusion.insertion.tools import Tools

Image = TypeVar("Image")


@dataclass(frozen=True, eq=False)
class Painter(BoxPainter):
    """Paints lesions into images.

    `Painter.load` makes a painter, `paint` paints under masks, `insert` puts lesions into whole CTs; all else
    is for the commands. Painting changes nothing in a painter, so threads may share one. A painter can be
    pickled, so each process may have its own.

    Attributes:
        settings: of the data type and its textures; None: the painter is for `paint_lesions` only.
        knows_sizes: whether the weights were trained on textures of real lesions of like size.
    """

    settings: InferenceSettings | None = None
    knows_sizes: bool = False

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike = "lidc",
        *,
        data_type: str | os.PathLike | None = None,
        device: str = "auto",
        precision: str = "no",
        sampler: str | None = None,
        **settings: Any,
    ) -> "Painter":
        """A painter with the settings of the command `lefusion paint`.

        Args:
            weights: a data type, for the weights that the command has by default (lidc, emidec, chest_ct: the
                released ones where they are in their place, else the bundled ones); the name of bundled
                weights (lidc_edit, lidc_small, emidec_small); or a file, .safetensors or .pt.
            data_type: of configs/data_type, or a YAML file; None: what the weights were trained on.
            device: auto, cpu, cuda, cuda:1, ...
            precision: "no" (float32), bf16 or fp16.
            sampler: ddim, dpmpp or repaint; None: the command's default.
            **settings: other keys of configs/inference.yaml, such as num_steps=25 or edit_margin_mm=0.

        Returns:
            The painter, with its network on the device.

        Raises:
            UserError: for unknown names and values, and weights that do not fit the data type.
        """
        changes = settings | {"device": device, "precision": precision}
        given = painter_settings(weights, data_type, sampler, changes)
        checkpoint = load_checkpoint(given.model_path)
        painter = cls.from_settings(given, checkpoint)
        checkpoint.network.to(choose_device(device), DTYPES[precision])
        if given.compile:
            compile_network(checkpoint.network, cuda_graphs=True)
        return painter

    @classmethod
    def from_settings(cls, settings: InferenceSettings, checkpoint: Checkpoint) -> "Painter":
        """The same with the network of a checkpoint, where it is."""
        painter = cls.of_settings(settings, checkpoint)
        return replace(painter, settings=settings, knows_sizes=bool(checkpoint.metadata.get("lesion_table")))

    @overload
    def paint(self, image: list[Image], mask: Sequence[Any], *args: Any, **kwargs: Any) -> list[Image]: ...
    @overload
    def paint(self, image: str | os.PathLike, mask: Any, *args: Any, **kwargs: Any) -> SpatialImage: ...
    @overload
    def paint(self, image: Image, mask: Any, *args: Any, **kwargs: Any) -> Image: ...
    def paint(
        self,
        image: Any,
        mask: Any,
        texture: Texture | None = None,
        seed: int = 0,
        *,
        affine: np.ndarray | None = None,
        name: str = "image",
        kind: int = 1,
    ) -> Any:
        """Paints lesions into an image, under a mask.

        Args:
            image: a NumPy array or PyTorch tensor, (X, Y, Z) or (1, X, Y, Z), a nibabel or SimpleITK image,
                or the path of a file; in the units of the data type (HU in CT). A list of them: each is
                painted as alone, image i with seed + i; on a GPU together.
            mask: of any of these kinds, on the grid of the image: the data type's lesion labels, 0 elsewhere.
            texture: what the command takes as `condition`: "realistic" (a real lesion of like size), one of
                `textures`, by name or number, "mixture" (drawn, as common as they are), "own" (the
                intensities under the mask), a list of bins, or scores of the real lesions to draw from, such
                as {"texture_score": [4, 5]}; None: `default_texture`.
            seed: of the noise and of all that is drawn.
            affine: (4, 4), voxel index to mm, of arrays without one; None: voxels of 1 mm. A mask
                without one has that of the image.
            name: of the case. With the command's name and kind the voxels are those of the command.
            kind: number of the image among those of the case, from 1: i for the command's Image_i.

        Returns:
            What was given as `image`, with its type, device, spacing, affine and metadata: other voxels under
            the mask and in the rim of edit_margin_mm, the same numbers elsewhere. For a path a nibabel image.

        Raises:
            UserError: one line that names the argument: shapes, grids, labels and units that do not fit, NaN,
                values that the image's type cannot hold, lesions larger than the network's box.
        """
        return self.paint_named(image, mask, texture, seed, affine, name, kind)[0]

    def paint_named(
        self, image: Any, mask: Any, texture: Texture | None = None, seed=0, affine=None, name="image", kind=1
    ) -> tuple[Any, Any]:
        """The same, and the name of the texture that was painted, such as that of the real lesion drawn; a
        list of names for a list of images."""
        seed, kind = check_whole("seed", seed), check_whole("kind", kind, least=1)
        many = isinstance(image, list | tuple)
        images, masks = (list(image), list(mask)) if many else ([image], [mask])
        if len(images) != len(masks):
            raise UserError(f"mask: there are {len(masks)} masks for {len(images)} images")
        given, loaded, conditions = [], [], []
        for number, pair in enumerate(zip(images, masks, strict=True)):
            which = f" {number}" if many else ""
            both = given_image(pair[0], f"image{which}"), given_image(pair[1], f"mask{which}")
            source, labels = placed(*both, affine)
            given.append(source)
            loaded.append(self._load(name, source.volume, labels.volume))
            conditions.append(self.conditions(texture, seed + number, kind))
        boxes = {number: self.boxes(case) for number, case in enumerate(loaded)}
        looks = [chosen.looks(case, kind, self.size) for case, chosen in zip(loaded, conditions, strict=True)]

        def task(number: int, part: int, earlier: Sequence[Patch]) -> Task:
            address = seed + number, name, kind
            return Task(loaded[number], part, boxes[number], looks[number][part], address, earlier)

        painted: dict[int, Any] = {}
        size = self.batch_size(boxes, task)
        for done in paint_together(self.paint_boxes, boxes, task, size):
            for number, (patches, _) in done.items():
                case = loaded[number]
                painted[number] = given[number].like(self.painted(case, patches, case.case.image_path).raw)
        results = [painted[number] for number in range(len(images))]
        names = [chosen.name(name, kind, drawn) for chosen, drawn in zip(conditions, looks, strict=True)]
        return (results, names) if many else (results[0], names[0])

    def insert(
        self,
        image: Image,
        lesions: "int | Sequence[int] | Sequence[Site]" = 3,
        seed: int = 0,
        *,
        texture: str | int | None = None,
        diameter_mm: float | Sequence[float] | str = "regions",
        affine: np.ndarray | None = None,
    ) -> "Inserted[Image]":
        """Inserts lesions into a whole chest CT, as `lefusion insert` does.

        The method finds the lung, draws places and diameters, makes masks and paints them.

        Args:
            image: as `paint` takes it, in HU. Directions and voxel sizes count, so arrays need `affine`.
            lesions: how many; (fewest, most), to draw the number; or sites, see
                LeFusion.insertion.sites.Site.
            seed: of everything that is drawn.
            texture: "realistic" (a real lesion of like size), "mixture", or the name or number of one; of
                lesions whose sites name none. None: `default_texture`.
            diameter_mm: longest axial diameter of lesions whose sites name none: a number, (low, high), or
                drawn from real nodules: "regions" (of the training regions) or "lidc" (of all LIDC-IDRI, of
                which most are small).
            affine: (4, 4), voxel index to mm (RAS), of arrays without one; None: voxels of 1 mm whose axes
                run to the right, front and top.

        Returns:
            The scan with lesions, their labels and what each of them is, see
            LeFusion.insertion.call.Inserted. For a path, images of nibabel.

        Raises:
            UserError: for a scan that is no CT in HU, a lung that is not found, sites outside the lung,
                unknown textures, and lesions that find no place.
        """
        from LeFusion.insertion.call import inserted

        given = given_image(image, "image")
        if affine is not None:
            given, _ = placed(given, given, affine)
        seed = check_whole("seed", seed)
        return inserted(*self._insertion, given, lesions, seed, texture, diameter_mm)

    @cached_property
    def _insertion(self) -> "tuple[Tools, InsertSettings]":
        """Loaded with the first lesion that is inserted."""
        from LeFusion.insertion.call import insertion_tools

        return insertion_tools(self, self._of_data())

    @property
    def textures(self) -> tuple[str, ...]:
        """The names that `texture` may have, such as ground-glass, part-solid and solid."""
        return self.conditions("mixture", 0).palette.names

    @property
    def default_texture(self) -> str:
        """What is painted where no `texture` is named: "realistic" where the data type has real lesions to
        draw from and `load` was given no other textures, else "mixture"."""
        return self._of_data().default_texture

    @property
    def lesion_labels(self) -> tuple[int, ...]:
        """The values that lesions have in masks."""
        return tuple(self._of_data().layout.lesion_labels)

    def conditions(self, texture: Texture | None, seed: int, kind: int = 1) -> Conditions:
        """What `texture` means, for a seed. Raises UserError for an unknown one."""
        texture = plain_value(texture)
        named = f"scores {texture}" if isinstance(texture, Mapping) else texture
        kept = isinstance(named, str | int) and not isinstance(named, bool)  # not lists, nor True, which is 1
        key = named if kept else None, kind
        found = self._chosen.get(key)
        if found is None:
            found = conditions_of(self._of_data(), texture, kind, self.knows_sizes)
            if key[0] is not None:
                self._chosen[key] = found
        return replace(found, seed=seed)

    @cached_property
    def _chosen(self) -> dict[tuple, Conditions]:
        """Textures that were read before."""
        return {}

    def _of_data(self) -> InferenceSettings:
        if self.settings is None:
            raise UserError("this painter knows no data type; make it by Painter.load, or use paint_lesions")
        return self.settings

    def _load(self, name: str, image: Volume, mask: Volume) -> LoadedCase:
        settings = self._of_data()
        self.refuse(image)
        case = Case(name, image.path, mask.path)
        volumes = {image.path: image, mask.path: mask}
        return load_case(
            case, settings.layout, settings.window, settings.spacing_mm, read=volumes.__getitem__
        )

    def refuse(self, image: Volume) -> None:
        """Raises UserError for an image whose slices lie along another axis than the data type says."""
        if (given := self._of_data()).modality == "CT":
            refuse_turned(image, given.layout, given.diffusion_depth_size, given.data_type)

    def batch_size(self, boxes: Mapping[Key, Sequence[Box]], task: MakeTask[Key]) -> BatchSize:
        """How many boxes go through the network at once. For auto as many of the largest as a GPU's memory
        holds; a CPU takes one at a time anyway."""
        given = self._of_data()
        size = 1 if given.batch_size == "auto" else given.batch_size
        device = self.device
        if given.batch_size == "auto" and boxes and device.type != "cpu":
            key, number = max(
                ((key, number) for key, found in boxes.items() for number in range(len(found))),
                key=lambda at: math.prod(boxes[at[0]][at[1]].size),
            )
            sampler = replace(self.sampler, num_steps=1, jump_length=1, jump_n_sample=1)
            once, largest = replace(self, sampler=sampler), task(key, number, ())
            size = largest_batch(lambda: once.paint_boxes([largest]), device)
        used = (given.precision, self.region, self.sampler.guidance_scale)
        return BatchSize(size, needs_less_memory(*used))


def paint_lesions(
    painter: Painter,
    image: np.ndarray,
    labels: np.ndarray,
    histogram: Tensor | Look | None,
    layout: Layout,
    window: Window,
    affine: np.ndarray | None = None,
    spacing_mm: Sequence[float] | None = None,
    seed: int = 0,
    name: str = "image",
    kind: int = 1,
) -> np.ndarray:
    """Paints lesions into an image.

    Args:
        painter: see Painter.of.
        image: (X, Y, Z) integers or floats, in the units of `window` (HU in CT).
        labels: (X, Y, Z), where lesions are: the layout's lesion_labels; 0 and other_labels elsewhere.
        histogram: (K * bins,) intensities of the lesions over the window, each class's sum 1, see
            LeFusion.textures.histograms.condition_from_counts; or what Conditions.look gives, which knows
            where in a lesion they lie; None: without condition.
        layout: which axis is the depth, or the orientation; and the labels.
        window: (lowest, highest) intensity, "minmax" or percentiles, as in the network's training.
        affine: (4, 4), voxel index to mm, where the layout has an orientation, for spacing_mm, and for the
            painter's edit_margin_mm; None: voxels of 1 mm.
        spacing_mm: (depth, height, width) of the voxels that the network sees; None: those of the image.
        seed: of the noise.
        name: of the case. With the command's name and kind the voxels are those of the command.
        kind: number of the image among those of the case, from 1.

    Returns:
        (X, Y, Z) of the data type of `image`: painted under the lesion labels and in the rim of the painter's
        edit_margin_mm, the same numbers elsewhere. On one device equal to what the command writes for the
        same seed, name and type.

    Raises:
        UserError: for shapes, labels or an affine that do not fit, and lesions that are larger than the
            painter's size.
    """
    affine = np.eye(4) if affine is None else np.asarray(affine, float)
    case = Case(name, Path(name), Path(f"labels of {name}"))
    volumes = {
        case.image_path: Volume(case.image_path, np.asarray(image), 1.0, 0.0, affine, None),
        case.mask_path: Volume(case.mask_path, np.asarray(labels), 1.0, 0.0, affine, None),
    }
    loaded = load_case(case, layout, window, spacing_mm, read=volumes.__getitem__)
    look = Look(histogram) if isinstance(histogram, Tensor) else histogram
    patches = paint_case(painter, loaded, lambda part: look, (seed, name, kind))
    return painter.painted(loaded, patches, case.image_path).raw
