"""Inserts lesions into whole scans: a scan goes in, a scan comes out.

    python LeFusion/inference/insert.py INPUT OUTPUT [key=value ...]

INPUT is a scan or a folder of scans. For each, OUTPUT/<scan>/ gets image (in the format that came in),
labels.nii.gz, lesions.csv, preview.png and report.json. Scans that are finished are kept, so that an
interrupted run goes on. All keys: --help, or configs/insert.yaml; docs/whole_ct.md.
"""

import hydra
from omegaconf import DictConfig

from LeFusion.insertion.run import run
from LeFusion.runtime.commandline import plain, run_command
from LeFusion.runtime.overrides import any_path, positional
from LeFusion.settings import InsertSettings


@positional("input", "output")
@any_path
@hydra.main(version_base=None, config_path="../configs", config_name="insert")
def main(config: DictConfig) -> None:
    run_command(lambda: run(InsertSettings.of(plain(config))))


if __name__ == "__main__":
    main()
