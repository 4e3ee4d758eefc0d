"""The scripts of benchmarks/ find shared modules in their folder; tests load those by path."""

import importlib.util
import sys
from pathlib import Path

path = Path(__file__).parents[2] / "benchmarks" / "plain_unet.py"
spec = importlib.util.spec_from_file_location("plain_unet", path)
sys.modules["plain_unet"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["plain_unet"])
