import nibabel
import numpy as np
import pytest
import torch

from evaluation_pipeline.segmentation.checkpoint import save_checkpoint
from evaluation_pipeline.segmentation.models import build_model
from evaluation_pipeline.segmentation.segmenter import Segmenter, load_segmenter

LABELS = {"cavity": 1, "scar": 2}


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = {
        "name": "UNet",
        "in_channels": 1,
        "out_channels": 3,
        "patch_size": [16, 16, 16],
        "size": "small",
        "spacing_mm": [1.0, 1.0, 1.0],
    }
    preprocessing = {
        "modality": "CT",
        "spacing_mm": [1.0, 1.0, 1.0],
        "resample": False,
        "patch_size": [16] * 3,
    }
    content = {
        "model": model,
        "preprocessing": preprocessing,
        "labels": LABELS,
        "metadata": {"fold": 0, "lesions": ["scar"]},
        "weights": build_model(**model).state_dict(),
    }
    path = tmp_path / "best_model.pt"
    save_checkpoint(path, content)
    return path, content


def image(tmp_path, shape, spacing_mm=(1, 1, 1)):
    path = tmp_path / "image.nii.gz"
    array = np.random.default_rng(0).integers(-1000, 400, shape).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1])), path)
    return path


@pytest.mark.parametrize("shape", [(16, 16, 16), (9, 14, 5), (40, 21, 17)])
def test_predictions_have_the_stored_shape(checkpoint, tmp_path, shape):
    segmenter = load_segmenter(checkpoint[0].parent, "UNet", "cpu")
    labels = segmenter.predict(image(tmp_path, shape))
    assert labels.shape == shape and labels.dtype == np.uint8 and labels.max() <= 2
    assert segmenter.labels == LABELS and segmenter.metadata["fold"] == 0


def test_other_spacings_come_back_to_the_stored_grid(checkpoint, tmp_path):
    path, content = checkpoint
    save_checkpoint(path, content | {"preprocessing": content["preprocessing"] | {"resample": True}})
    labels = load_segmenter(path, "UNet").predict(image(tmp_path, (8, 20, 20), (2.5, 0.8, 1)), mirror=False)
    assert labels.shape == (8, 20, 20)


class Threshold(torch.nn.Module):
    """Bright voxels are class 1: a network whose right answer is known."""

    def forward(self, x):
        return torch.cat([0.5 - x, x - 0.5, torch.full_like(x, -9.0)], dim=1)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_and_mirrorings_keep_every_voxel_in_its_place(checkpoint, tmp_path, mirror, overlap):
    loaded = load_segmenter(checkpoint[0], "UNet", "cpu")
    segmenter = Segmenter(Threshold(), loaded.preprocessing, loaded.multiple, LABELS, {}, torch.device("cpu"))
    path = image(tmp_path, (40, 21, 33))  # nine windows and more
    expected = nibabel.load(path).get_fdata() > -300  # the middle of the window
    assert np.array_equal(segmenter.predict(path, overlap, mirror), expected)


def test_mirroring_is_the_mean_over_eight_views(checkpoint, tmp_path):
    calls = []

    class Lopsided(torch.nn.Module):
        def forward(self, x):
            calls.append(x.shape)
            left = torch.arange(x.shape[-1]).expand(x.shape) < x.shape[-1] // 2
            return torch.cat([torch.zeros_like(x), torch.where(left, 5.0, -4.0)], dim=1)

    loaded = load_segmenter(checkpoint[0], "UNet", "cpu")
    segmenter = Segmenter(Lopsided(), loaded.preprocessing, loaded.multiple, LABELS, {}, torch.device("cpu"))
    path = image(tmp_path, (16, 16, 16))
    alone = segmenter.predict(path, mirror=False)
    assert alone[..., :8].all() and not alone[..., 8:].any() and len(calls) == 1
    assert segmenter.predict(path).all()  # mean of 0.993 and 0.018 is above a half on both sides
    assert len(calls) == 9


def test_a_volume_of_two_patches_is_one_window(checkpoint):
    segmenter = load_segmenter(checkpoint[0], "UNet", "cpu")
    assert segmenter._window((16, 16, 30)) == (16, 16, 32)
    assert segmenter._window((5, 5, 5)) == (16, 16, 16)
    assert segmenter._window((16, 20, 30)) == (16, 16, 16)


def test_another_architecture_is_refused(checkpoint):
    with pytest.raises(ValueError, match="holds a UNet, not a SwinUNETR; give --model_name UNet"):
        load_segmenter(checkpoint[0], "SwinUNETR")


def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path):
    path, content = checkpoint
    with pytest.raises(FileNotFoundError, match="absent.pt: no such checkpoint"):
        load_segmenter(tmp_path / "absent.pt", "UNet")
    with pytest.raises(ValueError, match="--val_overlap 1.0"):
        load_segmenter(path, "UNet").predict(image(tmp_path, (16, 16, 16)), overlap=1.0)
    with pytest.raises(ValueError, match="device='nonsense' cannot be used"):
        load_segmenter(path, "UNet", "nonsense")
    save_checkpoint(path, content | {"weights": {}})
    with pytest.raises(ValueError, match="weights do not fit the UNet"):
        load_segmenter(path, "UNet")
    torch.save({"format": "other"}, path)
    with pytest.raises(ValueError, match="another version"):
        load_segmenter(path, "UNet")
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match="no segmenter's checkpoint"):
        load_segmenter(path, "UNet")
    path.write_bytes(b"PK damaged")
    with pytest.raises(ValueError, match="is damaged"):
        load_segmenter(path, "UNet")
