"""Inserting lesions from Python: any kind of CT in, the same kind out, the voxels of the command."""

import pickle

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from LeFusion import Painter, RandInsertLesiond, UserError
from LeFusion.dataset.scans import read_volume
from LeFusion.insertion import call
from LeFusion.insertion.lesions import insert_lesions


@pytest.fixture
def painter(networks, monkeypatch):
    """With the smallest networks."""
    defaults = call.default_settings

    def small(*args, **changes):
        masks = {"mask_model_path": str(networks["mask_model_path"]), "mask_steps": 2, "max_redraws": 2}
        return defaults(*args, **changes) | masks

    monkeypatch.setattr(call, "default_settings", small)
    sizes = {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 2, "device": "cpu"}
    return Painter.load(networks["model_path"], **sizes)


def test_every_kind_gives_what_the_command_makes(painter, chest, tools):
    sitk = pytest.importorskip("SimpleITK")
    path = chest()
    source = read_volume(path)
    expected = insert_lesions(source, tools, (1, 2), seed=4, diameter_mm=(4, 6))
    options = {"lesions": (1, 2), "seed": 4, "diameter_mm": (4, 6)}
    array = source.raw
    of_array = painter.insert(array, affine=source.affine, **options)
    of_path = painter.insert(path, **options)
    of_nibabel = painter.insert(nibabel.load(path), **options)
    of_simpleitk = painter.insert(sitk.ReadImage(str(path)), **options)
    of_tensor = painter.insert(torch.from_numpy(array)[None], affine=source.affine, **options)
    assert isinstance(of_array.image, np.ndarray) and np.array_equal(of_array.image, expected.image.raw)
    assert np.array_equal(of_array.labels, expected.labels)
    for found in (of_path, of_nibabel):
        for got, wanted in ((found.image, expected.image.raw), (found.labels, expected.labels)):
            assert isinstance(got, nibabel.Nifti1Image) and np.array_equal(got.dataobj, wanted)
            assert got.get_data_dtype() == wanted.dtype and np.allclose(got.affine, source.affine)
    assert np.array_equal(sitk.GetArrayFromImage(of_simpleitk.image).T, expected.image.raw)
    assert np.array_equal(sitk.GetArrayFromImage(of_simpleitk.labels).T, expected.labels)
    assert of_simpleitk.labels.GetSpacing() == of_simpleitk.image.GetSpacing()
    assert torch.equal(of_tensor.image[0], torch.from_numpy(expected.image.raw))
    assert of_tensor.labels.dtype == torch.uint8 and of_tensor.labels.shape == (1, *array.shape)
    assert [lesion.volume_ml for lesion in of_array.lesions] == [
        lesion.volume_ml for lesion in expected.lesions
    ]


def test_a_painter_that_inserted_can_be_sent_to_a_process(painter, chest):
    first = painter.insert(chest(), 1, seed=2, diameter_mm=5).image
    second = pickle.loads(pickle.dumps(painter)).insert(chest(), 1, seed=2, diameter_mm=5).image
    assert np.array_equal(first.dataobj, second.dataobj)


def test_the_transform_inserts_and_labels(painter, chest):
    source = read_volume(chest())
    image = MetaTensor(torch.from_numpy(source.raw)[None].float(), affine=torch.from_numpy(source.affine))
    options = {"lesions": 1, "diameter_mm": 5, "label_key": "label"}
    made = RandInsertLesiond("image", painter, prob=1, **options).set_random_state(seed=1)({"image": image})
    seed = made["image"].meta["painted_seed"]
    expected = painter.insert(image, 1, seed, diameter_mm=5)
    assert torch.equal(made["image"], expected.image) and made["image"].meta["painted_texture"]
    assert torch.equal(made["label"].as_tensor(), (expected.labels > 0).as_tensor().to(torch.uint8))
    assert made["label"].any() and torch.equal(made["label"].affine, image.affine)
    organ = torch.full(image.shape, 3)
    both = RandInsertLesiond("image", painter, prob=1, **options)({"image": image, "label": organ})["label"]
    assert sorted(both.unique().tolist()) == [1, 3] and organ.unique().tolist() == [3]
    left = RandInsertLesiond("image", painter, prob=0, **options)({"image": image})
    assert torch.equal(left["image"], image) and not left["label"].any()
    assert left["image"].meta["painted_seed"] == -1 and left["label"].dtype == torch.uint8


def test_numbers_may_be_numpy_s(painter, chest, monkeypatch):
    asked = []

    def insert_lesions(_volume, _tools, lesions, seed, **options):
        asked.append((lesions, seed, *options.values()))
        raise UserError("asked")

    monkeypatch.setattr(call, "insert_lesions", insert_lesions)
    ct = nibabel.load(chest())
    for given in (
        {"lesions": np.int64(2), "seed": np.uint8(3), "texture": np.int64(1), "diameter_mm": np.float32(8)},
        {"lesions": np.array([1, 2]), "seed": 3, "texture": "solid", "diameter_mm": np.array([6.0, 8.0])},
    ):
        with pytest.raises(UserError, match="asked"):
            painter.insert(ct, **given)
    assert asked == [(2, 3, 1, 8.0), ([1, 2], 3, "solid", [6.0, 8.0])]


def test_mistakes_are_refused(painter, chest, save_network):
    ct = nibabel.load(chest())
    with pytest.raises(UserError, match="image: its values, .* not in HU"):
        painter.insert(np.asanyarray(ct.dataobj) / 1000, affine=ct.affine)
    with pytest.raises(UserError, match="texture=bright must be realistic, mixture, or one of"):
        painter.insert(ct, 1, texture="bright")
    with pytest.raises(UserError, match="seed=-1"):
        painter.insert(ct, 1, seed=-1)
    for lesions in (0, (3, 2), [], "many", 2.5, None, np.float32(2.5)):
        with pytest.raises(UserError, match="lesions=.* must be"):
            painter.insert(ct, lesions)
    with pytest.raises(UserError, match="diameter_mm=-1 must be"):
        painter.insert(ct, 1, diameter_mm=-1)
    shares = Painter.load(save_network(), device="cpu", texture_shares=[0, 0, 1])
    with pytest.raises(UserError, match="texture_shares: is for paint"):
        shares.insert(ct)
    hearts = save_network("hearts.safetensors", 2, data_type="emidec", window="minmax")
    with pytest.raises(UserError, match="insert: finds places in lungs"):
        Painter.load(hearts, device="cpu").insert(ct)
