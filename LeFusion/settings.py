"""The settings of LeFusion's commands: the keys of configs/*.yaml, checked when a command starts.

What is below a command gets one of these objects, or the values that it needs; never a configuration.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, InstanceOf, model_validator

from LeFusion.dataset.cases import SPLITS, Layout
from LeFusion.diffusion import SAMPLERS, SPACINGS
from LeFusion.diffusion.denoiser import CONTEXTS, PREDICTIONS
from LeFusion.diffusion.schedule import MOST_STEPS
from LeFusion.errors import UserError
from LeFusion.losses import LOSS_TYPES, NORMALISATIONS
from LeFusion.runtime.validation import (
    LARGEST,
    Count,
    Flag,
    NoPath,
    NotNegative,
    Path,
    Seed,
    Settings,
    Share,
    Text,
    TrainingSeed,
    choice,
    either,
    kind,
    number,
    numbers,
    text,
    whole,
)
from LeFusion.textures.scores import HIGHEST_SCORES
from LeFusion.training.settings import PRECISIONS, TrainingSettings

LARGEST_MARGIN_MM = 100
WINDOW = "minmax, [low, high] or {percentiles: [low, high]}, low below high, percentiles in 0 to 100"


def _is_window(value: str | list | dict) -> bool:
    low, high = (0, 100) if isinstance(value, dict) else (-1e300, 1e300)
    if isinstance(value, dict):
        value = value["percentiles"] if set(value) == {"percentiles"} else []
    return value == "minmax" or (len(value) == 2 and low <= value[0] < value[1] <= high)


Triple = numbers(3, "three numbers above 0 (depth, height, width)", lambda values: min(values) > 0)
Size = numbers(
    3, "three whole numbers above 0 (depth, height, width)", lambda values: min(values) > 0, whole=True
)
Contrast = numbers(2, "[lowest, highest], above 0", lambda values: 0 < values[0] <= values[1])
NoSize = either(Size, words=(None,))
Margin = number(f"a number of mm from 0 to {LARGEST_MARGIN_MM}", lambda mm: 0 <= mm <= LARGEST_MARGIN_MM)
Words = kind(str, "a text, in quotes where it is a number")
NoText = either(Words, words=(None,))
Split = choice(*SPLITS)
Weights = choice("ema", "model")
Device = kind(
    str,
    "auto, cpu, cuda, cuda:0, cuda:1, ... or mps",
    lambda name: name in ("auto", "cpu", "cuda", "mps") or name[:5] == "cuda:" and name[5:].isdecimal(),
)
BatchSize = either(Count, words=("auto",))
NoCount = either(Count, words=(None,))


def _score(name: str) -> Any:
    """One of radiologists' scores, or several."""
    one = whole(1, HIGHEST_SCORES[name])
    several = kind(list[one], "a list of these", bool)
    return either(one, several, words=(None,))


Timesteps = whole(1, MOST_STEPS)
Label = whole(1, 2**16 - 1)
Histograms = kind(list[list[int | float]], "a list of histograms, each a list of numbers")
Labels = kind(list[Label], "a list of whole numbers from 1 to 65535")
NoLabel = either(Label, words=(None,))


class LayoutSettings(Settings):
    """See Layout."""

    image_folder: Words = Layout.image_folder
    mask_folder: Words = Layout.mask_folder
    mask_names: kind(list[list[str]], "pairs [part of an image's name, what stands in its place]") = [
        list(pair) for pair in Layout.mask_names
    ]
    output_mask_infix: Words = Layout.output_mask_infix
    lesion_labels: Labels = list(Layout.lesion_labels)
    other_labels: Labels = list(Layout.other_labels)
    cavity_label: NoLabel = None
    myocardium_label: NoLabel = None
    reference_label: NoLabel = None
    instances: Flag = Layout.instances
    depth_axis: either(whole(0, 2), words=(None,)) = Layout.depth_axis
    orientation: NoText = None


def _layout(given: Any) -> Any:
    if not isinstance(given, dict):
        return given
    return Layout(**LayoutSettings.of(given, "layout").model_dump())


class Description(Settings):
    """What images and labels are: of a data type, the keys that LeFusion.data_types reads, too."""

    layout: Annotated[InstanceOf[Layout], BeforeValidator(_layout)]
    window: kind(
        Literal["minmax"] | list[int | float] | dict[str, list[int | float]], WINDOW, check=_is_window
    )
    unit: NoText
    modality: either(choice("CT", "MR"), words=(None,)) = None
    label_names: either(kind(dict[str, Label], "names of labels {name: value}"), words=(None,)) = None


class DataTypeSettings(Description):
    """The keys of configs/data_type/*.yaml, which all commands have.

    diffusion_num_channels and cond_dim follow from labels and bins; where they are given they must agree.
    Other keys read default_paths.
    """

    data_type: Text
    diffusion_depth_size: Count
    diffusion_img_size: Count
    diffusion_num_channels: NoCount = None
    histogram_bins: Count
    cond_dim: NoCount = None
    spacing_mm: either(Triple, words=(None,))
    default_paths: kind(dict[str, str | None], "paths {name: path}") = {}
    textures: either(Path, Histograms, words=(None,))
    published_textures: either(Path, Histograms, words=(None,)) = None
    realistic_textures: NoPath = None
    default_condition: either(choice("textures", "mixture", "realistic"), words=(None,)) = None

    @model_validator(mode="after")
    def _derive(self):
        bins = self.histogram_bins
        for key, value, reason in (
            ("diffusion_num_channels", self.classes, "one for each of layout.lesion_labels"),
            ("cond_dim", self.classes * bins, f"{self.classes} classes x {bins} bins"),
        ):
            if getattr(self, key) not in (None, value):
                given = text(getattr(self, key))
                raise UserError(f"{key}={given} must be {value}, {reason}; or leave it out")
            object.__setattr__(self, key, value)
        return self

    @property
    def classes(self) -> int:
        return len(self.layout.lesion_labels)

    @property
    def own_textures(self) -> bool:
        """Whether `textures` are others than those of the data type."""
        return self.textures != self.published_textures

    @property
    def region_size(self) -> tuple[int, int, int]:
        """(depth, height, width) of the largest box that the network sees at once."""
        return self.diffusion_depth_size, self.diffusion_img_size, self.diffusion_img_size


class JumpSettings(Settings):
    """RePaint's resampling; 1, 1: none."""

    jump_length: Count
    jump_n_sample: Count


class PaintingSettings(DataTypeSettings):
    """How lesions are painted: the keys that all commands have that paint."""

    model_path: Path
    weights: Weights
    histogram_perturbation: Share
    spacing: choice(*SPACINGS)
    eta: Share
    guidance_scale: NotNegative
    intensity_guidance: either(Share, words=(None,))
    edit_margin_mm: either(Margin, words=(None,))
    soft_edge_mm: either(Margin, words=(None,))
    save_edit_mask: Flag
    texture_score: _score("texture_score")
    margin_score: _score("margin_score")
    spiculation: _score("spiculation")
    calcification: _score("calcification")
    region: choice("auto", "whole", "lesion")
    margin: whole(0)
    batch_size: BatchSize
    seed: Seed
    device: Device
    precision: choice(*PRECISIONS)
    compile: Flag
    overwrite: Flag
    sampler: choice(*SAMPLERS)
    num_steps: either(Count, words=("auto", None))
    schedule_jump_params: JumpSettings

    @property
    def scores(self) -> dict[str, list[int]]:
        """What the real lesions to draw from must have: one of these scores of each name."""
        given = {name: getattr(self, name) for name in HIGHEST_SCORES}
        return {name: value if isinstance(value, list) else [value] for name, value in given.items() if value}

    @property
    def asked_scores(self) -> str:
        """The same in words; empty: any."""
        return " ".join(f"{name}={text(getattr(self, name))}" for name in self.scores)

    @property
    def default_texture(self) -> str:
        """What a lesion is painted with in Python, on the server and by insertion, where no texture is named.

        "realistic" where the data type has real lesions to draw from and the settings have no textures of
        their own, else "mixture".
        """
        drawn = self.realistic_textures and not self.own_textures
        return "realistic" if drawn or self.scores else "mixture"


class InferenceSettings(PaintingSettings):
    """configs/inference.yaml, which says what each key means."""

    dataset_root_dir: Path
    mask_dir: NoPath
    test_txt_dir: NoPath
    split: either(Split, words=(None,))
    target_img_path: Path
    target_label_path: Path
    lesions_from: NoPath
    donors_test_txt: NoPath
    donor: NoText
    types: Count
    condition: either(
        kind(str, "textures, mixture, own, reference, the name of a texture", bool),
        kind(int, "its number", lambda value: abs(value) < 1000),
        numbers(None, "a list of bins"),
        words=(None,),
    )
    textures_of: either(
        kind(dict[str, str | int], "{case: number or name of a texture}"), Path, words=(None,)
    )
    texture_shares: either(
        numbers(None, "a list of numbers of at least 0", lambda values: all(v >= 0 for v in values)),
        words=(None,),
    )
    reference_image: NoPath
    reference_mask: NoPath
    shards: Count
    shard: whole(0)
    skip_bad_cases: Flag
    preview_cases: Count
    viewer: Flag

    @model_validator(mode="after")
    def _choose(self):
        if self.condition is None:
            default = "realistic" if self.scores else self.default_condition
            chosen = "textures" if self.own_textures else default or "textures"
            object.__setattr__(self, "condition", chosen)
        return self


Counts = kind(list[int], "[fewest, most]", lambda ends: len(ends) == 2 and 1 <= ends[0] <= ends[1] <= LARGEST)
# Whose diameters are drawn, see DiffMask.placement.spheres.draw_diameter
REGIONS, LIDC = "regions", "lidc"
Millimetres = either(
    number("a number above 0", lambda mm: mm > 0),
    numbers(2, "[low, high], above 0", lambda ends: 0 < ends[0] <= ends[1]),
    words=(REGIONS, LIDC),
)


class InsertSettings(PaintingSettings):
    """configs/insert.yaml, which says what each key means."""

    input: Path
    output: Path
    lesions: either(Count, Counts, words=(None,))
    sites: NoPath
    masks: NoPath
    labels: NoPath
    texture: either(kind(str, "realistic, mixture, the name of a texture", bool), Count, words=(None,))
    diameter_mm: Millimetres
    versions: Count
    mask_model_path: Path
    mask_sampler: choice(*SAMPLERS)
    mask_steps: NoCount
    max_redraws: whole(0)
    skip_bad_cases: Flag
    preview_lesions: Count
    viewer: Flag


class FitTexturesSettings(DataTypeSettings):
    """configs/fit_textures.yaml"""

    dataset_root_dir: Path
    test_txt_dir: NoPath
    split: Split
    histograms_csv: NoPath
    output: kind(str, "the path of a .json file to write", lambda path: path.endswith(".json"))
    show_lesions: Flag
    types: BatchSize
    seed: TrainingSeed


class CheckDatasetSettings(DataTypeSettings):
    """configs/check_dataset.yaml"""

    dataset_root_dir: Path
    test_txt_dir: NoPath
    crop_size: NoSize
    output_folder: Path


class ModelSettings(Settings):
    """configs/model/*.yaml: arguments of UNet3D, and of Denoiser."""

    dim: Count
    dim_mults: kind(list[Count], "a list of whole numbers above 0", bool)
    attn_heads: Count
    attn_dim_head: Count
    context: choice(*CONTEXTS)
    prediction: choice(*PREDICTIONS)

    def of_network(self) -> dict[str, int | list[int]]:
        return self.model_dump(exclude={"context", "prediction"})


class LossSettings(Settings):
    """configs/loss/*.yaml: arguments of LesionLoss."""

    loss_type: choice(*LOSS_TYPES)
    normalisation: choice(*NORMALISATIONS)
    max_weight: number("a number of at least 1", lambda value: value >= 1)
    cond_dropout: number("a number from 0 to below 1", lambda value: 0 <= value < 1)


class TrainerSettings(TrainingSettings):
    """configs/trainer/*.yaml"""

    histogram_loss: NotNegative


class TrainSettings(DataTypeSettings):
    """configs/train.yaml"""

    dataset_root_dir: Path
    test_txt_dir: NoPath
    split: Split
    results_folder: Path
    crop_size: NoSize
    augment: Flag
    lesion_contrast: either(Contrast, words=(None,))
    histogram_matching: Share
    like_size: NoCount
    lesion_table: NoPath
    edit_margin_mm: Margin
    least_margin_mm: either(Margin, words=(None,))
    turns: Flag
    cache: Flag
    cache_gb: number("a number above 0", lambda value: value > 0)
    init_weights: NoPath
    timesteps: Timesteps
    model: ModelSettings
    trainer: TrainerSettings
    loss: LossSettings
