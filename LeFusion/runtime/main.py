"""The command `lefusion`: `lefusion paint data_type=lidc ...` runs LeFusion/inference/inference.py.

What the scripts do in a clone it does where the project is installed: configs, bundled weights and demo data
come from the package, outputs go below the folder that the command starts in. Imports nothing but the
standard library, so that the list of commands is there at once.
"""

import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# name: (script, what it does)
COMMANDS = {
    "insert": ("LeFusion/inference/insert.py", "lesions into whole scans: a scan goes in, a scan comes out"),
    "paint": ("LeFusion/inference/inference.py", "paint lesions into images, under their masks"),
    "masks": ("DiffMask/inference/inference.py", "make lesion masks for scans; paint=true paints them, too"),
    "train": ("LeFusion/train/train.py", "train the network that paints"),
    "train-masks": ("DiffMask/train/train.py", "train the network that makes masks"),
    "check": ("LeFusion/train/check_dataset.py", "is a data set fit for training? a report"),
    "textures": ("LeFusion/inference/fit_textures.py", "find the texture types of a data set"),
    "report": ("evaluation_pipeline/evaluate_synthesis.py", "how real painted lesions look, measured"),
    "sheet": (
        "evaluation_pipeline/reader_sheet.py",
        "real and painted lesions, shuffled, for readers to tell apart",
    ),
    "prepare": ("evaluation_pipeline/prepare_real_dataset.py", "a real data set in nnU-Net's raw layout"),
    "train-segmenter": ("evaluation_pipeline/run_segmentation_training.py", "train a segmentation network"),
    "evaluate": ("evaluation_pipeline/run_segmentation_evaluation.py", "judge a segmentation on test cases"),
    "compare": ("evaluation_pipeline/compare.py", "compare experiments that were evaluated"),
    "download": ("LeFusion/runtime/download.py", "fetch the released data sets and weights"),
    "serve": ("LeFusion/server/serve.py", "paint for other programs, such as 3D Slicer, over HTTP"),
    "view": ("LeFusion/viewer/view.py", "one HTML page that shows painted lesions in a browser"),
    "demo": ("LeFusion/inference/demo.py", "paint the bundled lung regions and hearts"),
    "export-bundle": ("LeFusion/inference/export_bundle.py", "a MONAI bundle of weights"),
    "version": ("LeFusion/runtime/version.py", "the version; --report: all that a bug report needs, as JSON"),
}


def main() -> None:
    """Run the script of the first argument with the others, as if it had been started itself."""
    name, *arguments = sys.argv[1:] or [""]
    name = "version" if name == "--version" else name
    if name not in COMMANDS:
        lines = "\n".join(f"  {command:16} {purpose}" for command, (_, purpose) in COMMANDS.items())
        usage = f"usage: lefusion COMMAND ... (--help after the command says more)\n{lines}"
        if name in ("", "-h", "--help"):
            print(usage)
            sys.exit(0 if name else 2)
        print(f"error: lefusion has no command {name!r}\n{usage}", file=sys.stderr)
        sys.exit(2)
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as setup_env.sh; before torch loads OpenMP
    script = str(ROOT / COMMANDS[name][0])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
