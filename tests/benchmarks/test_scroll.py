"""benchmarks/scroll.py: a frame for each slice, both sides cut alike, circles where lesions are."""

import importlib.util
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from LeFusion.errors import UserError

spec = importlib.util.spec_from_file_location(
    "scroll", Path(__file__).parents[2] / "benchmarks" / "scroll.py"
)
scroll = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scroll)

AFFINE = np.diag([-2.0, -2.0, 3.0, 1.0])
SHAPE = (40, 50, 20)  # right to left, front to back, feet to head
LESION = (slice(18, 22), slice(24, 28), slice(8, 11))


@pytest.fixture
def scan(tmp_path):
    """-> folder: ct.nii.gz, each slice brighter than the one below, and painted/ with one white lesion."""
    before = np.broadcast_to(np.arange(SHAPE[2], dtype=np.int16) * 50 - 1000, SHAPE)
    labels = np.zeros(SHAPE, np.uint8)
    labels[LESION] = 1
    after = np.where(labels, 400, before).astype(np.int16)
    (tmp_path / "painted").mkdir()
    for name, values in (("ct", before), ("painted/image", after), ("painted/labels", labels)):
        nibabel.save(nibabel.Nifti1Image(values, AFFINE), tmp_path / f"{name}.nii.gz")
    return tmp_path


def start(*words) -> None:
    scroll.run(scroll.parser().parse_args([str(word) for word in words]))


def test_left_the_source_right_the_lesion(scan):
    start(scan / "ct.nii.gz", scan / "painted", scan / "a.gif")
    with Image.open(scan / "a.gif") as gif:
        assert gif.n_frames == 3 + 2 * 2  # the lesion's slices, and 6 mm below and above
        assert gif.size == (2 * 204 + 6, 204)  # 4 + 2 * 15 voxels of 2 mm, 3 pixels a mm
        frames = []
        for number in range(gif.n_frames):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    frames = frames[-2:] + frames[:-2]  # it starts in the first slice with the lesion
    before, after = frames[3][:, :204], frames[3][:, -204:]
    white, orange = (after > 170).all(axis=-1), after[..., 0] > after[..., 2] + 100
    assert white.sum() == pytest.approx(24 * 24, abs=120) and not (before > 170).all(axis=-1).any()
    assert np.argwhere(white).mean(axis=0) == pytest.approx([101.5, 101.5], abs=1)
    assert orange.any() and (before[orange] == after[orange]).all()
    assert (frames[0][:, :204] == frames[0][:, -204:]).all() and (frames[6][50, 50] > frames[0][50, 50]).all()


def test_a_scan_and_a_folder_that_do_not_belong_together(scan):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), AFFINE), scan / "other.nii.gz")
    with pytest.raises(UserError, match="another shape"):
        start(scan / "other.nii.gz", scan / "painted", scan / "a.gif")
    with pytest.raises(UserError, match="holds no image.nii.gz"):
        start(scan / "ct.nii.gz", scan, scan / "a.gif")
    assert not (scan / "a.gif").exists()
