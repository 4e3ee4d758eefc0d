"""The settings of a painting run, checked against each other, the data type and the checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from LeFusion.dataset.axes import refuse_turned
from LeFusion.dataset.cases import Case, Layout, find_cases
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import LoadedCase, Reader
from LeFusion.dataset.volume import Volume
from LeFusion.diffusion import Checkpoint, address_seed
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.hearts.transfer import Anatomy, septal_angle, transfer_lesions
from LeFusion.painter import Painter
from LeFusion.painting import SamplerSettings
from LeFusion.runtime.commandline import given_path
from LeFusion.settings import InferenceSettings, PaintingSettings
from LeFusion.textures.conditions import Conditions, choose_conditions, own_histogram
from LeFusion.textures.histograms import shift_histogram

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DONORS_TRIED = 10  # for one case, where the lesions of the first drawn leave nothing on it


@dataclass(frozen=True)
class Canvas:
    """A case with the lesions to paint. donor: the name of the case that they come from, "" for its own;
    own_histogram: (cond_dim,) of a donor's lesions, stated for this case's healthy tissue."""

    loaded: LoadedCase
    donor: str = ""
    own_histogram: torch.Tensor | None = None


@dataclass(frozen=True)
class Job:
    """How a case is read, and what is painted in it."""

    layout: Layout
    window: Window
    unit: str  # "" where distances and means are in shares of each volume's range
    bins: int
    conditions: Conditions
    painter: Painter
    seed: int
    save_edit_mask: bool
    canvas: Callable[[Case], Canvas]

    def condition(self, canvas: Canvas, kind: int) -> torch.Tensor:
        """The histogram asked for, (cond_dim,); zero for classes that the case lacks."""
        return self.conditions.histogram(canvas.loaded, kind, canvas.own_histogram)


class Donors:
    """Cases whose lesions are moved onto other hearts, drawn for each by (seed, its name)."""

    def __init__(
        self, cases: list[Case], layout: Layout, read: Callable[..., LoadedCase], bins: int, seed: int
    ):
        self.cases, self.layout, self.read, self.bins, self.seed = cases, layout, read, bins, seed
        self.anatomy = Anatomy(layout.cavity_label, layout.myocardium_label)
        self._donor = lru_cache(maxsize=256)(self._donor)

    def canvas(self, case: Case) -> Canvas:
        """The case with the lesions of the first drawn donor that leave a voxel on it."""
        generator = torch.Generator().manual_seed(address_seed(self.seed, "donor", case.name))
        others = [donor for donor in self.cases if donor.name != case.name]
        if not others:
            raise UserError(f"{case.mask_path}: no other case in lesions_from could lend a lesion")
        for number in torch.randperm(len(others), generator=generator)[:DONORS_TRIED].tolist():
            donor, angle, histogram = self._donor(others[number])

            def moved(values, labels, donor=donor, angle=angle):
                turn = self._angle(values, labels) - angle
                lesions = self.layout.lesion_labels
                return transfer_lesions(donor.labels_dhw, labels, self.anatomy, lesions, turn)

            try:
                loaded = self.read(case, relabel=moved)
            except ValueError as error:
                reason = error
                continue
            if loaded.reference_mean is not None:
                shift = loaded.reference_mean - donor.reference_mean
                histogram = shift_histogram(histogram, shift, self.bins)
            return Canvas(loaded, donor.case.name, histogram)
        raise reason

    def _donor(self, case: Case) -> tuple[LoadedCase, float, torch.Tensor]:
        loaded = self.read(case)
        try:
            values = loaded.axes.to_dhw(loaded.volume.values)
            angle = self._angle(values, loaded.labels_dhw)
        except ValueError as error:
            raise UserError(f"{case.mask_path}: {error}") from error
        return loaded, angle, own_histogram(loaded, self.bins)

    def _angle(self, values, labels) -> float:
        return septal_angle(values, labels, self.anatomy, self.layout.lesion_labels)


def make_job(settings: InferenceSettings, checkpoint: Checkpoint) -> Job:
    """Checks the settings against each other and the checkpoint."""
    painter = make_painter(settings, checkpoint)

    def refuse(image: Volume) -> None:
        if settings.modality == "CT":
            refuse_turned(image, settings.layout, settings.diffusion_depth_size, settings.data_type)

    read = Reader(settings.layout, settings.window, settings.spacing_mm, refuse)
    return Job(
        settings.layout,
        settings.window,
        settings.unit or "",
        settings.histogram_bins,
        choose_conditions(settings, know_sizes=bool(checkpoint.metadata.get("lesion_table"))),
        painter,
        settings.seed,
        settings.save_edit_mask,
        lru_cache(maxsize=2)(_canvas(settings, read)),  # a case's types follow each other
    )


def make_painter(settings: PaintingSettings, checkpoint: Checkpoint) -> Painter:
    """Checks the settings against the checkpoint, which the messages name."""
    _check_fit(settings, checkpoint, Denoiser.of(checkpoint.metadata))
    try:
        return Painter.of(
            checkpoint,
            sampler_settings(settings, checkpoint.metadata),
            settings.region_size,
            settings.region,
            settings.margin,
            settings.edit_margin_mm,
            settings.soft_edge_mm,
        )
    except UserError as error:
        raise UserError(f"{settings.model_path}: {error}") from None


def sampler_settings(settings: PaintingSettings, metadata: dict) -> SamplerSettings:
    """metadata: of the checkpoint, which may say how much intensity guidance its network needs."""
    guidance = settings.intensity_guidance
    return SamplerSettings(
        settings.sampler,
        settings.num_steps,
        settings.schedule_jump_params.jump_length,
        settings.schedule_jump_params.jump_n_sample,
        float(settings.guidance_scale),
        metadata.get("intensity_guidance", 0.0) if guidance is None else guidance,
        settings.spacing,
        float(settings.eta),
    )


def _canvas(settings: InferenceSettings, read: Callable[..., LoadedCase]) -> Callable[[Case], Canvas]:
    """Cases with their own lesions, or with those of lesions_from."""
    layout, name = settings.layout, settings.donor
    if not settings.lesions_from:
        if name:
            raise UserError(f"donor={name} needs lesions_from, the data set that it is in")
        return lambda case: Canvas(read(case))
    if layout.myocardium_label is None:
        raise UserError(
            "lesions_from moves lesions between hearts and needs layout.cavity_label and "
            f"layout.myocardium_label; data_type={settings.data_type} has none. Draw lesions in the masks"
        )
    test_txt = given_path(settings.donors_test_txt)
    root = given_path(settings.lesions_from)
    cases = find_cases(root, layout, test_txt, "train" if test_txt else "all")
    if name:
        cases = [case for case in cases if case.name == name]
        if not cases:
            raise UserError(f"donor={name} is no case of {root}, or one of its test cases")
    return Donors(cases, layout, read, settings.histogram_bins, settings.seed).canvas


def _check_fit(settings: PaintingSettings, checkpoint: Checkpoint, denoiser: Denoiser) -> None:
    network, metadata, path = checkpoint.network.config, checkpoint.metadata, settings.model_path
    classes, bins, layout = settings.classes, settings.histogram_bins, settings.layout
    if metadata.get("data_type", settings.data_type) != settings.data_type:
        raise UserError(
            f"{path} was trained on {metadata['data_type']}, not on data_type={settings.data_type}"
        )
    for key, value, wanted in (
        ("diffusion_num_channels", classes, network["out_channels"]),
        ("histogram_bins", bins, metadata.get("histogram_bins", bins)),
        ("cond_dim", settings.cond_dim, network["cond_dim"]),
        ("window", settings.window, metadata.get("window", settings.window)),
        # Weights that were trained on voxels as stored may see others resampled
        ("spacing_mm", settings.spacing_mm, metadata.get("spacing_mm") or settings.spacing_mm),
    ):
        if value != wanted:
            raise UserError(
                f"{path} needs {key}={wanted}, got {value}; choose the data_type it was trained on"
            )
    trained = list(metadata.get("lesion_labels", layout.lesion_labels))
    swapped = [
        label
        for i, label in enumerate(layout.lesion_labels)
        if label in trained and trained.index(label) != i
    ]
    if swapped:
        raise UserError(
            f"{path} was trained with layout.lesion_labels={trained}, this run has "
            f"{list(layout.lesion_labels)}: label {swapped[0]} would be painted as another class; give the "
            "labels in the order of the training"
        )
    if network["in_channels"] != denoiser.in_channels(classes):
        raise UserError(
            f"{path} has {network['in_channels']} input channels, not {denoiser.in_channels(classes)}: is it "
            "a LeFusion network?"
        )
