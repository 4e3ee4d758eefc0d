"""The histogram that an image is painted with: what `condition` in a configuration may be."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from LeFusion.dataset.cases import Case
from LeFusion.dataset.loading import LoadedCase, load_case
from LeFusion.dataset.parts import Part
from LeFusion.diffusion import address_seed
from LeFusion.errors import UserError
from LeFusion.hearts.tissue import in_heart, tissue_of
from LeFusion.settings import InferenceSettings
from LeFusion.textures.histograms import (
    condition_from_counts,
    folded,
    lesion_histogram,
    mean_bin,
    perturb,
    shift_histogram,
)
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
from LeFusion.textures.of_cases import textures_of_cases
from LeFusion.textures.palette import Palette, load_palette, realistic_palette
from LeFusion.textures.realistic import HIGHEST_SCORES, LesionTable
from LeFusion.textures.surroundings import lesion_and_walls, look_around

BLOOD_HU = 100.0  # vessels around a lesion are about as bright, with noise
MOST_DRAWS = 20  # of one lesion of each texture, until they are in order

# A condition of the command: a name or number of a texture, mixture, own, ..., or bins; or scores of the real
# lesions to draw from, such as {"texture_score": 5}
Texture = str | int | Sequence[float] | Mapping[str, int | Sequence[int]]


@dataclass(frozen=True)
class Conditions:
    """Which histogram each output gets.

        palette: one entry for output 1, 2, ... of a case; or, with draw, drawn for each output by the shares;
    empty: the lesion's own histogram. perturbation: see textures.histograms.perturb; not of own histograms.
    of_case: the entry of all outputs of a case or, under (case, kind), of that one, whatever the rest says.
    by_size: of a table, any lesion of like size: a large solid nodule is more common than a large
    ground-glass one.
    """

    palette: Palette
    draw: bool
    perturbation: float
    bins: int
    seed: int
    of_case: Mapping[str | tuple[str, int], int] = field(default_factory=dict)
    by_size: bool = False

    def choose(self, case_name: str, kind: int) -> int | None:
        """The number (from 0) of the palette's entry for output `kind` (from 1) of a case; None: its own, or
        with by_size any."""
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
        """The texture of output `kind`; with by_size those of these looks."""
        chosen, table = self.choose(case_name, kind), self.palette.table
        if chosen is not None:
            return self.palette.names[chosen]
        if table is None:
            return "own"
        drawn = [table.textures[table.texture[look.drawn]] for look in looks]
        return "; ".join(dict.fromkeys(drawn)) or "realistic"

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
        """What the lesions of a part of a case are to look like.

        own: the histogram of the lesion itself where it is not the one in the image. part: None: all lesions;
        number: of the part, from 0. Raises UserError when the part has a class that the histogram chosen
        lacks.
        """
        part = loaded.all_lesions if part is None else part
        chosen = self.choose(loaded.case.name, kind)
        table = self.palette.table
        # images 1, 2, ... of one texture each: lesions that are drawn together
        drawn = kind if chosen is None or table is None else kind - chosen
        address = (self.seed, "histogram", loaded.case.name, drawn, *([number] if number else ()))
        if table is not None:
            look = self._drawn(table, loaded, part, chosen, address)
        elif chosen is None and own is None:
            layers = layered_histogram(loaded.image(part.place), part.voxels, loaded.spacing_mm, self.bins)
            around = look_around(loaded, part)
            wanted = layers.sum(dim=1).flatten()
            look = Look(wanted, layers, DEPTHS_MM, grain=around and around.grain)
        elif chosen is None:
            look = Look(own)
        else:
            wanted = self.palette.histograms[chosen]
            if self.palette.reference_mean is not None and loaded.reference_mean is not None:
                shift = loaded.reference_mean - self.palette.reference_mean
                wanted = shift_histogram(wanted, shift, self.bins)
            look = Look(perturb(wanted, self.perturbation, self.bins, address))
        classes = look.histogram.reshape(-1, self.bins)
        present = part.voxels.flatten(1).any(dim=1)
        lacking = present & (classes.sum(dim=1) == 0)
        if bool(lacking.any()):
            raise UserError(
                f"{loaded.case.mask_path}: has lesion class {int(lacking.nonzero()[0]) + 1}, for which the "
                f"texture {self.name(loaded.case.name, kind)!r} has no histogram; choose another condition"
            )
        return replace(look, histogram=(classes * present[:, None]).flatten())

    def scores(self, wanted: Look) -> str:
        """Those of the real lesion that was drawn, as far as they are known: "texture_score=5 spiculation=1";
        "" where none was drawn."""
        table = self.palette.table
        if table is None or wanted.drawn is None:
            return ""
        found = {name: values[wanted.drawn] for name, values in table.scores.items()}
        return " ".join(f"{name}={value}" for name, value in found.items() if value)

    def _drawn(
        self, table: LesionTable, loaded: LoadedCase, part: Part, chosen: int | None, address: tuple
    ) -> Look:
        """A real lesion of like size, as under the noise of the case's image; layers (1, layers, layer_bins)
        where the table has them, with as many voxels in each as the part has."""
        generator = torch.Generator().manual_seed(address_seed(*address))
        mm3 = float(part.voxels.sum()) * math.prod(loaded.spacing_mm)
        if table.classes:
            return self._drawn_of_heart(table, mm3, generator, chosen, loaded, part, address)
        around = look_around(loaded, part)
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
        drawn = folded(layers.sum(dim=0), self.bins)
        wanted = perturb(drawn, self.perturbation, self.bins, address)
        darkest = around and around.darkest - around.noise
        if not table.depths_mm:
            return Look(wanted, drawn=number, darkest=darkest)
        factors = (wanted / drawn.clamp(min=1e-12)).repeat_interleave(table.layer_bins // self.bins)
        layers = with_shares(layers * factors, layers.sum(dim=1))
        rim = table.rim_in(number, around)
        look = Look(folded(layers.sum(dim=0), self.bins), layers[None], table.depths_mm, number, rim=rim)
        if around is None:
            return look
        low, high = table.window
        brightest = max(brightest_of(look.histogram), 2 * (BLOOD_HU - low) / (high - low) - 1)
        return replace(
            look, grain=around.grain, darkest=darkest, brightest=brightest, wall_level=around.wall_level
        )

    def _drawn_of_heart(self, table, mm3, generator, chosen, loaded: LoadedCase, part: Part, address) -> Look:
        """Of a real lesion of like size with the part's labels, as it would look here."""
        tissue = tissue_of(loaded)
        if tissue is None:
            raise UserError(
                f"{loaded.case.image_path}: the blood in the cavity is not brighter than the muscle, and the "
                "lesions of realistic_textures are relative to both; choose another condition"
            )
        try:
            number = table.pick(mm3, generator, chosen, part.voxels.flatten(1).any(dim=1).tolist())
        except UserError as error:
            raise UserError(f"{loaded.case.mask_path}: {error}; choose another condition") from None
        drawn = in_heart(table.layers_in(number), tissue, self.bins)
        wanted = perturb(drawn, self.perturbation, self.bins, address)
        around = look_around(loaded, part)
        if around is None:
            return Look(wanted, drawn=number)
        # Without how rough that is along each axis: in hearts the network's noise is like it
        return Look(wanted, wanted.reshape(-1, 1, self.bins), (), number, (around.noise,))


def _in_order(
    table: LesionTable, volume_mm3: float, generator: torch.Generator, look: Callable[[int], Tensor]
) -> dict[int, tuple[int, Tensor]]:
    """For each texture a lesion of it, by its number, and its look. They are drawn until the brightness of
    their looks is in the order of that of their textures, MOST_DRAWS times."""
    for _ in range(MOST_DRAWS):
        drawn = {kind: table.pick(volume_mm3, generator, kind) for kind in table.from_dark}
        looks = {kind: look(number) for kind, number in drawn.items()}
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


def choose_conditions(settings: InferenceSettings, know_sizes: bool = False) -> Conditions:
    """What `condition`, `textures`, `texture_shares`, `reference_image` and `reference_mask` ask for.

    condition: "textures" (type i for output i), "mixture" (drawn by shares), "published" (type i of the data
    type's published textures), "realistic" (drawn from real lesions of like size, of whatever texture unless
    texture_shares says how common each is to be), "own", "reference", the name or the number of a type, or a
    list of cond_dim counts. know_sizes: the weights were trained with lesions of like size, so that textures
    are real lesions of like size unless the settings have others. Raises UserError, one line, naming key and
    value.
    """
    condition, bins, cond_dim = settings.condition, settings.histogram_bins, settings.cond_dim
    palette = _given_palette(settings, know_sizes)
    draw = condition in ("mixture", "realistic")
    if not isinstance(condition, list) and condition not in ("own", "reference") and not palette.names:
        raise UserError(f"condition={condition} needs textures; fit_textures.py finds those of a data set")
    if isinstance(condition, list):
        palette = Palette(("given",), (condition_from_counts(condition, cond_dim, bins),), (1.0,))
    elif condition == "own":
        palette = Palette()
    elif condition == "reference":
        palette = _of_reference(settings)
    elif condition in ("textures", "published"):
        if settings.types > len(palette.names):
            raise UserError(
                f"types={settings.types} but data_type={settings.data_type} has {len(palette.names)} textures"
            )
        palette.refuse_empty(range(settings.types))
    elif draw:
        palette = _with_shares(palette, settings.texture_shares)
    else:
        palette = _only(palette, condition)
    if settings.scores and palette.table is None:
        raise UserError(
            f"{settings.asked_scores}: real lesions have scores, and condition={condition} draws none of "
            "them; give condition=realistic"
        )
    of_case = {}
    if settings.textures_of:
        if condition not in ("textures", "mixture", "published", "realistic"):
            raise UserError(
                f"textures_of chooses among all textures, and condition={condition} leaves none to choose"
            )
        of_case = textures_of_cases(settings.textures_of, palette, settings.types)
    by_size = condition == "realistic" and palette.table is not None and settings.texture_shares is None
    perturbation = settings.histogram_perturbation
    return Conditions(palette, draw, perturbation, bins, settings.seed, of_case, by_size)


def conditions_of(
    settings: InferenceSettings, texture: Texture | None, kind: int, know_sizes: bool = False
) -> Conditions:
    """The same for `texture` in the place of the settings' condition, image `kind`, and seed 0.

    texture: None: the settings' `default_texture`. Raises UserError that names the texture.
    """
    texture = settings.default_texture if texture is None else texture
    if isinstance(texture, Mapping):
        changes = {"condition": "realistic", **texture}
    else:
        plain = isinstance(texture, str | int) or not isinstance(texture, Iterable)
        changes = {"condition": texture if plain else [float(share) for share in texture]}
    try:
        if unknown := set(changes) - {"condition", *HIGHEST_SCORES}:
            raise UserError(f"{min(unknown)} is no score; there are {', '.join(HIGHEST_SCORES)}")
        given = InferenceSettings.of(dict(settings) | changes | {"types": kind, "seed": 0})
        return choose_conditions(given, know_sizes)
    except UserError as error:
        said = str(error).replace("condition=", "texture=")  # which is what the key is called here
        raise UserError(said if said.startswith("texture=") else f"texture={texture!r}: {said}") from None


def _given_palette(settings: InferenceSettings, know_sizes: bool) -> Palette:
    """The textures that `condition` chooses among."""
    sized = know_sizes and settings.realistic_textures and not settings.own_textures
    if settings.condition == "realistic" or (sized and settings.condition != "published"):
        return realistic_palette(settings)
    textures = settings.published_textures if settings.condition == "published" else settings.textures
    return load_palette(
        textures, settings.cond_dim, settings.histogram_bins, settings.data_type, settings.window
    )


def _only(palette: Palette, name: str | int) -> Palette:
    index = palette.index(name)
    if index is None:
        raise UserError(
            f"condition={name!r} must be textures, mixture, published, realistic, own, reference, a list of "
            f"bins, or one of the types: 1 to {len(palette.names)}, {', '.join(map(repr, palette.names))}"
        )
    palette.refuse_empty([index])
    if palette.table is not None:
        return Palette((palette.names[index],), (), (1.0,), table=palette.table.only(index))
    return Palette((palette.names[index],), (palette.histograms[index],), (1.0,), palette.reference_mean)


def _with_shares(palette: Palette, shares: Sequence[float] | None) -> Palette:
    if shares is None:
        return palette
    if len(shares) != len(palette.names) or not sum(shares):
        raise UserError(
            f"texture_shares={list(shares)} must be {len(palette.names)} numbers >= 0, not all 0: how common "
            "each texture is to be"
        )
    palette.refuse_empty(index for index, share in enumerate(shares) if share)
    normalised = tuple(share / sum(shares) for share in shares)
    return replace(palette, shares=normalised)


def _of_reference(settings: InferenceSettings) -> Palette:
    """The histogram of the lesion in reference_image under reference_mask."""
    paths = []
    for key, path in (
        ("reference_image", settings.reference_image),
        ("reference_mask", settings.reference_mask),
    ):
        if not path:
            raise UserError(f"condition=reference needs {key}")
        paths.append(Path(path).expanduser().absolute())
    case = Case("reference", *paths)
    loaded = load_case(case, settings.layout, settings.window, settings.spacing_mm)
    histogram = own_histogram(loaded, settings.histogram_bins)
    return Palette((f"of {paths[0].name}",), (histogram,), (1.0,), loaded.reference_mean)
