"""Outputs that exist: kept, stale, lost, or of another setting; runs that were interrupted."""

from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from painted_regions import manifest_of, volumes
from refusals import assert_refused

import LeFusion.box_painter as painter
from LeFusion.dataset import loading


def test_a_second_run_paints_nothing(paint, tmp_path, files, monkeypatch):
    paint("types=2")
    before = files(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", None)
        code, out, error = paint("types=2")
    assert code == 0 and "0 to paint, 6 kept" in out and "note:" not in out, error
    after = files(tmp_path / "out")
    assert volumes(after) == volumes(before)
    assert after["Image/manifest.csv"] == before["Image/manifest.csv"]


@pytest.mark.parametrize("edited", ["Image/N-0002/N-0002_CVol_2.nii.gz", "Mask/N-0002/N-0002_CMask_2.nii.gz"])
def test_outputs_of_an_edited_scan_or_mask_are_made_again(paint, lidc, tmp_path, files, edited):
    paint("types=2")
    before = files(tmp_path / "out")
    path = lidc / "Normal" / edited
    old = nibabel.load(path)
    voxels = np.asarray(old.dataobj).copy()
    voxels[6, 9, 4] = 1 - voxels[6, 9, 4] if "Mask" in edited else voxels[6, 9, 4] + 500
    nibabel.save(nibabel.Nifti1Image(voxels, old.affine), path)
    code, out, error = paint("types=2")
    assert code == 0 and "2 outputs are stale and are made again" in out and "2 to paint, 4 kept" in out, (
        error
    )
    after = files(tmp_path / "out")
    changed = {name for name in volumes(before) if after[name] != before[name]}
    assert changed and all("N-0002" in name for name in changed)
    code, out, _ = paint("types=2")
    assert code == 0 and "0 to paint, 6 kept" in out and "stale" not in out


@pytest.mark.parametrize("types", [1, 2])
def test_each_source_is_read_once(paint, tmp_path, monkeypatch, types):
    read = Counter()
    real = loading.read_volume

    def counted(path):
        read[Path(path).name] += 1
        return real(path)

    monkeypatch.setattr(loading, "read_volume", counted)
    code, *_ = paint(f"types={types}")
    assert code == 0 and len(read) == 6 and set(read.values()) == {1}


@pytest.mark.parametrize("lost", ["Image/Image_2/N-0002_CVol_2.nii.gz", "Mask/Mask_1/N-0003_Mask_2.nii.gz"])
def test_a_lost_output_is_painted_again_alone(paint, tmp_path, files, monkeypatch, lost):
    paint("types=2")
    before = files(tmp_path / "out")
    (tmp_path / "out" / lost).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.nii.gz") if path.is_file()}
    code, out, _ = paint("types=2")
    assert code == 0 and "1 to paint, 5 kept" in out
    assert volumes(files(tmp_path / "out")) == volumes(before)
    kind, case = lost.split("/")[1][-1], lost.split("/")[2].split("_")[0]
    for path, time in times.items():
        if path.stat().st_mtime_ns != time:
            assert path.parent.name[-1] == kind and path.name.startswith(case)


def test_overwrite_paints_again(paint, tmp_path, files):
    paint("types=1")
    before = files(tmp_path / "out")
    path = tmp_path / "out" / "Image" / "Image_1" / "N-0001_CVol_2.nii.gz"
    path.write_bytes(b"damaged")
    code, out, _ = paint("types=1", "overwrite=true")
    assert code == 0 and "3 to paint, 0 kept" in out
    assert volumes(files(tmp_path / "out")) == volumes(before)


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "weights=model",
        "condition=own",
        "histogram_perturbation=0.5",
        "guidance_scale=3",
        "region=lesion",
        "schedule_jump_params.jump_n_sample=2",
        "sampler=dpmpp",
        "spacing=trailing",
        "eta=1",
    ],
)
def test_another_setting_gives_other_voxels_and_makes_outputs_again(paint, tmp_path, files, change):
    paint("types=1", "num_steps=4", "margin=1", "textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]")
    before = files(tmp_path / "out")
    extra = ["types=1", "num_steps=4", "margin=1", "textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]", change]
    code, out, error = paint(*extra)
    assert code == 0 and "3 outputs are stale and are made again" in out and "0 kept" in out, error
    after = files(tmp_path / "out")
    assert all(after[name] != before[name] for name in volumes(before) if name.startswith("Image/"))


def test_an_interrupted_run_goes_on(paint, tmp_path, files, monkeypatch):
    paint("types=2", out="unbroken")
    batches = 0

    def interrupted(*arguments):
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    real = painter.paint
    with monkeypatch.context() as patch:
        patch.setattr(painter, "paint", interrupted)
        with pytest.raises((KeyboardInterrupt, AssertionError)):
            code, *_ = paint("types=2", "batch_size=2")
            assert code == 0
    expected, partial = volumes(files(tmp_path / "unbroken")), volumes(files(tmp_path / "out"))
    assert len(partial) == 4 and all(expected[name] == content for name, content in partial.items())
    part = tmp_path / "out" / "Image" / "manifest.part-0-of-1.jsonl"
    assert len(part.read_text().splitlines()) == 2
    code, out, error = paint("types=2", "batch_size=2")
    assert code == 0 and "4 to paint, 2 kept" in out, error
    assert volumes(files(tmp_path / "out")) == expected
    assert len(manifest_of(tmp_path / "out")) == 6 and not part.exists()
    measured = [row["case"] for row in manifest_of(tmp_path / "out") if row["seconds"]]
    assert len(measured) == 6  # those before the kill as well


def test_a_lost_manifest_is_made_again(paint, tmp_path):
    paint("types=1")
    before = manifest_of(tmp_path / "out")
    (tmp_path / "out" / "Image" / "manifest.csv").unlink()
    paint("types=1")
    after = manifest_of(tmp_path / "out")
    assert [row | {"seconds": "", "made_from": ""} for row in before] == after  # neither is known any more


def test_a_foreign_manifest_is_left_alone(paint, tmp_path):
    path = tmp_path / "out" / "Image" / "manifest.csv"
    path.parent.mkdir(parents=True)
    path.write_text("a,b\n1,2\n")
    assert_refused(paint(), path)
    assert path.read_text() == "a,b\n1,2\n"
