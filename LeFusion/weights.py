"""Which file a name of weights means, and whether weights fit the settings of a run."""

import os
from pathlib import Path
from typing import Any

from LeFusion.data_types import data_type_names, default_settings
from LeFusion.dataset.intensity import same_units
from LeFusion.diffusion import Checkpoint, load_checkpoint
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.errors import MissingFileError, UserError
from LeFusion.painting import SamplerSettings
from LeFusion.runtime.commandline import PROJECT_ROOT, given_path
from LeFusion.settings import InferenceSettings, PaintingSettings

FOLDER = PROJECT_ROOT / "LeFusion" / "LeFusion_Model"
DEFAULT_STEPS = (
    10  # num_steps=auto with weights that do not say how many levels they need (docs/performance.md)
)
# Keys that say which files the command reads and writes, or that Painter.paint has arguments for: those that
# other commands lack, but for the textures, and a few of those that all have that paint
OF_THE_COMMAND = InferenceSettings.model_fields.keys() - PaintingSettings.model_fields.keys()
OF_THE_COMMAND -= {"texture_shares", "reference_image", "reference_mask"}
OF_THE_COMMAND |= {"model_path", "seed", "save_edit_mask", "overwrite"}


def bundled_weights() -> dict[str, Path]:
    """The weights that come with the project, by name: lidc_edit, lidc_small, emidec_small."""
    return {path.stem: path for path in sorted(FOLDER.glob("*/*.safetensors"))}


def find_weights(weights: str | os.PathLike) -> tuple[str | None, Path | None]:
    """(data type, file) of what `weights` names: a data type (its default weights, None), bundled weights, or
    a file, whose data type its metadata may say (None).

    Raises MissingFileError, naming what there is, where it names nothing.
    """
    name, bundled, types = str(weights), bundled_weights(), data_type_names()
    if name in types:
        return name, None
    if name in bundled:
        return None, bundled[name]
    path = given_path(weights)
    if path is None or not path.is_file():
        raise MissingFileError(
            f"weights={name!r} is no file and no name; give a path, a data type ({', '.join(types)}) or "
            f"one of the bundled {', '.join(bundled)}"
        )
    return None, path


def painter_settings(
    weights: str | os.PathLike, data_type: str | os.PathLike | None, sampler: str | None, changes: dict
) -> InferenceSettings:
    """Those of the command, for weights and a data type; see Painter.load.

    changes: other keys of configs/inference.yaml.
    """
    for key in sorted(OF_THE_COMMAND & changes.keys()):
        raise UserError(f"{key}: is a setting of the command, not of Painter.load")
    named, path = find_weights(weights)
    data_type = data_type or named
    if path is not None:
        changes = changes | {"model_path": str(path)}
        data_type = data_type or load_checkpoint(path).metadata.get("data_type")
    if data_type is None:
        raise UserError(f"data_type: {path} does not say what it was trained on; give data_type")
    return InferenceSettings.of(default_settings(data_type, sampler, **changes))


def sampler_settings(settings: PaintingSettings, metadata: dict) -> SamplerSettings:
    """metadata: of the checkpoint, which may say how many levels its network needs, and how much intensity
    guidance, how long."""
    guidance, steps = settings.intensity_guidance, settings.num_steps
    return SamplerSettings(
        settings.sampler,
        metadata.get("num_steps", DEFAULT_STEPS) if steps == "auto" else steps,
        settings.schedule_jump_params.jump_length,
        settings.schedule_jump_params.jump_n_sample,
        float(settings.guidance_scale),
        metadata.get("intensity_guidance", 0.0) if guidance is None else guidance,
        settings.spacing,
        float(settings.eta),
        metadata.get("guided_signal"),
    )


def check_fit(settings: PaintingSettings, checkpoint: Checkpoint) -> None:
    """Raises UserError, naming the file and the setting, for weights that were trained on something else."""
    denoiser = Denoiser.of(checkpoint.metadata)
    network, metadata, path = checkpoint.network.config, checkpoint.metadata, settings.model_path
    classes, bins, layout = settings.classes, settings.histogram_bins, settings.layout
    if metadata.get("data_type", settings.data_type) != settings.data_type:
        raise UserError(
            f"{path} was trained on {metadata['data_type']}, not on data_type={settings.data_type}"
        )
    needs: list[tuple[str, Any, Any]] = [
        ("diffusion_num_channels", classes, network["out_channels"]),
        ("histogram_bins", bins, metadata.get("histogram_bins", bins)),
        ("cond_dim", settings.cond_dim, network["cond_dim"]),
        ("window", settings.window, metadata.get("window", settings.window)),
        # Weights that were trained on voxels as stored may see others resampled
        ("spacing_mm", settings.spacing_mm, metadata.get("spacing_mm") or settings.spacing_mm),
    ]
    for key, value, wanted in needs:
        if value != wanted and not (key == "window" and same_units(value, wanted)):
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
