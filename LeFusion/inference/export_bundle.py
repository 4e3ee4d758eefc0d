"""Makes a MONAI bundle of weights, which users of monai.bundle can run:

    lefusion export-bundle lidc_edit bundles/lefusion_lidc
    python -m monai.bundle run --config_file bundles/lefusion_lidc/configs/inference.json \\
        --bundle_root bundles/lefusion_lidc --dataset_dir data/demo/LIDC/Normal --output_dir painted

models/model.pt is the network's state dict, models/model.safetensors the same with what Painter.load needs.
The bundle needs LeFusion installed, and the command line of MONAI needs fire. Its configs/metadata.json fits
the schema of MONAI (verify_metadata).
"""

import json
import shutil
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path

import torch

from LeFusion.diffusion import save_checkpoint
from LeFusion.errors import UserError
from LeFusion.painter import Painter
from LeFusion.runtime.commandline import command_parser, output_folder, run_with_flags
from LeFusion.settings import InferenceSettings

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
PAPER = (
    "Zhang et al., LeFusion: Controllable Pathology Synthesis via Lesion-Focused Diffusion Models, ICLR "
    "2025, arXiv:2403.14066"
)


def export_bundle(weights: str, folder: Path, data_type: str | None = None) -> None:
    """Writes the bundle, complete or not at all. weights, data_type: see Painter.load.

    Raises UserError for a folder that exists, and where Painter.load does.
    """
    folder = output_folder(folder, "folder")
    if folder.exists():
        raise UserError(f"folder={folder} exists; give a new one, or delete it")
    painter = Painter.load(weights, data_type=data_type, device="cpu")
    settings = painter.settings
    assert settings is not None
    source = Path(settings.model_path)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name in ("configs", "models", "docs"):
            (partial / name).mkdir(parents=True)
        for name, content in (
            ("metadata", _metadata(painter, settings)),
            ("inference", _inference(settings)),
        ):
            (partial / "configs" / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
        torch.save(painter.network.state_dict(), partial / "models" / "model.pt")
        if source.suffix == ".safetensors":
            shutil.copy(source, partial / "models" / "model.safetensors")
        else:
            metadata = _released(painter, settings)
            save_checkpoint(partial / "models" / "model.safetensors", metadata, ema=painter.network)
        card = source.with_suffix(".md")
        text = card.read_text(encoding="utf-8") if card.is_file() else f"# {source.stem}\n\n{PAPER}\n"
        (partial / "docs" / "README.md").write_text(text, encoding="utf-8")
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(f"wrote the bundle {folder}: weights {source}")


def _metadata(painter: Painter, settings: InferenceSettings) -> dict:
    network, classes = painter.network.config, settings.classes
    plane = f"{painter.network.plane_multiple}*n"
    box = {"spatial_shape": ["*", plane, plane], "dtype": "float32", "is_patch_data": True}
    kind = {"type": "image", "format": "hounsfield" if settings.unit == "HU" else "magnitude"}
    kind |= {"modality": settings.modality or "MR"}
    lesions = [f"lesion {label}, noised" for label in settings.layout.lesion_labels]
    channels = [*lesions, "surroundings", *(f"mask of {name[:-8]}" for name in lesions)]
    seen = dict(enumerate(channels[: network["in_channels"]]))
    one = {"type": "tuple", "num_channels": 1, "spatial_shape": [], "dtype": "int64"}
    return {
        "schema": SCHEMA,
        "version": version("lefusion"),
        "changelog": {version("lefusion"): "exported"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch").partition("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": {"lefusion": version("lefusion"), "nibabel": version("nibabel")},
        "name": f"LeFusion {settings.data_type}",
        "task": "Painting lesions into images that have none",
        "description": "A diffusion network that paints lesions of a chosen texture under a mask; every "
        "other voxel stays as it is.",
        "authors": "LeFusion maintainers",
        "copyright": "of the code: Apache-2.0; of the weights: see docs/README.md",
        "data_type": "nibabel",
        "intended_use": "Synthetic data for training and testing; no medical device. Painted images must be "
        "marked as such.",
        "references": [PAPER],
        "network_data_format": {
            "inputs": {
                "x_t": {**kind, **box, "num_channels": network["in_channels"], "value_range": [-1, 1]}
                | {"channel_def": seen},
                "t": one | {"format": "time level", "value_range": [0, painter.schedule.num_steps - 1]},
            },
            "outputs": {
                "noise": {**kind, **box, "num_channels": classes, "value_range": []}
                | {"format": painter.denoiser.prediction}
            },
        },
    }


def _inference(settings: InferenceSettings) -> dict:
    """A workflow that paints each image of a folder of Image/ and Mask/ once."""
    keys = ["image", "mask"]
    return {
        "imports": [
            "$import numpy",
            "$from pathlib import Path",
            "$from LeFusion.dataset.cases import find_cases",
        ],
        "bundle_root": ".",
        "dataset_dir": "/workspace/data",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "auto",
        "texture": None,
        "seed": 0,
        "painter": {
            "_target_": "LeFusion.Painter.load",
            "weights": "$@bundle_root + '/models/model.safetensors'",
            "data_type": settings.data_type,
            "device": "@device",
        },
        "cases": "$find_cases(Path(@dataset_dir), @painter.settings.layout)",
        "data": "$[{'image': str(c.image_path), 'mask': str(c.mask_path)} for c in @cases]",
        "paint": {
            "_target_": "LeFusion.RandPaintLesiond",
            "keys": "image",
            "mask_key": "mask",
            "painter": "@painter",
            "texture": "@texture",
            "prob": 1.0,
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": keys},
                {"_target_": "EnsureChannelFirstd", "keys": keys},
                "$@paint.set_random_state(seed=@seed)",
                {
                    "_target_": "SaveImaged",
                    "keys": "image",
                    "output_dir": "@output_dir",
                    "output_postfix": "painted",
                    "separate_folder": False,
                    "output_dtype": "$numpy.float32",
                    "print_log": False,
                },
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@data", "transform": "@preprocessing"},
        "run": ["$[None for _ in @dataset]"],
    }


def _released(painter: Painter, settings: InferenceSettings) -> dict:
    """What a released file says, and the data type, which it does not say."""
    return {
        "data_type": settings.data_type,
        "schedule": {"kind": "cosine", "num_steps": painter.schedule.num_steps},
        "step": 0,
    }


def run(options: Namespace) -> None:
    export_bundle(options.weights, options.folder, options.data_type)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("weights", help="a data type (lidc), bundled weights (lidc_edit) or a file")
    parser.add_argument("folder", type=Path, help="the bundle, which must not exist")
    parser.add_argument("--data-type", help="of released weights: lidc or emidec")
    run_with_flags(parser, run)


if __name__ == "__main__":
    main()
