"""The command `lefusion`: `lefusion paint data_type=lidc ...` runs LeFusion/inference/inference.py.

What the scripts do in a clone it does where the project is installed: configs, bundled weights and demo data
come from the package, outputs go below the folder that the command starts in. Imports no other package, so
that the list of commands is there at once.
"""

import runpy
import sys
from pathlib import Path

from LeFusion.runtime.threads import spin_briefly

ROOT = Path(__file__).resolve().parents[2]

# name: (script, what it does)
COMMANDS = {
    "demo": ("LeFusion/inference/demo.py", "paint the bundled phantoms: a first try, without data"),
    "insert": ("LeFusion/inference/insert.py", "put lesions into whole scans; needs no masks"),
    "paint": ("LeFusion/inference/inference.py", "paint lesions into images, under masks"),
    "masks": ("DiffMask/inference/inference.py", "make lesion masks for scans"),
    "view": ("LeFusion/viewer/view.py", "make a web page that shows what was painted"),
    "serve": ("LeFusion/server/serve.py", "paint for other programs over HTTP, such as 3D Slicer"),
    "download": ("LeFusion/runtime/download.py", "fetch the released data sets and weights"),
    "check": ("LeFusion/train/check_dataset.py", "check a data set before training"),
    "textures": ("LeFusion/inference/fit_textures.py", "find the textures of a data set's lesions"),
    "train": ("LeFusion/train/train.py", "train a network that paints"),
    "train-masks": ("DiffMask/train/train.py", "train a network that makes masks"),
    "export-bundle": ("LeFusion/inference/export_bundle.py", "make a MONAI bundle of weights"),
    "report": ("evaluation_pipeline/evaluate_synthesis.py", "measure how real painted lesions look"),
    "sheet": (
        "evaluation_pipeline/reader_sheet.py",
        "make a picture of real and painted lesions for readers",
    ),
    "prepare": ("evaluation_pipeline/prepare_real_dataset.py", "bring real cases into nnU-Net's layout"),
    "train-segmenter": ("evaluation_pipeline/run_segmentation_training.py", "train a segmentation network"),
    "evaluate": ("evaluation_pipeline/run_segmentation_evaluation.py", "judge a segmentation on test cases"),
    "compare": ("evaluation_pipeline/compare.py", "compare segmentation experiments"),
    "version": ("LeFusion/runtime/version.py", "the version; --report: what a bug report needs, as JSON"),
}
GROUPS = {  # the first command of each
    "demo": "paint",
    "check": "train",
    "report": "judge what was painted",
    "prepare": "train and judge segmentation networks",
    "version": "other",
}


def usage() -> str:
    """The list of commands."""
    lines = ["usage: lefusion COMMAND ARGUMENTS, for example: lefusion insert my_ct.nii.gz out lesions=5"]
    for command, (_, purpose) in COMMANDS.items():
        lines += [f"\n{GROUPS[command]}:"] if command in GROUPS else []
        lines.append(f"  {command:16} {purpose}")
    return "\n".join([*lines, "\nlefusion COMMAND --help has the arguments of a command."])


def main() -> None:
    """Run the script of the first argument with the others, as if it had been started itself."""
    name, *arguments = sys.argv[1:] or [""]
    name = "version" if name == "--version" else name
    if name not in COMMANDS:
        if name in ("", "-h", "--help"):
            print(usage())
            sys.exit(0 if name else 2)
        print(f"error: lefusion has no command {name!r}\n{usage()}", file=sys.stderr)
        sys.exit(2)
    spin_briefly()
    script = str(ROOT / COMMANDS[name][0])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
