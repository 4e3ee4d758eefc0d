"""Predictions, labels, and a network that stands in."""

from pathlib import Path

import nibabel
import numpy as np

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


SHAPE = (10, 12, 8)


CASES = ("A-1_Vol_1", "A-1_Vol_2", "B-2_Vol_1")


def write(path: Path, array: np.ndarray, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def block(start: int, length: int = 4, value: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[start : start + length, 3:7, 2:6] = value
    return labels


class Stub:
    """Predicts the block one voxel further along, and counts."""

    labels = {"lesion": 1}

    def __init__(self, **metadata):
        self.calls, self.metadata = [], metadata

    def predict(self, image_path, overlap=0.5, mirror=True):
        self.calls.append((Path(image_path).name, overlap, mirror))
        return np.roll(read(image_path), 1, 0).astype(np.uint8)


def read(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def assert_refused(outcome: tuple[int, str, str], *parts: str) -> None:
    code, _, error = outcome
    assert code == 1 and error.rstrip().splitlines()[-1].startswith("error: "), error
    for part in parts:
        assert part in error, (part, error)
