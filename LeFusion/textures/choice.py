"""From settings to Conditions: what `condition`, `textures` and the keys beside them ask for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from LeFusion.dataset.cases import Case
from LeFusion.dataset.loading import load_case
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import absolute_path
from LeFusion.settings import InferenceSettings
from LeFusion.textures.conditions import Conditions, own_histogram
from LeFusion.textures.histograms import condition_from_counts
from LeFusion.textures.of_cases import textures_of_cases
from LeFusion.textures.palette import Palette, load_palette, realistic_palette
from LeFusion.textures.scores import HIGHEST_SCORES

# A condition of the command: a name or number of a texture, mixture, own, ..., or bins; or scores of the real
# lesions to draw from, such as {"texture_score": 5}
Texture = str | int | Sequence[float] | Mapping[str, int | Sequence[int]]


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
        paths.append(absolute_path(path))
    case = Case("reference", *paths)
    loaded = load_case(case, settings.layout, settings.window, settings.spacing_mm)
    histogram = own_histogram(loaded, settings.histogram_bins)
    return Palette((f"of {paths[0].name}",), (histogram,), (1.0,), loaded.reference_mean)
