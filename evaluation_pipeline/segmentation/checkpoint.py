"""The file of a trained segmenter: tensors and plain Python, written in one move."""

from pathlib import Path
from typing import Any

import torch

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import MissingFileError, UserError, why_not_loaded

FORMAT = "lefusion segmenter 1"
BEST_MODEL = "best_model.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint; `content` has at least what segmenter.load_segmenter reads."""
    with atomic_file(path) as temporary:
        try:
            torch.save({"format": FORMAT, **content}, temporary)
        except RuntimeError as error:  # torch's word for a full disk
            raise OSError(str(error).strip().split("\n")[0][:200]) from None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint. Nothing is loaded that can run code.

    Raises FileNotFoundError or ValueError.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{path}: no such checkpoint; run_segmentation_training.py writes best_model.pt into its "
            "--output_model_dir"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        known = content["format"] == FORMAT
    except Exception as error:  # torch raises many kinds for damaged or foreign files
        raise UserError(
            f"{path}: is damaged or no segmenter's checkpoint ({why_not_loaded(error)})"
        ) from None
    if not known:
        raise UserError(f"{path}: is of another version ({content['format']}); train it again")
    return content
