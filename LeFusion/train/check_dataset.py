"""Says what a data set holds and what is wrong with it, before a network is trained on it.

    python LeFusion/train/check_dataset.py data_type=lidc dataset_root_dir=... test_txt_dir=... \\
        output_folder=...

Writes a report (check_dataset.md), a table of the cases (.csv) and a picture of some (.png). A bad file does
not stop it. Exit code 1 when there is an error; warnings do not count. All keys: --help, or
configs/check_dataset.yaml.
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from tqdm import tqdm

from LeFusion.check.facts import CheckSettings, Finding, measure
from LeFusion.check.files import assign_split, list_cases
from LeFusion.check.findings import find_common_faults
from LeFusion.check.report import findings_text, overview, save_picture, write_csv, write_text
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import (
    check_whole_numbers,
    given_path,
    output_folder,
    plain,
    required_path,
    run_command,
)


def run(config: dict) -> int:
    """Checks as the composed configuration says; returns the number of errors."""
    folder = output_folder(config, "output_folder")
    settings = read_settings(config)
    facts, findings = list_cases(settings)
    findings += _setting_faults(config, settings)
    findings += assign_split(facts, given_path(config["test_txt_dir"]), settings.layout)
    for case in tqdm(facts, unit="case", desc="reading"):
        if case.image_path is not None:
            measure(case, settings)
    findings += find_common_faults(facts, settings)
    findings += [finding for case in facts for finding in case.findings]

    counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    verdict = f"{settings.root}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}"
    problems, tables = findings_text(findings), overview(facts, settings, config["unit"])
    report, table, picture = (folder / f"check_dataset.{ending}" for ending in ("md", "csv", "png"))
    written = [table, picture, report]
    write_csv(table, facts, settings)
    if not save_picture(picture, facts, settings):
        written.remove(picture)
        picture.unlink(missing_ok=True)  # of an earlier check
    head = (
        f"# Check of a data set\n\n{verdict}\n\nMeasured against data_type={config['data_type']}: {settings}"
    )
    write_text(report, f"{head}\n\n{problems}\n\n{tables}\n")
    print(f"\n{tables}\n\n{problems}\n\n{verdict}")
    for path in written:
        print(f"wrote {path}")
    return counts["error"]


def read_settings(config: dict) -> CheckSettings:
    """What the data are measured against; a ValueError for a setting that no data could fit."""
    check_whole_numbers(config, diffusion_depth_size=1, diffusion_img_size=1, histogram_bins=1)
    layout = Layout(**config["layout"])
    root = Path(os.path.abspath(required_path(config, "dataset_root_dir")))
    if root.is_dir() and root.name == layout.image_folder and not (root / layout.image_folder).is_dir():
        root = root.parent
    IntensityMap.of([0.0, 1.0], config["window"])
    side = config["diffusion_img_size"]
    size = tuple(config["crop_size"] or (config["diffusion_depth_size"], side, side))
    spacing = config["spacing_mm"]
    for key, numbers in (("crop_size", size), ("spacing_mm", spacing)):
        if numbers is not None and (len(numbers) != 3 or min(numbers) <= 0):
            raise UserError(f"{key}={list(numbers)} must be three numbers above 0 (depth, height, width)")
    return CheckSettings(
        root, layout, config["window"], config["histogram_bins"], size, bool(config["crop_size"]), spacing
    )


def _setting_faults(config: dict, settings: CheckSettings) -> list[Finding]:
    classes = len(settings.layout.lesion_labels)
    needed = {"diffusion_num_channels": classes, "cond_dim": classes * settings.bins}
    return [
        Finding(
            "error",
            f"{key} does not fit the layout's {classes} lesion labels and {settings.bins} bins",
            f"{key}={config[key]}",
            f"set {key}={value}",
        )
        for key, value in needed.items()
        if config[key] != value
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@hydra.main(version_base=None, config_path="../configs", config_name="check_dataset")
def main(config: DictConfig) -> None:
    def command() -> None:
        if run(plain(config)):
            sys.exit(1)

    run_command(command)


if __name__ == "__main__":
    main()
