"""Cases on disk -> what the networks eat: one boolean channel per lesion class, depth first, in [-1, 1]."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch.utils.data import Dataset

from LeFusion.dataset.augmentation import (
    draw_contrast,
    draw_flip_axes,
    flip,
    match_histogram,
    remap_contrast,
    turn,
)
from LeFusion.dataset.boxes import AIR, Box, crop, extent, random_box, tight_box
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.edit import carry_change, edit_masks
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import load_case, region_box
from LeFusion.dataset.parts import fits, numbered
from LeFusion.errors import UserError
from LeFusion.textures.histograms import blend_histograms, lesion_histogram, shift_histogram

REGIONS = ("whole", "lesion", "random")
OTHER_SHARE = 0.3  # how often histogram matching draws from the histograms given, not from the lesions
LABEL_ONLY = (
    0.15  # how often a sample's edit mask is the label alone, so that the network can paint that, too
)

OtherHistogram = Callable[[float, torch.Generator], torch.Tensor]


class LesionDataset(Dataset):
    """The cases of one data set as items for training or inference.

    region: "whole" = a box of exactly `size` around the organ or the lesion (see LoadedCase.region);
        "lesion" = a box just around the lesion plus `margin` voxels, at most `size` (sizes then differ
        between cases); "random" = a random box of `size` that holds the lesion, for training. Of several
        lesions that no such box holds together each draw shows one.
    augment: flip each axis with probability 0.5.
    lesion_contrast: (lowest, highest) factor by which a lesion's contrast to its surroundings is remapped at
        random (see remap_contrast), None for no such augmentation. The histogram follows, and so varies apart
        from size and surroundings: a network cannot guess it and has to obey it.
    histogram_matching: probability that a lesion's intensities are remapped, in rank order, onto the
        histogram of other lesions: one or a blend of two, drawn from the data set and `other_histograms`. Its
        own surroundings and shape, another's intensities: what a texture asks for in inference.
    other_histograms: (cond_dim,) histograms that may be drawn besides those of the data set's lesions;
        other_reference: the mean of the reference label that they are stated for, None for absolute ones.
    like_size: draw the other lesion of histogram_matching among so many of the nearest size; None: among all.
        other_of_size: (volume in mm3, generator) -> a histogram of a lesion of like size, drawn half of the
        time; it takes the place of other_histograms.
    edit_margin_mm: width of the rim around the lesions that is painted as well, see `edit_masks`;
        least_margin_mm: drawn for each sample, of this width, 1 mm more and so on up to edit_margin_mm;
        None: always the same. Changes of a lesion's intensities are carried into it as a scanner would,
        see `carry_change`.
    turns: turn by right angles in the plane, for square boxes.
    spacing_mm: see load_case.
    seed: crops and flips depend on (seed, case name, draw) only, not on order, batch size or workers.
    cache: keep what items are made of (not the volumes as stored) in memory, so that reading gzip files does
        not slow training down; at most cache_bytes, the cases that were asked for last.

    An item is a dict: image (1, D, H, W) float32 in [-1, 1]; lesions and edit (the edit masks), both
    (K, D, H, W) bool; histogram (K * bins,) float32 of the whole lesion, even where the box holds a part of
    it; name; reference_mean.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        layout: Layout,
        size: Sequence[int] = (32, 64, 64),
        window: Window = (-1000, 400),
        bins: int = 16,
        region: str = "whole",
        margin: int = 6,
        augment: bool = False,
        lesion_contrast: Sequence[float] | None = None,
        histogram_matching: float = 0.0,
        other_histograms: Sequence[torch.Tensor] = (),
        other_reference: float | None = None,
        like_size: int | None = None,
        other_of_size: OtherHistogram | None = None,
        edit_margin_mm: float = 0.0,
        least_margin_mm: float | None = None,
        turns: bool = False,
        spacing_mm: Sequence[float] | None = None,
        seed: int = 0,
        cache: bool = True,
        cache_bytes: float = math.inf,
    ):
        if region not in REGIONS:
            raise UserError(f"region {region!r} is unknown; choose one of {', '.join(REGIONS)}")
        if len(size) != 3 or min(size) < 1:
            raise UserError(f"size {tuple(size)} must be three positive numbers (depth, height, width)")
        self.cases = list(cases)
        self.layout = layout
        self.size = tuple(size)
        self.window = window
        self.bins = bins
        self.region = region
        self.margin = margin
        self.augment = augment
        if lesion_contrast is not None and not 0 < lesion_contrast[0] <= lesion_contrast[1]:
            raise UserError(f"lesion_contrast {list(lesion_contrast)} must be (lowest, highest), above 0")
        if not 0 <= histogram_matching <= 1:
            raise UserError(f"histogram_matching={histogram_matching} must be a probability, 0 to 1")
        self.lesion_contrast = lesion_contrast
        self.histogram_matching = histogram_matching
        self.other_histograms = list(other_histograms)
        self.other_reference = other_reference
        if not 0 <= edit_margin_mm < float("inf"):
            raise UserError(f"edit_margin_mm={edit_margin_mm} must be at least 0")
        if turns and self.size[1] != self.size[2]:
            raise UserError(f"turns=true needs boxes as high as wide, not {self.size}")
        if like_size is not None and like_size < 1:
            raise UserError(f"like_size={like_size} must be at least 1")
        self.like_size = like_size
        self.other_of_size = other_of_size
        least = edit_margin_mm if least_margin_mm is None else least_margin_mm
        if not 0 < least <= edit_margin_mm and least_margin_mm is not None:
            raise UserError(
                f"least_margin_mm={least:g} must be above 0 and at most edit_margin_mm={edit_margin_mm:g}"
            )
        steps = math.ceil(edit_margin_mm - least - 1e-6)
        self.margins_mm = [*(float(least + n) for n in range(steps)), float(edit_margin_mm)]
        self.turns = turns
        self.spacing_mm = spacing_mm
        self.seed = int(seed)
        if not isinstance(cache, bool):
            raise UserError(f"cache={cache!r} must be true or false")
        self.cache_bytes = cache_bytes if cache else 0
        self._cache: OrderedDict[Case, dict] = OrderedDict()
        self._looks: dict[Case, dict] = {}

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, index: int | tuple[int, int]) -> dict:
        """Item `index` of draw 0, or of the draw in a pair (index, draw) as a sampler may yield it."""
        return self.draw(*index) if isinstance(index, tuple) else self.draw(index, 0)

    def draw(self, index: int, draw: int) -> dict:
        """Item `index` with random crop and flips number `draw`; the same call gives the same item always."""
        case = self.cases[index]
        decoded = self._decode(case)
        generator = _seeded_generator(self.seed, case.name, int(draw))
        try:
            box = self._place_box(decoded, generator)
        except ValueError as error:
            raise UserError(f"{case.mask_path}: {error}; give a larger size or another region") from error
        whole, histogram = decoded["image"], decoded["histogram"]
        edit = self._edit(decoded, generator)
        if self.lesion_contrast is not None:
            drawn = draw_contrast(generator, self.lesion_contrast)
            whole = remap_contrast(whole, decoded["lesions"].any(0), *drawn)
            histogram = lesion_histogram(whole, decoded["lesions"], self.bins)
        if self.histogram_matching and float(torch.rand((), generator=generator)) < self.histogram_matching:
            target = self._draw_histogram(generator, decoded)
            whole = match_histogram(whole, decoded["lesions"], target)
            histogram = lesion_histogram(whole, decoded["lesions"], self.bins)
        if edit is not decoded["lesions"]:
            whole = carry_change(decoded["image"], whole, decoded["lesions"], decoded["spacing"])
        image = crop(whole, box, AIR)
        lesions, edit = (crop(masks, box, False) for masks in (decoded["lesions"], edit))
        if self.augment:
            image, lesions, edit = flip(image, lesions, edit, axes=draw_flip_axes(generator))
        if self.turns:
            quarters = int(torch.randint(4, (), generator=generator))
            image, lesions, edit = turn(image, lesions, edit, quarters=quarters)
        return {
            "image": image,
            "lesions": lesions,
            "edit": edit,
            "histogram": histogram.clone(),
            "name": case.name,
            "reference_mean": decoded["reference_mean"],
        }

    def _edit(self, decoded: dict, generator: torch.Generator) -> torch.Tensor:
        """The edit masks of the whole volume; now and then the lesions alone."""
        if self.margins_mm == [0] or float(torch.rand((), generator=generator)) < LABEL_ONLY:
            return decoded["lesions"]
        several = len(self.margins_mm) > 1
        number = int(torch.randint(len(self.margins_mm), (), generator=generator)) if several else 0
        key = f"edit {number}"
        if key not in decoded:
            decoded[key] = edit_masks(decoded["lesions"], self.margins_mm[number], decoded["spacing"])
        return decoded[key]

    def _draw_histogram(self, generator: torch.Generator, decoded: dict) -> torch.Tensor:
        """Half of the time a lesion's or a given one, half of the time a blend of two; for this case."""
        reference_mean = decoded["reference_mean"]
        volume = decoded["volume_mm3"]
        if self.other_of_size is not None and float(torch.rand((), generator=generator)) < 0.5:
            return self.other_of_size(volume, generator)
        pair, others = [], self.cases
        if self.like_size is not None:
            gaps = [abs(math.log(other / volume)) for other in self._volumes_mm3]
            nearest = sorted(range(len(gaps)), key=gaps.__getitem__)[: self.like_size]
            others = [self.cases[number] for number in nearest]
        for _ in range(2):
            pick, given = torch.rand(2, generator=generator).tolist()
            if self.other_histograms and given < OTHER_SHARE:
                drawn = self.other_histograms[int(pick * len(self.other_histograms))]
                reference = self.other_reference
            else:
                other = self._looks_of(others[int(pick * len(others))])
                drawn, reference = other["histogram"], other["reference_mean"]
            if reference is not None and reference_mean is not None:
                drawn = shift_histogram(drawn, reference_mean - reference, self.bins)
            pair.append(drawn)
        share, blended = torch.rand(2, generator=generator).tolist()
        return blend_histograms(*pair, share, self.bins) if blended < 0.5 else pair[0]

    @cached_property
    def _volumes_mm3(self) -> list[float]:
        return [self._looks_of(case)["volume_mm3"] for case in self.cases]

    def _looks_of(self, case: Case) -> dict:
        """Histogram, reference_mean and volume_mm3 of a case's lesions, which are always kept."""
        if case not in self._looks:
            self._decode(case)
        return self._looks[case]

    def _place_box(self, decoded: dict, generator: torch.Generator) -> Box:
        lesion = decoded["lesions"].any(0)
        if not fits(extent(lesion), self.size) and decoded["organ"] is None:
            lesion = self._one_lesion(decoded, lesion, generator)
        if self.region == "whole":
            return region_box(extent(lesion), decoded["organ"], lesion.shape, self.size)
        if self.region == "lesion":
            return tight_box(lesion, self.margin, self.size)
        return random_box(lesion, self.size, generator)

    def _one_lesion(self, decoded: dict, lesions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """(D, H, W) bool: of several lesions that no box holds together one, drawn by its volume."""
        if "numbers" not in decoded:
            decoded["numbers"] = torch.from_numpy(numbered(lesions.numpy(), None))
        numbers = decoded["numbers"]
        if int(numbers.max()) == 1:
            return lesions
        found = numbers[lesions]
        pick = found[int(torch.randint(len(found), (), generator=generator))]
        return numbers == pick

    def _decode(self, case: Case) -> dict:
        if case in self._cache:
            self._cache.move_to_end(case)
            return self._cache[case]
        loaded = load_case(case, self.layout, self.window, self.spacing_mm)
        image, lesions = loaded.image_dhw[None], loaded.lesions_dhw
        histogram = lesion_histogram(image, lesions, self.bins)
        decoded = {
            "image": image,
            "lesions": lesions,
            "histogram": histogram,
            "reference_mean": loaded.reference_mean,
            "organ": loaded.organ,
            "spacing": loaded.spacing_mm,
            "volume_mm3": float(lesions.sum()) * math.prod(loaded.spacing_mm),
        }
        self._looks[case] = {key: decoded[key] for key in ("histogram", "reference_mean", "volume_mm3")}
        self._cache[case] = decoded
        while sum(map(self._bytes, self._cache.values())) > self.cache_bytes:
            self._cache.popitem(last=False)
        return decoded

    def _bytes(self, decoded: dict) -> int:
        """Of a decoded case, with the edit masks that it may get later."""
        masks = decoded["lesions"].nbytes * (1 + (self.margins_mm != [0]) * len(self.margins_mm))
        if "numbers" in decoded:
            masks += decoded["numbers"].nbytes
        return decoded["image"].nbytes + masks


def collate(items: Sequence[dict]) -> dict:
    """Items -> batch: tensors stacked along a new first axis, everything else as lists.

    Raises ValueError when the items differ in size.
    """
    batch = {key: [item[key] for item in items] for key in items[0]}
    for key, values in batch.items():
        if not torch.is_tensor(values[0]):
            continue
        sizes = sorted({tuple(value.shape[1:]) for value in values})
        if len(sizes) > 1:
            raise UserError(
                f"a batch needs items of one size, got {sizes}; use batch size 1 or region 'whole'"
            )
        batch[key] = torch.stack(values)
    return batch


def _seeded_generator(*address) -> torch.Generator:
    """A CPU generator seeded from its address, the same on every machine."""
    digest = hashlib.sha256(repr(address).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
