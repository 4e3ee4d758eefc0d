"""A trained segmenter: its checkpoint, and prediction in the geometry of the source."""

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from evaluation_pipeline.segmentation.checkpoint import BEST_MODEL, read_checkpoint
from evaluation_pipeline.segmentation.models import MODEL_NAMES, build_model, patch_multiple
from evaluation_pipeline.segmentation.nnunet_original import OriginalSegmenter
from evaluation_pipeline.segmentation.preprocessing import Preprocessing
from LeFusion.dataset.scans import read_volume
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import choose_device

MIRRORED_AXES = [axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n)]  # none to all
WINDOWS_AT_ONCE = 4
WHOLE_VOLUME = 2  # patches: a volume of at most so many is predicted in one window


class Segmenter:
    """A network with all that is needed to use it.

    labels: name -> value of each class, without the background. metadata: what the checkpoint says of its
    training (fold, seed, data, ...).
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        multiple: Sequence[int],
        labels: dict[str, int],
        metadata: dict[str, Any],
        device: torch.device,
    ):
        """multiple: what the sides of the network's input must be multiples of."""
        self.network = network.to(device, memory_format=torch.channels_last_3d).eval()
        self.preprocessing, self.multiple = preprocessing, multiple
        self.labels, self.metadata, self.device = labels, metadata, device

    @torch.inference_mode()
    def predict(self, image_path: str | os.PathLike, overlap: float = 0.5, mirror: bool = True) -> np.ndarray:
        """Labels (uint8) of an image, in its stored shape and axes.

        Windows of the training's patch size, overlapping by `overlap` and blended by a Gaussian (volumes of
        at most two patches are one window); with `mirror`, the mean of the class probabilities over all eight
        mirrorings.

        Raises FileNotFoundError or ValueError for a file that cannot be read, or an overlap outside [0, 1).
        """
        if not 0 <= overlap < 1:
            raise UserError(f"--val_overlap {overlap} must be at least 0 and below 1")
        volume = read_volume(image_path)
        image = self.preprocessing.image(volume)[None].to(self.device)
        choices = MIRRORED_AXES if mirror else MIRRORED_AXES[:1]
        total = torch.zeros(())
        for axes in choices:
            logits = self._logits(image.flip(axes), overlap).flip(axes)
            total = total + logits.softmax(dim=1).cpu()
        return self.preprocessing.to_stored(total[0] / len(choices), volume)

    def _logits(self, image: Tensor, overlap: float) -> Tensor:
        return sliding_window_inference(
            image, self._window(image.shape[2:]), WINDOWS_AT_ONCE, self.network, overlap, mode="gaussian"
        ).float()

    def _window(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The patch; or, where it is hardly larger, the whole volume: faster than several windows."""
        patch = self.preprocessing.patch_size
        whole = [math.ceil(n / m) * m for n, m in zip(shape, self.multiple, strict=True)]
        whole = tuple(max(sides) for sides in zip(whole, patch, strict=True))
        return whole if math.prod(whole) <= WHOLE_VOLUME * math.prod(patch) else patch


def load_segmenter(path: str | os.PathLike, model_name: str, device: str = "auto") -> Segmenter:
    """The segmenter that run_segmentation_training.py wrote.

    path: best_model.pt, last_model.pt or the folder of best_model.pt.

    Raises FileNotFoundError when there is none, ValueError when the file is no such checkpoint, is damaged or
    of an architecture other than model_name.
    """
    path = Path(path)
    if path.is_dir():
        path = path / BEST_MODEL
    content = read_checkpoint(path)
    stored = content["model"]["name"]
    if stored != model_name:
        raise UserError(f"{path}: holds a {stored}, not a {model_name}; give --model_name {stored}")
    if stored not in MODEL_NAMES:
        return OriginalSegmenter(path, content, choose_device(device))
    model = content["model"]
    network = build_model(**model)
    try:
        network.load_state_dict(content["weights"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: its weights do not fit the {stored} that it names: {reason}") from None
    return assemble(network, content, choose_device(device))


def assemble(network: nn.Module, content: dict[str, Any], device: torch.device) -> Segmenter:
    """The Segmenter of a network and the content of its checkpoint."""
    model = content["model"]
    multiple = patch_multiple(model["name"], model["patch_size"], model["spacing_mm"])
    preprocessing = Preprocessing(**content["preprocessing"])
    metadata = content["metadata"] | {"model": model}
    return Segmenter(network, preprocessing, multiple, content["labels"], metadata, device)
