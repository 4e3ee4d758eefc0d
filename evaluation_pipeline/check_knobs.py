"""Checks the knobs of run_monai_pipeline.sh before its first step: a wrong one would be noticed after hours.

    python check_knobs.py <overrides of inference.py> -- <options of run_segmentation_training.py> \\
        -- <options of run_segmentation_evaluation.py>

Reads no image and writes nothing. No overrides: nothing is to be generated.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation_pipeline import run_segmentation_evaluation, run_segmentation_training
from evaluation_pipeline.cases.patients import case_name
from evaluation_pipeline.cases.synthetic import numbered_folders
from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.scans import find_scans
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import CONFIGS, absolute_path, given_path, plain, run_command
from LeFusion.settings import InferenceSettings


def check_generation(overrides: Sequence[str]) -> None:
    """Raises ValueError and FileNotFoundError for keys that inference.py does not have, more types than
    textures, missing source scans, and a target that holds images which this run does not write."""
    settings = composed(overrides)
    types, textures = settings.types, count_textures(settings.textures)
    if settings.condition == "textures" and types > textures:
        raise UserError(
            f"TYPES={types}: data_type={settings.data_type} has {textures} textures, one for each image of "
            f"a case; set TYPES to at most {textures}, or have a texture drawn for each image: "
            "GENERATION_OPTIONS=condition=mixture"
        )
    root, mask_dir = given_path(settings.dataset_root_dir), given_path(settings.mask_dir)
    cases = find_cases(root, settings.layout, split="all", skipped=[], mask_dir=mask_dir, generated=True)
    check_target(
        absolute_path(settings.target_img_path), types, {case_name(case.name) for case in cases}, root
    )


def composed(overrides: Sequence[str]) -> InferenceSettings:
    """inference.py's settings with these overrides."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    try:
        with initialize_config_dir(str(CONFIGS), version_base=None):
            return InferenceSettings.of(plain(compose("inference", list(overrides))))
    except HydraException as error:
        raise UserError(f"GENERATION_OPTIONS and other knobs of generation: {error}") from None


def count_textures(given: str | Sequence | None) -> int:
    """Of `textures` in the configuration: histograms, or a file of fit_textures.py."""
    if not isinstance(given, str):
        return len(given or ())
    try:
        return len(json.loads(Path(given).read_text(encoding="utf-8"))["types"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{given}: holds no types; LeFusion/inference/fit_textures.py writes them") from None


def check_target(image_root: Path, types: int, cases: set[str], source: Path) -> None:
    """A training takes all images below a folder, also those that an earlier run left there."""
    for kind, folder in sorted(numbered_folders(image_root, "Image_").items()):
        for path in (scan.path for scan in find_scans(folder)):
            if kind > types:
                reason = f"is of an earlier run with more types than TYPES={types}"
            elif case_name(path) not in cases:
                reason = f"is of an earlier run on other scans than {source}"
            else:
                continue
            raise UserError(
                f"{path}: {reason}, and would be trained on; choose another METHOD_NAME, or remove "
                f"{image_root.parent}"
            )


def run(argv: Sequence[str]) -> None:
    parts: list[list[str]] = [[]]
    for argument in argv:
        if argument == "--":
            parts.append([])
        else:
            parts[-1].append(argument)
    if len(parts) != 3:
        raise UserError("give overrides, options of the training and options of the evaluation, -- between")
    overrides, training, evaluation = parts
    run_segmentation_training.check_options(run_segmentation_training.parser().parse_args(training))
    run_segmentation_evaluation.check_arguments(run_segmentation_evaluation.parser().parse_args(evaluation))
    if overrides:
        check_generation(overrides)
    print("the knobs are in order")


def main(argv: Sequence[str] | None = None) -> None:
    run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
