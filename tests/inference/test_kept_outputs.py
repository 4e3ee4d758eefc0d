"""Where outputs may lie, and which of an earlier run are kept."""

import csv
import gzip
from hashlib import sha256
from pathlib import Path

import nibabel
import numpy as np
import pytest

import LeFusion.inference.inference as inference

REGION = ["diffusion_depth_size=8", "diffusion_img_size=16", "device=cpu", "preview_cases=1"]


@pytest.fixture
def paint(lidc, save_network, tmp_path, command):
    """-> paint(*overrides): runs the command on the normal cases; (exit code, stdout, stderr)."""
    model = save_network()

    def call(*overrides):
        defaults = {
            "model_path": model,
            "dataset_root_dir": lidc / "Normal",
            "target_img_path": tmp_path / "out" / "Image",
            "target_label_path": tmp_path / "out" / "Mask",
            "num_steps": 2,
            "types": 2,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *REGION, *kept, *overrides)

    return call


@pytest.mark.parametrize("key", ["target_img_path", "target_label_path"])
@pytest.mark.parametrize("place", ["Image", "Image/gen", "Mask", "Mask/gen"])
def test_outputs_among_the_sources_are_refused(paint, lidc, key, place, files):
    before = files(lidc)
    code, _, error = paint(f"{key}={lidc / 'Normal' / place}")
    assert code == 1 and f"error: {key}={lidc / 'Normal' / place} lies in {lidc / 'Normal'}" in error
    assert files(lidc) == before


def rows(folder):
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder, rows):
    with open(folder / "Image" / "manifest.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def other_voxels(path):
    """A file that nothing is wrong with, but for one voxel."""
    image = nibabel.load(path)
    raw = np.asanyarray(image.dataobj).copy()
    raw[0, 0, 0] += 1
    nibabel.save(nibabel.Nifti1Image(raw, image.affine, image.header), path)


def other_shape(path):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj)[1:], image.affine), path)


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(b"no volume at all"),
    "garbled inside": lambda path: path.write_bytes(gzip.compress(b"no volume at all")),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "other shape": other_shape,
    "other voxels": other_voxels,
}
FILES = {
    "image": "Image/Image_2/N-0003_CVol_2.nii.gz",  # beyond the preview
    "label": "Mask/Mask_1/N-0002_Mask_2.nii.gz",
    "edit": "Image/Edit_2/N-0001_Mask_2.nii.gz",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_outputs_are_named_and_made_again(paint, tmp_path, files, damage):
    paint("save_edit_mask=true")
    before = files(tmp_path / "out")
    for path in FILES.values():
        DAMAGE[damage](tmp_path / "out" / path)
    assert sum(before[name] != content for name, content in files(tmp_path / "out").items()) == 3
    code, out, error = paint("save_edit_mask=true")
    assert code == 0 and "3 outputs are damaged or were changed and are made again" in out, error
    assert f"such as {tmp_path / 'out' / FILES['edit']}: " in out and "3 to paint, 3 kept" in out
    after = files(tmp_path / "out")
    for name in before:
        assert name == "Image/manifest.csv" or after[name] == before[name], name


@pytest.mark.parametrize("damage", [None, "empty", "cut", "other shape", "other voxels"])
def test_where_no_hash_is_known_a_volume_must_at_least_be_readable(paint, tmp_path, files, damage):
    """A manifest of an earlier version has no such columns."""
    paint()
    before = files(tmp_path / "out")
    hashes = ("image_sha256", "label_sha256", "edit_sha256")
    write_rows(
        tmp_path / "out",
        [{k: v for k, v in row.items() if k not in hashes} for row in rows(tmp_path / "out")],
    )
    if damage:
        DAMAGE[damage](tmp_path / "out" / FILES["label"])
    code, out, error = paint()
    unseen = damage in (None, "other voxels")
    assert code == 0 and ("0 to paint, 6 kept" if unseen else "1 to paint, 5 kept") in out, error
    if not unseen:
        assert files(tmp_path / "out")[FILES["label"]] == before[FILES["label"]]
        assert sum(bool(row["label_sha256"]) for row in rows(tmp_path / "out")) == 1


def test_the_hashes_are_those_of_the_files(paint, tmp_path):
    paint()
    for row in rows(tmp_path / "out"):
        for part in ("image", "label"):
            assert row[f"{part}_sha256"] == sha256(Path(row[part]).read_bytes()).hexdigest()
        assert row["edit_sha256"] == ""
