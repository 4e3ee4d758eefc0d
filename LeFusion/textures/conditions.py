"""What each output is painted with: of the textures of a palette the one for an image, and the look that its
lesions get in their scan."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.parts import Part
from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError
from LeFusion.hearts.tissue import in_heart, tissue_of
from LeFusion.textures.histograms import folded, lesion_histogram, mean_bin, perturb, shift_histogram
from LeFusion.textures.layers import (
    DEPTHS_MM,
    brightest_of,
    layer_shares,
    layered_histogram,
    no_darker_than,
    with_shares,
    without_bright_border,
)
from LeFusion.textures.look import Look
from LeFusion.textures.palette import Palette
from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.surroundings import Around, lesion_and_walls, look_around

BLOOD_HU = 100.0  # vessels around a lesion are about as bright, with noise
MOST_DRAWS = 20  # of one lesion of each texture, until they are in order


@dataclass(frozen=True)
class Conditions:
    """Which texture each output gets, and what its lesions are to look like with it.

    An output is image `kind` (from 1) of a case. All that is drawn has an address of seed, case and kind.

    Attributes:
        palette: its entry i is the texture of image i; empty: lesions keep the histogram that they have.
        draw: the entry is drawn for each output instead, as common as the palette's shares say.
        perturbation: of a texture's histogram, see textures.histograms.perturb; not of a lesion's own.
        bins: of a histogram.
        seed: of all that is drawn.
        of_case: (case, kind) or case -> the entry of that image or of all images of the case, whatever the
            rest says.
        by_size: with a table of real lesions, any lesion of like size is drawn, of whatever texture: a large
            solid nodule is more common than a large ground-glass one.
    """

    palette: Palette
    draw: bool
    perturbation: float
    bins: int
    seed: int
    of_case: Mapping[str | tuple[str, int], int] = field(default_factory=dict)
    by_size: bool = False

    def choose(self, case_name: str, kind: int) -> int | None:
        """The number (from 0) of the palette's entry for an output; None: the lesion's own histogram, or with
        by_size any."""
        if not self.palette.names:
            return None
        for key in ((case_name, kind), case_name):
            if key in self.of_case:
                return self.of_case[key]
        if self.by_size:
            return None
        if not self.draw:
            return (kind - 1) % len(self.palette.names)
        generator = torch.Generator().manual_seed(address_seed(self.seed, "texture", case_name, kind))
        return int(torch.multinomial(torch.tensor(self.palette.shares), 1, generator=generator))

    def name(self, case_name: str, kind: int, looks: Sequence[Look] = ()) -> str:
        """The texture of an output; with by_size those of the real lesions that its looks are taken from."""
        chosen, table = self.choose(case_name, kind), self.palette.table
        if chosen is not None:
            return self.palette.names[chosen]
        if table is None:
            return "own"
        drawn = [table.textures[table.texture[look.drawn]] for look in looks]
        return "; ".join(dict.fromkeys(drawn)) or "realistic"

    def scores(self, look: Look) -> str:
        """Those of the real lesion that was drawn, as far as they are known: "texture_score=5 spiculation=1";
        "" where none was drawn."""
        table = self.palette.table
        if table is None or look.drawn is None:
            return ""
        found = {name: values[look.drawn] for name, values in table.scores.items()}
        return " ".join(f"{name}={value}" for name, value in found.items() if value)

    def looks(
        self, loaded: LoadedCase, kind: int, size: Sequence[int], own: Tensor | None = None
    ) -> tuple[Look, ...]:
        """What the lesions of each part of a case are to look like; see `look`.

        size: of the boxes in which they are painted.
        """
        parts = loaded.parts(size)
        return tuple(self.look(loaded, kind, own, part, number) for number, part in enumerate(parts))

    def look(
        self,
        loaded: LoadedCase,
        kind: int,
        own: Tensor | None = None,
        part: Part | None = None,
        number: int = 0,
    ) -> Look:
        """What the lesions of a part of a case are to look like in image `kind`.

        Args:
            own: (K * bins,), the lesion's own histogram where it is not the one in the image.
            part: None: all lesions.
            number: of the part, from 0.

        Raises:
            UserError: when the part has a class that the histogram chosen lacks.
        """
        part = loaded.all_lesions if part is None else part
        chosen, table = self.choose(loaded.case.name, kind), self.palette.table
        # Images 1, 2, ... of one texture each: their lesions are drawn together
        drawn = kind if chosen is None or table is None else kind - chosen
        address = (self.seed, "histogram", loaded.case.name, drawn, *([number] if number else ()))
        if table is not None:
            of_table = self._drawn_of_heart if table.classes else self._drawn_of_lung
            look = of_table(table, loaded, part, chosen, address)
        elif chosen is not None:
            look = Look(perturb(self._listed(chosen, loaded), self.perturbation, self.bins, address))
        elif own is not None:
            look = Look(own)
        else:
            look = _own_look(loaded, part, self.bins)
        classes = look.histogram.reshape(-1, self.bins)
        present = part.voxels.flatten(1).any(dim=1)
        lacking = present & (classes.sum(dim=1) == 0)
        if bool(lacking.any()):
            raise UserError(
                f"{loaded.case.mask_path}: has lesion class {int(lacking.nonzero()[0]) + 1}, for which the "
                f"texture {self.name(loaded.case.name, kind)!r} has no histogram; choose another condition"
            )
        return replace(look, histogram=(classes * present[:, None]).flatten())

    def _listed(self, chosen: int, loaded: LoadedCase) -> Tensor:
        """(K * bins,): the histogram of a palette's entry, moved to the case's own healthy tissue where
        intensities are relative to that."""
        histogram, stated_for = self.palette.histograms[chosen], self.palette.reference_mean
        if stated_for is None or loaded.reference_mean is None:
            return histogram
        return shift_histogram(histogram, loaded.reference_mean - stated_for, self.bins)

    def _drawn_of_lung(
        self, table: LesionTable, loaded: LoadedCase, part: Part, chosen: int | None, address: tuple
    ) -> Look:
        """A real lesion of like size as it would be in the case's scan: under its noise, beside its lung.
        Where the table has layers, each holds as many voxels as that of the part."""
        generator = torch.Generator().manual_seed(address_seed(*address))
        mm3, around = loaded.mm3_of(part), look_around(loaded, part)
        shares = None
        if table.depths_mm:
            _, lesions, walls = lesion_and_walls(loaded, part, around, table.depths_mm[-1])
            shares = layer_shares(lesions[0], loaded.spacing_mm, table.depths_mm, walls)

        def fitted(number: int) -> Tensor:
            layers = table.layers_in(number, around)
            if shares is None:
                return layers
            layers = without_bright_border(layers)
            layers = no_darker_than(layers, around.darkest) if around else layers
            return with_shares(layers, shares)

        if chosen is None or self.draw or self.of_case:
            number = table.pick(mm3, generator, chosen)
            layers = fitted(number)
        else:
            number, layers = _in_order(table, mm3, generator, fitted)[chosen]
        plain = folded(layers.sum(dim=0), self.bins)
        perturbed = perturb(plain, self.perturbation, self.bins, address)
        darkest = around and around.darkest - around.noise
        if not table.depths_mm:
            return Look(perturbed, drawn=number, darkest=darkest)
        factors = (perturbed / plain.clamp(min=1e-12)).repeat_interleave(table.layer_bins // self.bins)
        layers = with_shares(layers * factors, layers.sum(dim=1))
        histogram = folded(layers.sum(dim=0), self.bins)
        rim = table.rim_in(number, around)
        look = Look(histogram, layers[None], table.depths_mm, drawn=number, rim=rim)
        return look if around is None else _limited(look, around, table.window)

    def _drawn_of_heart(
        self, table: LesionTable, loaded: LoadedCase, part: Part, chosen: int | None, address: tuple
    ) -> Look:
        """A real lesion of like size with the part's labels, as it would look in the case's heart."""
        generator = torch.Generator().manual_seed(address_seed(*address))
        tissue = tissue_of(loaded)
        if tissue is None:
            raise UserError(
                f"{loaded.case.image_path}: the blood in the cavity is not brighter than the muscle, and the "
                "lesions of realistic_textures are relative to both; choose another condition"
            )
        present = part.voxels.flatten(1).any(dim=1).tolist()
        try:
            number = table.pick(loaded.mm3_of(part), generator, chosen, present)
        except UserError as error:
            raise UserError(f"{loaded.case.mask_path}: {error}; choose another condition") from None
        drawn = in_heart(table.layers_in(number), tissue, self.bins)
        histogram = perturb(drawn, self.perturbation, self.bins, address)
        around = look_around(loaded, part)
        if around is None:
            return Look(histogram, drawn=number)
        # Without how rough that is along each axis: in hearts the network's noise is like it
        one_layer = histogram.reshape(-1, 1, self.bins)
        return Look(histogram, one_layer, drawn=number, grain=(around.noise,))


def _own_look(loaded: LoadedCase, part: Part, bins: int) -> Look:
    """That which the lesions have in the image."""
    layers = layered_histogram(loaded.image(part.place), part.voxels, loaded.spacing_mm, bins)
    around = look_around(loaded, part)
    histogram = layers.sum(dim=1).flatten()
    return Look(histogram, layers, DEPTHS_MM, grain=around and around.grain)


def _limited(look: Look, around: Around, window: tuple[float, float]) -> Look:
    """The look in a scan that is known: its grain and walls, and no specks. window: HU."""
    low, high = window
    blood = 2 * (BLOOD_HU - low) / (high - low) - 1
    return replace(
        look,
        grain=around.grain,
        darkest=around.darkest - around.noise,
        brightest=max(brightest_of(look.histogram), blood),
        wall_level=around.wall_level,
    )


def _in_order(
    table: LesionTable, volume_mm3: float, generator: torch.Generator, layers_of: Callable[[int], Tensor]
) -> dict[int, tuple[int, Tensor]]:
    """A lesion of each texture, drawn until their looks are as bright to one another as the textures are, or
    MOST_DRAWS times.

    layers_of: number of a lesion -> (layers, bins). Returns texture -> (number, that of it).
    """
    for _ in range(MOST_DRAWS):
        drawn = {kind: table.pick(volume_mm3, generator, kind) for kind in table.from_dark}
        looks = {kind: layers_of(number) for kind, number in drawn.items()}
        means = [mean_bin(layers.sum(dim=0)) for layers in looks.values()]
        if means == sorted(means):
            break
    return {kind: (drawn[kind], looks[kind]) for kind in drawn}


def histogram_of(loaded: LoadedCase, looks: Sequence[Look], size: Sequence[int]) -> Tensor:
    """(cond_dim,): what all lesions of a case are to look like together, from the looks of its parts."""
    voxels = torch.stack([part.voxels.flatten(1).sum(dim=1) for part in loaded.parts(size)]).float()
    wanted = torch.stack([look.histogram.reshape(len(voxels[0]), -1) for look in looks])
    if len(looks) == 1:
        return wanted.flatten()
    return ((wanted * voxels[..., None]).sum(dim=0) / voxels.sum(dim=0)[:, None].clamp(min=1)).flatten()


def own_histogram(loaded: LoadedCase, bins: int) -> Tensor:
    """(cond_dim,): of a case's lesions in its image."""
    lesions = loaded.all_lesions
    return lesion_histogram(loaded.image(lesions.place), lesions.voxels, bins)
