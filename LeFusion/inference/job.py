"""The settings of a painting run, checked against each other, the data type and the checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from LeFusion.dataset.axes import refuse_turned
from LeFusion.dataset.boxes import Box
from LeFusion.dataset.cases import Case, Layout, find_cases
from LeFusion.dataset.intensity import Window
from LeFusion.dataset.loading import LoadedCase, Reader
from LeFusion.dataset.nifti import Volume
from LeFusion.diffusion import Checkpoint, address_seed
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import UserError
from LeFusion.hearts.transfer import Anatomy, septal_angle, transfer_lesions
from LeFusion.painting import SamplerSettings
from LeFusion.runtime.commandline import check_whole_numbers, given_path
from LeFusion.textures.conditions import Conditions, choose_conditions, own_histogram
from LeFusion.textures.histograms import shift_histogram

PRECISIONS = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
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
    """How a case is read, which box of it the network sees, and what is painted there."""

    layout: Layout
    window: Window
    unit: str  # "" where distances and means are in shares of each volume's range
    bins: int
    size: tuple[int, int, int]
    region: str  # whole or lesion
    margin: int
    plane_multiple: int  # of the network: height and width of a box must be multiples of it
    conditions: Conditions
    sampler: SamplerSettings
    denoiser: Denoiser
    seed: int
    canvas: Callable[[Case], Canvas]

    def box(self, loaded: LoadedCase) -> Box:
        """Where the network looks: a region of `size`, or just around the lesion."""
        if self.region == "whole":
            return loaded.region(self.size)
        multiple = (1, self.plane_multiple, self.plane_multiple)
        return loaded.tight_region(self.margin, self.size, multiple)

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


def make_job(config: dict, checkpoint: Checkpoint) -> Job:
    """Checks the configuration against itself and the checkpoint."""
    _check_numbers(config)
    layout, window = Layout(**config["layout"]), config["window"]
    metadata, path = checkpoint.metadata, config["model_path"]
    denoiser = Denoiser.of(metadata)
    _check_fit(config, checkpoint, layout, denoiser)
    jumps = config["schedule_jump_params"]
    sampler = SamplerSettings(
        config["sampler"],
        config["num_steps"],
        jumps["jump_length"],
        jumps["jump_n_sample"],
        float(config["guidance_scale"]),
        metadata.get("intensity_guidance", 0.0)
        if config["intensity_guidance"] is None
        else config["intensity_guidance"],
        config["spacing"],
        float(config["eta"]),
    )
    if sampler.guidance_scale != 1 and not metadata.get("loss", {}).get("cond_dropout"):
        raise UserError(
            f"guidance_scale={sampler.guidance_scale} needs a network trained with loss.cond_dropout > 0; "
            f"{path} was not"
        )
    region = config["region"]
    if region == "auto":
        region = metadata.get("region", "whole")
    if region not in ("whole", "lesion"):
        raise UserError(f"region={region!r} must be auto, whole or lesion")
    size = (config["diffusion_depth_size"], config["diffusion_img_size"], config["diffusion_img_size"])
    multiple = checkpoint.network.plane_multiple
    if size[1] % multiple:
        raise UserError(f"diffusion_img_size={size[1]} must be a multiple of {multiple}")

    def refuse(image: Volume) -> None:
        if config["modality"] == "CT":
            refuse_turned(image, layout, size[0], config["data_type"])

    read = Reader(layout, window, config["spacing_mm"], refuse)
    return Job(
        layout,
        window,
        config["unit"] or "",
        config["histogram_bins"],
        size,
        region,
        config["margin"],
        multiple,
        choose_conditions(config, layout, window),
        sampler,
        denoiser,
        config["seed"],
        _canvas(config, layout, read),
    )


def _canvas(config: dict, layout: Layout, read: Callable[..., LoadedCase]) -> Callable[[Case], Canvas]:
    """Cases with their own lesions, or with those of lesions_from."""
    if not config["lesions_from"]:
        if config["donor"]:
            raise UserError(f"donor={config['donor']} needs lesions_from, the data set that it is in")
        return lambda case: Canvas(read(case))
    if layout.myocardium_label is None:
        raise UserError(
            "lesions_from moves lesions between hearts and needs layout.cavity_label and "
            f"layout.myocardium_label; data_type={config['data_type']} has none. Draw lesions in the masks"
        )
    test_txt = given_path(config["donors_test_txt"])
    root = given_path(config["lesions_from"])
    cases = find_cases(root, layout, test_txt, "train" if test_txt else "all")
    if config["donor"]:
        cases = [case for case in cases if case.name == config["donor"]]
        if not cases:
            raise UserError(f"donor={config['donor']} is no case of {root}, or one of its test cases")
    return Donors(cases, layout, read, config["histogram_bins"], config["seed"]).canvas


def _check_fit(config: dict, checkpoint: Checkpoint, layout: Layout, denoiser: Denoiser) -> None:
    network, metadata, path = checkpoint.network.config, checkpoint.metadata, config["model_path"]
    classes, bins, cond_dim = len(layout.lesion_labels), config["histogram_bins"], config["cond_dim"]
    if metadata.get("data_type", config["data_type"]) != config["data_type"]:
        raise UserError(
            f"{path} was trained on {metadata['data_type']}, not on data_type={config['data_type']}"
        )
    for key, value, wanted in (
        ("diffusion_num_channels", config["diffusion_num_channels"], network["out_channels"]),
        ("cond_dim", cond_dim, network["cond_dim"]),
        ("the number of lesion labels", classes, network["out_channels"]),
        ("histogram_bins", bins, metadata.get("histogram_bins", bins)),
        ("window", config["window"], metadata.get("window", config["window"])),
        # Weights that were trained on voxels as stored may see others resampled
        ("spacing_mm", config["spacing_mm"], metadata.get("spacing_mm") or config["spacing_mm"]),
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
    if cond_dim != classes * bins:
        raise UserError(f"cond_dim={cond_dim} must be {classes} classes x {bins} bins = {classes * bins}")
    if network["in_channels"] != denoiser.in_channels(classes):
        raise UserError(
            f"{path} has {network['in_channels']} input channels, not {denoiser.in_channels(classes)}: is it "
            "a LeFusion network?"
        )


def _check_numbers(config: dict) -> None:
    if config["batch_size"] != "auto":
        check_whole_numbers(config, batch_size=1)
    check_whole_numbers(config, types=1, preview_cases=1, margin=0, seed=0)
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1, histogram_bins=1)
    check_whole_numbers(config["schedule_jump_params"], jump_length=1, jump_n_sample=1)
    if config["num_steps"] is not None:
        check_whole_numbers(config, num_steps=1)
    numbers = ["guidance_scale", "histogram_perturbation", "eta"]
    if config["intensity_guidance"] is not None:
        numbers.append("intensity_guidance")
    for key in numbers:
        if not isinstance(config[key], int | float):
            raise UserError(f"{key}={config[key]} must be a number")
