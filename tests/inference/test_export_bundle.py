"""A MONAI bundle of weights: its metadata fit MONAI's schema, and MONAI runs it."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.bundle import run as run_bundle

from LeFusion.diffusion import UNet3D, load_checkpoint
from LeFusion.inference import export_bundle as command
from LeFusion.painter import Painter

# What MONAI's schema asks for (meta_schema_20240725.json)
REQUIRED = {
    "schema": str,
    "version": str,
    "monai_version": str,
    "pytorch_version": str,
    "numpy_version": str,
    "required_packages_version": dict,
    "task": str,
    "description": str,
    "authors": str,
    "copyright": str,
    "network_data_format": dict,
}
TENSOR = {
    "type": str,
    "format": str,
    "num_channels": int,
    "spatial_shape": list,
    "dtype": str,
    "value_range": list,
}


@pytest.fixture
def bundle(save_network, tmp_path, command_line):
    weights, folder = save_network(), tmp_path / "bundle"
    code, said, error = command_line(command.main, weights, folder)
    assert code == 0 and str(folder) in said, error
    return weights, folder


def test_the_metadata_fit_the_schema(bundle):
    weights, folder = bundle
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert {key: type(metadata[key]) for key in REQUIRED} == REQUIRED
    ports = metadata["network_data_format"]
    for port in [*ports["inputs"].values(), *ports["outputs"].values()]:
        assert {key: type(port[key]) for key in TENSOR} == TENSOR
    assert ports["inputs"]["x_t"]["num_channels"] == load_checkpoint(weights).network.config["in_channels"]
    assert len(ports["inputs"]["x_t"]["channel_def"]) == ports["inputs"]["x_t"]["num_channels"]


def test_the_state_dict_is_the_network_s(bundle):
    weights, folder = bundle
    checkpoint = load_checkpoint(weights)
    network = UNet3D(**checkpoint.network.config)
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    for name, value in checkpoint.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    again = load_checkpoint(folder / "models" / "model.safetensors").network.state_dict()
    assert all(torch.equal(again[name], value) for name, value in checkpoint.network.state_dict().items())


def test_monai_runs_it(bundle, lidc, tmp_path):
    _, folder = bundle
    config = ConfigParser.load_config_file(folder / "configs" / "inference.json")
    config["painter"] |= {"diffusion_depth_size": 8, "diffusion_img_size": 16, "num_steps": 1}
    path = tmp_path / "small.json"
    path.write_text(json.dumps(config))
    given = {
        "bundle_root": str(folder),
        "dataset_dir": str(lidc / "Normal"),
        "output_dir": str(tmp_path / "out"),
    }
    run_bundle(run_id="run", config_file=str(path), device="cpu", **given)
    (painted, *others) = sorted((tmp_path / "out").iterdir())
    assert len(others) == 2
    image = nibabel.load(next((lidc / "Normal" / "Image").rglob("N-0001*.nii.gz")))
    mask = np.asarray(nibabel.load(next((lidc / "Normal" / "Mask").rglob("N-0001*.nii.gz"))).dataobj)
    found = nibabel.load(painted)
    before, after = np.asarray(image.dataobj), np.asarray(found.dataobj)
    assert np.allclose(found.affine, image.affine, atol=1e-4)
    assert np.array_equal(before[mask == 0], after[mask == 0]) and (before != after)[mask > 0].mean() > 0.9


def test_released_weights_get_their_data_type(tmp_path, save_network, monkeypatch):
    """Only a file of ours says its data type."""
    weights = save_network()
    painter = Painter.load(weights, device="cpu")
    settings = painter.settings.model_copy(update={"model_path": str(tmp_path / "lidc.pt")})
    (tmp_path / "lidc.pt").touch()
    monkeypatch.setattr(command.Painter, "load", lambda *_, **__: replace(painter, settings=settings))
    command.export_bundle("lidc.pt", tmp_path / "bundle", "lidc")
    made = load_checkpoint(tmp_path / "bundle" / "models" / "model.safetensors")
    assert made.metadata["data_type"] == "lidc" and made.metadata["schedule"]["num_steps"] == 6


def test_what_exists_is_not_touched(bundle, command_line):
    weights, folder = bundle
    code, _, error = command_line(command.main, weights, folder)
    assert code == 1 and error == f"error: folder={folder} exists; give a new one, or delete it\n"


def test_nothing_is_left_of_what_failed(tmp_path, save_network, monkeypatch):
    def fails(*_):
        raise OSError("disk full")

    monkeypatch.setattr(command.torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        command.export_bundle(str(save_network()), tmp_path / "bundle")
    assert not [path for path in tmp_path.iterdir() if "bundle" in path.name]
