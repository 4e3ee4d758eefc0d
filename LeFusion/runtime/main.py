"""The command `lefusion`: `lefusion inference data_type=lidc ...` runs LeFusion/inference/inference.py.

What the scripts do in a clone it does where the project is installed: configs and bundled weights come from
the package, outputs go below the folder that the command starts in.
"""

import runpy
import sys

from LeFusion.runtime.commandline import PROJECT_ROOT

COMMANDS = {
    "train": "LeFusion/train/train.py",
    "check-dataset": "LeFusion/train/check_dataset.py",
    "inference": "LeFusion/inference/inference.py",
    "fit-textures": "LeFusion/inference/fit_textures.py",
    "diffmask-train": "DiffMask/train/train.py",
    "diffmask-inference": "DiffMask/inference/inference.py",
}


def main() -> None:
    """Run the script of the first argument with the others, as if it had been started itself."""
    name, *arguments = sys.argv[1:] or [""]
    if name not in COMMANDS:
        lines = "\n".join(f"  {command:20} {script}" for command, script in COMMANDS.items())
        print(f"usage: lefusion COMMAND key=value ... (--help after the command says more)\n{lines}")
        sys.exit(0 if name in ("-h", "--help") else 2)
    script = str(PROJECT_ROOT / COMMANDS[name])
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
