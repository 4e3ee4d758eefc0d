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

from LeFusion.check.facts import CheckSettings, measure
from LeFusion.check.files import assign_split, list_cases
from LeFusion.check.findings import find_common_faults
from LeFusion.check.report import findings_text, overview, save_picture, write_cases
from LeFusion.dataset.storage import write_text
from LeFusion.runtime.commandline import given_path, given_test_list, output_folder, plain, run_command
from LeFusion.runtime.overrides import any_path
from LeFusion.settings import CheckDatasetSettings


def run(given: CheckDatasetSettings) -> int:
    """Checks as the settings say; returns the number of errors."""
    folder = output_folder(given.output_folder, "output_folder")
    settings = measured_against(given)
    facts, findings = list_cases(settings)
    findings += assign_split(facts, given_test_list(given.test_txt_dir), settings.layout)
    for case in tqdm(facts, unit="case", desc="reading"):
        if case.image_path is not None:
            measure(case, settings)
    findings += find_common_faults(facts, settings)
    findings += [finding for case in facts for finding in case.findings]

    counts = {level: sum(finding.level == level for finding in findings) for level in ("error", "warning")}
    verdict = f"{settings.root}: {_count(counts['error'], 'error')}, {_count(counts['warning'], 'warning')}"
    problems, tables = findings_text(findings), overview(facts, settings, given.unit)
    report, table, picture = (folder / f"check_dataset.{ending}" for ending in ("md", "csv", "png"))
    written = [table, picture, report]
    write_cases(table, facts, settings)
    if not save_picture(picture, facts, settings):
        written.remove(picture)
        picture.unlink(missing_ok=True)  # of an earlier check
    head = f"# Check of a data set\n\n{verdict}\n\nMeasured against data_type={given.data_type}: {settings}"
    write_text(report, f"{head}\n\n{problems}\n\n{tables}\n")
    print(f"\n{tables}\n\n{problems}\n\n{verdict}")
    for path in written:
        print(f"wrote {path}")
    return counts["error"]


def measured_against(given: CheckDatasetSettings) -> CheckSettings:
    layout, root = given.layout, Path(os.path.abspath(given_path(given.dataset_root_dir)))
    if root.is_dir() and root.name == layout.image_folder and not (root / layout.image_folder).is_dir():
        root = root.parent
    size = tuple(given.crop_size or given.region_size)
    crops = given.crop_size is not None
    return CheckSettings(root, layout, given.window, given.histogram_bins, size, crops, given.spacing_mm)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@any_path
@hydra.main(version_base=None, config_path="../configs", config_name="check_dataset")
def main(config: DictConfig) -> None:
    def command() -> None:
        if run(CheckDatasetSettings.of(plain(config))):
            sys.exit(1)

    run_command(command)


if __name__ == "__main__":
    main()
