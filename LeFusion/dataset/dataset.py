"""Cases on disk -> what the networks eat: one boolean channel per lesion class, depth first, in [-1, 1]."""

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property

import torch
from torch.utils.data import Dataset

from LeFusion.dataset.augmentation import (
    Augmentation,
    draw_contrast,
    draw_flip_axes,
    flip,
    match_histogram,
    remap_contrast,
    turn,
)
from LeFusion.dataset.boxes import AIR, Box, crop, extent, random_box
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.edit import carry_change, edit_masks
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import load_case, region_box
from LeFusion.dataset.parts import fits, numbered
from LeFusion.errors import UserError
from LeFusion.textures.histograms import blend_histograms, lesion_histogram, shift_histogram

REGIONS = ("whole", "random")
OTHER_SHARE = 0.3  # how often histogram matching draws from the histograms given, not from the lesions
LABEL_ONLY = 0.15  # how often a sample's edit mask is the label alone, for networks that can paint that, too


class LesionDataset(Dataset):
    """The cases of one data set as items for training.

    size: (depth, height, width) of an item. region: what its box holds: "whole" = the organ or the lesion in
        the middle (see LoadedCase.region); "random" = the lesion anywhere in it. Of several lesions that no
        such box holds together each draw shows one.
    window, spacing_mm: see load_case. bins: of the histogram of each class.
    edit_margin_mm: width of the rim around the lesions that is painted as well, see `edit_masks`;
        least_margin_mm: drawn for each sample, of this width, 1 mm more and so on up to edit_margin_mm;
        None: always the same. Changes of a lesion's intensities are carried into it as a scanner would,
        see `carry_change`.
    seed: what is drawn depends on (seed, case name, draw) only, not on order, batch size or workers.
    cache_bytes: what items are made of (not the volumes as stored) is kept in memory up to this size, for the
        cases that were asked for last, so that reading gzip files does not slow training down.

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
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
        edit_margin_mm: float = 0.0,
        least_margin_mm: float | None = None,
        spacing_mm: Sequence[float] | None = None,
        seed: int = 0,
        cache_bytes: float = math.inf,
    ):
        if region not in REGIONS:
            raise UserError(f"region {region!r} is unknown; choose one of {', '.join(REGIONS)}")
        if len(size) != 3 or min(size) < 1:
            raise UserError(f"size {tuple(size)} must be three positive numbers (depth, height, width)")
        if augmentation.turns and size[1] != size[2]:
            raise UserError(f"turns=true needs boxes as high as wide, not {tuple(size)}")
        self.cases, self.layout, self.size = list(cases), layout, tuple(size)
        self.window, self.bins, self.region, self.spacing_mm = window, bins, region, spacing_mm
        self.augmentation, self.seed, self.cache_bytes = augmentation, int(seed), cache_bytes
        self.margins_mm = _margins_mm(edit_margin_mm, least_margin_mm)
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
        whole, histogram, given = decoded["image"], decoded["histogram"], self.augmentation
        edit = self._edit(decoded, generator)
        if given.lesion_contrast is not None:
            drawn = draw_contrast(generator, given.lesion_contrast)
            whole = remap_contrast(whole, decoded["lesions"].any(0), *drawn)
            histogram = lesion_histogram(whole, decoded["lesions"], self.bins)
        often = given.matching.probability
        if often and float(torch.rand((), generator=generator)) < often:
            target = self._draw_histogram(generator, decoded)
            whole = match_histogram(whole, decoded["lesions"], target)
            histogram = lesion_histogram(whole, decoded["lesions"], self.bins)
        if edit is not decoded["lesions"]:
            whole = carry_change(decoded["image"], whole, decoded["lesions"], decoded["spacing"])
        image = crop(whole, box, AIR)
        lesions, edit = (crop(masks, box, False) for masks in (decoded["lesions"], edit))
        if given.flips:
            image, lesions, edit = flip(image, lesions, edit, axes=draw_flip_axes(generator))
        if given.turns:
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
        given, volume = self.augmentation.matching, decoded["volume_mm3"]
        reference_mean = decoded["reference_mean"]
        if given.of_size is not None and float(torch.rand((), generator=generator)) < 0.5:
            return given.of_size(volume, generator)
        pair, others = [], self.cases
        if given.like_size is not None:
            gaps = [abs(math.log(other / volume)) for other in self._volumes_mm3]
            nearest = sorted(range(len(gaps)), key=gaps.__getitem__)[: given.like_size]
            others = [self.cases[number] for number in nearest]
        for _ in range(2):
            pick, which = torch.rand(2, generator=generator).tolist()
            if len(given.histograms) and which < OTHER_SHARE:
                drawn, reference = given.histograms[int(pick * len(given.histograms))], given.reference
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
    """Items -> batch: tensors stacked along a new first axis, everything else as lists."""
    batch = {key: [item[key] for item in items] for key in items[0]}
    return {key: torch.stack(found) if torch.is_tensor(found[0]) else found for key, found in batch.items()}


def _margins_mm(most: float, least: float | None) -> list[float]:
    """The widths of the rim that are drawn: from the least one in steps of 1 mm, and the largest."""
    if not 0 <= most < math.inf:
        raise UserError(f"edit_margin_mm={most} must be at least 0")
    if least is None:
        return [float(most)]
    if not 0 < least <= most:
        raise UserError(f"least_margin_mm={least:g} must be above 0 and at most edit_margin_mm={most:g}")
    return [*(float(least + n) for n in range(math.ceil(most - least - 1e-6))), float(most)]


def _seeded_generator(*address) -> torch.Generator:
    """A CPU generator seeded from its address, the same on every machine."""
    digest = hashlib.sha256(repr(address).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
