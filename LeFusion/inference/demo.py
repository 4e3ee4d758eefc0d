"""Paints nodules into the bundled lung regions and infarcts into the bundled hearts, with bundled weights.

    lefusion demo types=1

The pictures to look at are outputs/demo/Image/preview.png and outputs/demo/hearts/Image/preview.png. Settings
key=value are those of both (lefusion paint --help lists them).
"""

import subprocess
import sys
from pathlib import Path

DEMOS = ("lidc", "emidec")  # of configs/demo


def main() -> None:
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(__doc__.strip())
        return
    script = Path(__file__).with_name("inference.py")
    for name in DEMOS:
        command = [sys.executable, script, f"data_type={name}", f"+demo={name}", *sys.argv[1:]]
        code = subprocess.run(command).returncode
        if code:
            sys.exit(code)
    print("look at Image/preview.png and hearts/Image/preview.png in outputs/demo")


if __name__ == "__main__":
    main()
