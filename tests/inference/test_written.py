"""The inference command: what it writes."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest
from painted_regions import CASES, REGION, SCRIPT, manifest_of, raw, volumes, volumes_below
from PIL import Image
from refusals import assert_refused

import LeFusion.inference.report as report
from LeFusion.textures.conditions import Conditions


def test_what_a_lesion_is_to_look_like_is_worked_out_once(paint, monkeypatch):
    asked, look = Counter(), Conditions.look

    def counted(self, loaded, kind, *rest):
        asked[loaded.case.name, kind] += 1
        return look(self, loaded, kind, *rest)

    monkeypatch.setattr(Conditions, "look", counted)
    code, _, error = paint("condition=realistic", "types=2")
    assert code == 0, error
    assert len(asked) == 6 and set(asked.values()) == {1}


def test_what_is_written(paint, lidc, tmp_path, files):
    code, out, error = paint()
    assert code == 0, error
    assert sorted(files(tmp_path / "out")) == sorted(
        [f"Image/Image_{kind}/{name}_CVol_2.nii.gz" for kind in (1, 2, 3) for name in CASES]
        + [f"Mask/Mask_{kind}/{name}_Mask_2.nii.gz" for kind in (1, 2, 3) for name in CASES]
        + ["Image/manifest.csv", "Image/preview.png", "Image/viewer.html"]
    )
    assert f"wrote {tmp_path / 'out' / 'Image' / 'viewer.html'} (1." in out
    written = files(tmp_path / "out" / "Mask")
    for name in CASES:
        source = nibabel.load(lidc / "Normal" / "Image" / name / f"{name}_CVol_2.nii.gz")
        source_mask = nibabel.load(lidc / "Normal" / "Mask" / name / f"{name}_CMask_2.nii.gz")
        lesion = np.asanyarray(source_mask.dataobj) == 1
        labels = nibabel.load(tmp_path / "out" / "Mask" / "Mask_1" / f"{name}_Mask_2.nii.gz")
        assert labels.get_data_dtype() == np.uint8 and np.array_equal(labels.affine, source.affine)
        assert np.array_equal(np.asanyarray(labels.dataobj), lesion)
        for kind in (2, 3):
            assert written[f"Mask_{kind}/{name}_Mask_2.nii.gz"] == written[f"Mask_1/{name}_Mask_2.nii.gz"]
        painted = [
            nibabel.load(tmp_path / "out" / "Image" / f"Image_{kind}" / f"{name}_CVol_2.nii.gz")
            for kind in (1, 2, 3)
        ]
        for image in painted:
            assert image.header.binaryblock == source.header.binaryblock
            values = raw(image.get_filename())
            assert values.dtype == np.int16
            assert np.array_equal(values[~lesion], raw(source.get_filename())[~lesion])
            assert (values[lesion] != raw(source.get_filename())[lesion]).mean() > 0.9
            assert values[lesion].min() >= -1000 and values[lesion].max() <= 400
        assert not np.array_equal(raw(painted[0].get_filename()), raw(painted[1].get_filename()))
    with Image.open(tmp_path / "out" / "Image" / "preview.png") as preview:
        preview.load()
        assert min(preview.size) > 100
    assert "wrote 9 images" in out and "| images | 3 | 3 | 3 |" in " ".join(out.split())


@pytest.mark.parametrize(
    "condition, heads",
    [
        ("textures", ["source", "mask", "type 1\nImage_1", "type 2\nImage_2"]),
        ("own", ["source", "mask", "its own texture\nImage_1", "its own texture\nImage_2"]),
    ],
)
def test_columns_of_the_preview_are_headed_by_their_texture(paint, monkeypatch, condition, heads):
    drawn = []
    monkeypatch.setattr(report, "save_contact_sheet", lambda *args: drawn.append(args))
    code, _, error = paint(f"condition={condition}", "types=2", "preview_cases=3", "viewer=false")
    assert code == 0, error
    ((_, rows, _, titles, _, _, captions),) = drawn
    assert titles == heads and captions is None and len(rows) == 3


def test_textures_that_are_drawn_stand_below_their_images(paint, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(report, "save_contact_sheet", lambda *args: drawn.append(args))
    paint("condition=mixture", "types=2", "preview_cases=3", "viewer=false", "seed=1")
    (_, _, _, titles, _, _, captions) = drawn[0]
    assert titles[2:] == ["drawn\nImage_1", "drawn\nImage_2"]
    textures = [row["texture"] for row in manifest_of(tmp_path / "out")]
    assert [["", "", *textures[i : i + 2]] for i in (0, 2, 4)] == captions
    assert len(set(textures)) > 1


def test_scores_choose_the_real_lesions_and_are_in_the_manifest(paint, tmp_path):
    assert_refused(paint("texture_score=5", "condition=textures"), "texture_score=5", "condition=realistic")
    assert_refused(paint("calcification=3"), "lidc.json: calcification=3", "no scores of calcification")
    assert paint("texture_score=[1,2]", "types=2", "viewer=false")[0] == 0
    for row in manifest_of(tmp_path / "out"):
        assert row["texture"] == "ground-glass" and row["condition"] == "realistic texture_score=[1, 2]"
        assert (
            row["scores"][:16] in ("texture_score=1 ", "texture_score=2 ") and "spiculation" in row["scores"]
        )


def test_a_table_of_textures_by_case(paint, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("name,texture,type\nN-0001_CVol_2,3,\nN-0002_CVol_2,type 3,1\nN-0004_CVol_2,1,\n")
    assert_refused(paint(f"textures_of={table}"), "t.csv, line 4: there is no case N-0004_CVol_2 in")
    table.write_text("".join(table.read_text().splitlines(True)[:3]))
    assert paint(f"textures_of={table}", "types=2", "viewer=false")[0] == 0
    textures = [row["texture"] for row in manifest_of(tmp_path / "out")]
    assert textures == ["type 3", "type 3", "type 3", "type 2", "type 1", "type 2"]


def test_the_manifest(paint, tmp_path):
    paint("types=2", "seed=7", "sampler=repaint", "num_steps=3")
    rows = manifest_of(tmp_path / "out")
    assert [(row["case"], row["type"]) for row in rows] == [
        (f"{name}_CVol_2", kind) for name in CASES for kind in ("1", "2")
    ]
    for row in rows:
        assert (row["seed"], row["model"], row["weights"]) == ("7", "tiny.safetensors", "ema")
        assert (row["sampler"], row["num_steps"], row["network_calls"]) == ("repaint", "3", "5")
        assert (row["jump_length"], row["jump_n_sample"], row["region"]) == ("2", "2", "whole")
        assert (row["condition"], row["guidance_scale"]) == ("textures", "1.0")
        assert float(row["max_abs_difference_outside"]) == 0
        for column in ("requested_histogram", "obtained_histogram"):
            shares = [float(share) for share in row[column].split()]
            assert len(shares) == 16 and sum(shares) == pytest.approx(1, abs=1e-3)
        name = row["case"].removesuffix("_CVol_2")
        lesion = raw(tmp_path / "LIDC" / "Normal" / "Mask" / name / f"{name}_CMask_2.nii.gz") == 1
        source = raw(tmp_path / "LIDC" / "Normal" / "Image" / name / f"{name}_CVol_2.nii.gz")[lesion]
        painted = raw(tmp_path / "out" / "Image" / f"Image_{row['type']}" / f"{name}_CVol_2.nii.gz")[lesion]
        assert float(row["lesion_mean"]) == pytest.approx(painted.mean(), abs=0.01)
        assert float(row["lesion_sd"]) == pytest.approx(painted.std(), abs=0.01)
        assert float(row["source_mean"]) == pytest.approx(source.mean(), abs=0.01)
        counted, _ = np.histogram(np.clip(painted, -1000, 400), 16, (-1000, 400))
        obtained = [float(share) for share in row["obtained_histogram"].split()]
        assert obtained == pytest.approx(counted / counted.sum(), abs=1e-4)
        assert float(row["wasserstein"]) > 0 and float(row["seconds"]) >= 0
        assert Path(row["image"]).is_file() and Path(row["label"]).is_file()
    requested = {row["requested_histogram"] for row in rows}
    assert len(requested) == len(rows)  # each its own draw


@pytest.mark.parametrize("region", ["whole", "lesion"])
def test_the_batch_size_does_not_change_a_byte(paint, tmp_path, files, region):
    written = []
    for size in (1, 4):
        code, _, error = paint(f"region={region}", f"batch_size={size}", "types=2", "margin=2", out=str(size))
        assert code == 0, error
        written.append(volumes(files(tmp_path / str(size))))
        assert {row["region"] for row in manifest_of(tmp_path / str(size))} == {region}
    assert written[0] == written[1] and len(written[0]) == 12


def test_an_output_does_not_depend_on_the_other_cases(paint, tmp_path, files, lidc):
    paint("types=2")
    (lidc / "Normal" / "Image" / "N-0001" / "N-0001_CVol_2.nii.gz").unlink()
    paint("types=2", out="fewer")
    together, alone = (volumes(files(tmp_path / name)) for name in ("out", "fewer"))
    assert alone == {name: content for name, content in together.items() if "N-0001" not in name}


@pytest.mark.parametrize(
    "sampler, calls",
    [
        (["sampler=repaint", "num_steps=null"], 10),
        (["sampler=ddim", "num_steps=3"], 3),
        (["sampler=dpmpp", "num_steps=4"], 4),
        (["sampler=dpmpp", "num_steps=4", "guidance_scale=2"], 8),
        (["sampler=ddim", "num_steps=2", "precision=bf16"], 2),
    ],
)
def test_every_sampler_runs(paint, tmp_path, sampler, calls):
    code, out, error = paint("types=1", *sampler)
    assert code == 0 and f"{calls} network calls each" in out, error
    assert {row["network_calls"] for row in manifest_of(tmp_path / "out")} == {str(calls)}


def test_own_condition_on_the_test_cases(paint, tmp_path, lidc, files):
    code, _, error = paint(
        f"dataset_root_dir={lidc / 'Pathological'}",
        f"test_txt_dir={lidc / 'Pathological' / 'test.txt'}",
        "split=test",
        "condition=own",
        "types=5",
    )
    assert code == 0, error
    written = volumes(files(tmp_path / "out"))
    assert sorted(written) == sorted(
        [f"Image/Image_{kind}/P-0004_Vol_1.nii.gz" for kind in range(1, 6)]
        + [f"Mask/Mask_{kind}/P-0004_Mask_1.nii.gz" for kind in range(1, 6)]
    )
    folder = lidc / "Pathological"
    source = raw(folder / "Image" / "P-0004" / "P-0004_Vol_1.nii.gz")
    lesion = raw(folder / "Mask" / "P-0004" / "P-0004_Mask_1.nii.gz") == 1
    counts, _ = np.histogram(np.clip(source[lesion], -1000, 400), 16, (-1000, 400))
    for row in manifest_of(tmp_path / "out"):
        requested = [float(share) for share in row["requested_histogram"].split()]
        assert requested == pytest.approx(counts / counts.sum(), abs=1e-4)


def test_test_cases_are_left_out(paint, tmp_path, lidc):
    code, _, error = paint(
        f"dataset_root_dir={lidc / 'Pathological'}",
        f"test_txt_dir={lidc / 'Pathological' / 'test.txt'}",
        "types=1",
    )
    assert code == 0, error
    cases = [row["case"] for row in manifest_of(tmp_path / "out")]
    assert cases == ["P-0001_Vol_1", "P-0002_Vol_1", "P-0003_Vol_1"]


def test_intensity_guidance_comes_from_the_weights_unless_given(paint, save_network, tmp_path):
    guided = save_network("guided.safetensors", intensity_guidance=1.0)
    for folder, overrides, used in (
        ("a", [], "1.0"),
        ("b", ["intensity_guidance=0"], "0"),
        ("c", ["intensity_guidance=0.5"], "0.5"),
    ):
        code, _, error = paint(
            f"model_path={guided}", "types=1", f"target_img_path={tmp_path}/{folder}", *overrides
        )
        assert code == 0, error
        with open(tmp_path / folder / "manifest.csv", newline="") as file:
            assert {row["intensity_guidance"] for row in csv.DictReader(file)} == {used}
    images = [next((tmp_path / folder / "Image_1").glob("*.nii.gz")).read_bytes() for folder in "abc"]
    assert len(set(images)) == 3


def test_a_whole_ct_is_painted_on_voxels_of_a_millimetre(paint, save_network, tmp_path):
    """data_type=chest_ct: any name, slices last, with a network that was trained on voxels as stored."""
    scan, lesion = np.full((30, 28, 12), -850, np.int16), np.zeros((30, 28, 12), np.uint8)
    scan += np.random.default_rng(0).integers(-50, 50, scan.shape).astype(np.int16)
    lesion[10:16, 9:14, 4:7] = 1
    affine = np.array([[0, 0.8, 0, 5], [-0.7, 0, 0, -3], [0, 0, -2.0, 70], [0, 0, 0, 1.0]])
    for name, array in (("scans/any name.nii", scan), ("made/any name_GenMask_1.nii.gz", lesion)):
        (tmp_path / name).parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / name)
    network = save_network("stored.safetensors", spacing_mm=None)
    code, _, error = paint(
        "data_type=chest_ct",
        f"model_path={network}",
        f"dataset_root_dir={tmp_path / 'scans'}",
        f"mask_dir={tmp_path / 'made'}",
        "types=1",
    )
    assert code == 0, error
    out = tmp_path / "out"
    image = nibabel.load(out / "Image" / "Image_1" / "any name_GenMask_1.nii")
    assert np.array_equal(image.affine, nibabel.load(tmp_path / "scans" / "any name.nii").affine)
    painted = np.asanyarray(image.dataobj)
    assert np.array_equal(painted[lesion == 0], scan[lesion == 0])
    assert (painted[lesion == 1] != scan[lesion == 1]).mean() > 0.8
    assert np.array_equal(raw(out / "Mask" / "Mask_1" / "any name_GenMask_1.nii"), lesion)
    other = save_network("two_mm.safetensors", spacing_mm=[2, 2, 2])
    refused = paint("data_type=chest_ct", f"model_path={other}", f"mask_dir={tmp_path / 'made'}", out="x")
    assert_refused(refused, other, "spacing_mm")


@pytest.mark.slow
def test_the_known_command_line_from_another_folder(lidc, save_network, tmp_path):
    """The command of the reference implementation's users, as a process of its own, with relative paths."""
    save_network(schedule={"kind": "cosine", "num_steps": 20})
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    command = [
        sys.executable,
        SCRIPT,
        "data_type=lidc",
        "model_path=../../tiny.safetensors",
        "dataset_root_dir=../../LIDC/Pathological/Image",
        "test_txt_dir=../../LIDC/Pathological/test.txt",
        "target_img_path=gen/Image",
        "target_label_path=gen/Mask",
        "batch_size=4",
        "types=3",
        "cond_dim=16",
        "schedule_jump_params.jump_length=2",
        "schedule_jump_params.jump_n_sample=2",
        *REGION,
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(volumes_below(elsewhere / "gen" / "Image")) == 9
    assert (elsewhere / "gen" / "Mask" / "Mask_3" / "P-0003_Mask_1.nii.gz").is_file()
    assert sorted(path.name for path in elsewhere.iterdir()) == ["gen"]  # nothing of Hydra's
    misspelt = subprocess.run(
        [*command, "data_tpye=lidc"], cwd=elsewhere, env=environment, capture_output=True, text=True
    )
    assert misspelt.returncode == 1 and "data_tpye" in misspelt.stderr
