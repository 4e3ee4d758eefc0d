"""The scripts of data/ are run from their folder, where they find `phantoms`; tests load them by path."""

import importlib.util
import sys
from pathlib import Path

folder = Path(__file__).parents[2] / "data" / "phantoms"
spec = importlib.util.spec_from_file_location(
    "phantoms", folder / "__init__.py", submodule_search_locations=[str(folder)]
)
sys.modules["phantoms"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["phantoms"])
