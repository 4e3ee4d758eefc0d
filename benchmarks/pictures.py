"""Makes the pictures of docs/ again, each with the command that made it.

    python benchmarks/pictures.py                        # what needs only the bundled data
    python benchmarks/pictures.py --lidc data/LIDC --emidec data/EMIDEC --histograms nodules.csv \\
        --nodules data/LIDC/Nodules --ct data/CT
    python benchmarks/pictures.py --only demo_preview.png num_steps=25 --out outputs/pictures

A picture whose data is not given is left out, and so is quality_over_calls.png, which takes hours (RePaint),
unless --only names it. Each of the others takes some minutes on two cores. Words key=value are overrides of
the commands that paint the demo. docs/architecture.svg is drawn by hand.
"""

import argparse
import os
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import PROJECT_ROOT, command_parser, run_with_flags


@dataclass(frozen=True)
class Picture:
    """commands: run in the project's folder; {work} is an empty folder, {lidc} and so on the data given.
    made: the picture in {work}. adjustable: takes the overrides of the command line. slow: takes hours, so it
    is made only when it is named."""

    made: str
    commands: tuple[str, ...]
    adjustable: bool = False
    slow: bool = False

    @property
    def needs(self) -> list[str]:
        """Which data, of DATA."""
        fields = [field for text in self.commands for _, field, _, _ in string.Formatter().parse(text)]
        return sorted(set(fields) & set(DATA))


DATA = {
    "lidc": "the folder of LIDC regions: Pathological/ (with test.txt) and Normal/",
    "emidec": "the folder of EMIDEC: Pathological/",
    "histograms": "a table of the histograms of nodules (.csv)",
    "ct": "the folder of chest_ct.nii.gz, a chest CT that may be shown",
    "comparison": "the results.csv of a run_comparison.sh with REAL_COUNTS",
    "nodules": "the folder of nodule masks that data/prepare_lidc_masks.py --with-outline makes",
}
PAINT = "{python} LeFusion/inference/inference.py"
INTO = "target_img_path={work}/Image target_label_path={work}/Mask"
FIT = "{python} LeFusion/inference/fit_textures.py output={work}/textures.json"
PICTURES = {
    "demo_preview.png": Picture("Image/preview.png", (f"{PAINT} +demo=lidc {INTO}",), adjustable=True),
    "demo_hearts.png": Picture(
        "Image/preview.png", (f"{PAINT} data_type=emidec +demo=emidec {INTO}",), adjustable=True
    ),
    "insertion.gif": Picture(
        "insertion.gif",
        (
            "{python} LeFusion/inference/insert.py {ct}/chest_ct.nii.gz {work} seed=2 "
            "sites=benchmarks/insertion_sites.csv viewer=false",
            "{python} benchmarks/scroll.py {ct}/chest_ct.nii.gz {work}/chest_ct {work}/insertion.gif",
        ),
    ),
    "learning_curve.png": Picture(
        "learning_curves.png",
        (
            "{python} evaluation_pipeline/compare.py --results_csv {comparison} --group_by_prefix "
            "--baseline P --by_count --output_dir {work}",
        ),
    ),
    "mask_shapes.png": Picture(
        "shapes.png", ("{python} benchmarks/mask_shapes.py --masks {nodules} --count 700 --out {work}",)
    ),
    "mask_surfaces.png": Picture(
        "surfaces.png",
        (
            "{python} DiffMask/inference/inference.py dataset_root_dir={lidc}/Normal masks_per_scan=1 "
            "output_dir={work}",
        ),
    ),
    "real_or_painted.png": Picture(
        "sheet.png",
        (
            f"{PAINT} dataset_root_dir={{lidc}}/Normal condition=realistic {INTO}",
            "{python} evaluation_pipeline/reader_sheet.py --real_dir {lidc}/Pathological "
            "--synthetic_dir {work} --lesions 8 --seed 4 --output {work}/sheet.png",
        ),
    ),
    # Without hearts: the images of EMIDEC are not for commercial use
    "textures_emidec.png": Picture(
        "textures.png",
        (f"{FIT} data_type=emidec show_lesions=false dataset_root_dir={{emidec}}/Pathological",),
    ),
    "textures_lidc.png": Picture(
        "textures.png", (f"{FIT} data_type=lidc types=3 histograms_csv={{histograms}}",)
    ),
    "textures_scores.png": Picture(
        "scores.png",
        (
            "{python} benchmarks/settings_sheet.py {lidc}/Normal {work}/scores.png texture_score=1 "
            "texture_score=5 calcification=3,realistic_textures=configs/lesion_textures/lidc_nodules.json",
        ),
    ),
    # In docs/: the 14 smallest of these nodules, without RePaint (10, 10)
    "quality_over_calls.png": Picture(
        "quality.png",
        (
            "{python} benchmarks/quality.py --data {lidc}/Pathological --out {work} "
            "test_txt_dir={lidc}/Pathological/test.txt split=test",
        ),
        slow=True,
    ),
}


def make(picture: Picture, path: Path, data: dict[str, Path], overrides: list[str]) -> None:
    """Runs the commands of a picture in a folder of their own and puts what they made at `path`.

    Raises UserError where a command fails.
    """
    with tempfile.TemporaryDirectory() as work:
        values = {"python": sys.executable, "work": work, **data}
        for text in picture.commands:
            command = [word.format(**values) for word in shlex.split(text)]
            command += overrides if picture.adjustable else []
            print("$", shlex.join(command), flush=True)
            code = subprocess.run(command, cwd=PROJECT_ROOT, env=with_project()).returncode
            if code:
                raise UserError(f"{path.name}: the command above ended with exit code {code}")
        with atomic_file(path) as temporary:
            shutil.copyfile(Path(work) / picture.made, temporary)


def with_project() -> dict[str, str]:
    """The environment, in which also scripts that were not installed find the project."""
    found = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), *([found] if found else [])])}


def run(arguments: argparse.Namespace) -> None:
    data = {name: getattr(arguments, name).resolve() for name in DATA if getattr(arguments, name)}
    for name, path in data.items():
        if not path.exists():
            raise UserError(f"--{name} {path}: no such file or folder")
    chosen = arguments.only or list(PICTURES)
    if arguments.overrides and not any(PICTURES[name].adjustable for name in chosen):
        raise UserError(f"{arguments.overrides[0]}: only the demo's pictures take overrides")
    for name in chosen:
        if PICTURES[name].slow and not arguments.only:
            print(f"{name}: left out, takes hours; --only {name} makes it")
            continue
        missing = [need for need in PICTURES[name].needs if need not in data]
        if missing:
            print(f"{name}: left out, needs " + " and ".join(f"--{need}" for need in missing))
            continue
        make(PICTURES[name], arguments.out / name, data, arguments.overrides)
        print(f"wrote {arguments.out / name}")


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    for name, meaning in DATA.items():
        described.add_argument(f"--{name}", type=Path, help=meaning)
    described.add_argument(
        "--only", action="append", choices=PICTURES, metavar="PICTURE", help="this one; may be repeated"
    )
    described.add_argument("--out", type=Path, default=PROJECT_ROOT / "docs", help="(default: docs)")
    described.add_argument(
        "overrides", nargs="*", help="key=value of the demo's painting, such as num_steps=25"
    )
    return described


if __name__ == "__main__":
    run_with_flags(parser(), run)
