"""Paints the bundled lung regions (nodules) and hearts (infarcts) with the bundled weights.

    python LeFusion/inference/demo.py types=1

Arguments are Hydra overrides of inference.py, for both. Writes outputs/demo.
"""

import subprocess
import sys
from pathlib import Path

DEMOS = ("lidc", "emidec")  # of configs/demo


def main() -> None:
    script = Path(__file__).with_name("inference.py")
    for name in DEMOS:
        command = [sys.executable, script, f"data_type={name}", f"+demo={name}", *sys.argv[1:]]
        code = subprocess.run(command).returncode
        if code or "--help" in sys.argv[1:]:
            sys.exit(code)


if __name__ == "__main__":
    main()
