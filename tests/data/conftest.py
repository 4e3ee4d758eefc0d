"""The scripts of data/ are run from their folder, where they find shared modules; tests load them by path."""

import importlib.util
import sys
from pathlib import Path

for name in ("phantoms", "lidc_contours"):
    path = Path(__file__).parents[2] / "data" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
