"""What the inference command of DiffMask refuses, in one line, before anything is made."""

import numpy as np
import pytest
from made_masks import OBLIQUE, SCANS, SHAPE, table, write
from refusals import assert_refused

import DiffMask.inference.inference as inference


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_a_bad_scan_stops_the_run_before_anything_is_made_or_is_skipped(make, scans, tmp_path):
    bad = write(scans / "Image" / "N-0_CVol_1.nii.gz", np.full(SHAPE, 40, np.int16))
    cut = scans / "Image" / f"{SCANS[1]}.nii.gz"
    cut.write_bytes(cut.read_bytes()[:400])
    assert_refused(make(), bad, "no lung found", "skip_bad_cases=true")
    assert not (tmp_path / "out").exists()
    code, out, error = make("skip_bad_cases=true")
    assert code == 0, error
    skipped = [line for line in out.split("\n") if line.startswith("skipped: ")]
    assert len(skipped) == 2 and str(bad) in skipped[0] and "gzip" in skipped[1]
    assert [row["scan"] for row in table(tmp_path / "out")] == [SCANS[0]]
    assert "1 scans: 1 masks to make" in out and "2 skipped" in out
    (scans / "Image" / f"{SCANS[0]}.nii.gz").unlink()
    assert_refused(make("skip_bad_cases=true"), "no usable scan", bad, "no lung found")


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_a_scan_without_the_mask_that_it_needs_is_passed_over_on_request(make, scans, tmp_path):
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[6:9, 20:24, 20:24] = 1
    write(scans / "Mask" / f"{SCANS[0].replace('_CVol_', '_CMask_')}.nii.gz", lesion)
    without = scans / "Image" / f"{SCANS[1]}.nii.gz"
    assert_refused(make("spheres=masks"), without, "is missing", "skip_bad_cases=true")
    code, out, error = make("spheres=masks", "skip_bad_cases=true")
    assert code == 0 and f"skipped: {without}" in out and "1 skipped" in out, error
    assert [row["scan"] for row in table(tmp_path / "out")] == [SCANS[0]]


@pytest.mark.parametrize(
    "override, texts",
    [
        ("masks_per_scan=0", ["masks_per_scan=0"]),
        ("masks_per_scan=many", ["masks_per_scan=many"]),
        ("max_redraws=-1", ["max_redraws=-1"]),
        ("batch_size=0", ["batch_size=0"]),
        ("preview_masks=0", ["preview_masks=0"]),
        ("seed=1.5", ["seed=1.5"]),
        ("num_steps=0", ["num_steps=0"]),
        ("num_steps=7", ["num_steps=7", "6 levels", "masks.safetensors"]),
        ("weights=raw", ["weights=raw"]),
        ("device=nonsense", ["device=nonsense"]),
        ("smoothing=0", ["smoothing=0"]),
        ("smoothing=strong", ["smoothing=strong"]),
        ("inside_share=2", ["inside_share=2"]),
        ("vessel_share=few", ["vessel_share=few"]),
        ("spheres=3", ["spheres=3", "CSV"]),
        ("spheres=nowhere.csv", ["nowhere.csv", "placed, masks"]),
        ("dataset_root_dir=nowhere", ["nowhere", "dataset_root_dir"]),
        ("dataset_root_dir=null", ["dataset_root_dir"]),
        ("output_dir=", ["output_dir"]),
        ("model_path=", ["model_path"]),
        ("model_path=nowhere.pt", ["nowhere.pt", "does not exist"]),
        ("diameter_mm=large", ["diameter_mm", "large"]),
        ("mask_sampler=euler", ["mask_sampler=euler", "dpmpp"]),
        ("overwrite=no", ["overwrite=no", "true or false"]),
        ("paint=off", ["paint=off", "true or false"]),
        ("diameter_mm=[4,5,6]", ["diameter_mm", "[4, 5, 6]"]),
        ("diameter_mm=100", ["100", "larger than the volume"]),
        ("border_mm=near", ["border_mm", "near"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(make, tmp_path, override, texts):
    assert_refused(make(override), *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override",
    ["angle_deg=3", "half_angle_deg=30", "transmurality=0.5", "heights=[0,1]", "no_reflow_share=0"],
)
def test_settings_of_hearts_are_refused_for_lungs(make, tmp_path, override):
    assert_refused(make(override), override.split("=")[0] + "=", "is for hearts")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override",
    [
        *("spheres=masks", "organ_masks=o", "lesion_masks=l", "diameter_mm=5", "border_mm=1"),
        *("inside_share=0.5", "vessel_share=1", "separate=false", "model_path=m.pt", "weights=model"),
        *("mask_sampler=ddim", "num_steps=3", "smoothing=1"),
    ],
)
def test_settings_of_spheres_are_refused_for_hearts(infarcts, tmp_path, override):
    assert_refused(infarcts(override), override.split("=")[0] + "=", "is for lesions made from spheres")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("spheres", ["masks", "sites.csv"])
def test_given_spheres_get_one_mask_each(make, tmp_path, spheres):
    """masks_per_scan=5 with five spheres made 25 masks once."""
    refused = make(f"spheres={spheres}", "masks_per_scan=5")
    assert_refused(refused, "masks_per_scan=5", "one mask", "another seed and output_dir")
    assert_refused(
        make(f"spheres={spheres}", "diameter_mm=5"), "diameter_mm=5", f"spheres={spheres} says all"
    )
    assert not (tmp_path / "out").exists()


def test_masks_that_nobody_reads_are_refused(make):
    assert_refused(make("masks_from=somewhere"), "masks_from=somewhere", "spheres=masks")


def test_a_target_below_a_file_is_refused(make, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(make(f"output_dir={tmp_path / 'file' / 'deeper'}"), "output_dir", tmp_path / "file")


def test_a_network_for_something_else_is_refused(make, save_network, save_mask_network, tmp_path):
    painter = save_network("painter.safetensors")
    assert_refused(make(f"model_path={painter}"), painter, "takes 1 channels", "no mask network")
    hearts = save_network("hearts.safetensors", in_channels=2)
    assert_refused(make(f"model_path={hearts}"), hearts, "gives 2")
    conditioned = save_network("conditioned.safetensors", in_channels=2, out_channels=1)
    assert_refused(make(f"model_path={conditioned}"), conditioned, "no mask network")
    flat = save_mask_network("flat.safetensors", spacing_mm=[5, 1, 1])
    assert_refused(make(f"model_path={flat}"), flat, "(5, 1, 1) mm", "cubes")
    for key in ("sphere", "guide"):
        odd = save_mask_network("odd.safetensors", **{key: "cube"})
        assert_refused(make(f"model_path={odd}"), odd, f"{key}='cube' must be one of")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(flat.read_bytes()[:3000])
    assert_refused(make(f"model_path={damaged}"), damaged, "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override", ["masks_per_scans=2", "data_type=lidcc", "painting.steps=3", "sampler=euler"]
)
def test_a_misspelt_name_is_refused(command_line, tmp_path, override):
    code, _, error = command_line(inference.main, f"output_dir={tmp_path / 'out'}", override)
    assert code == 1 and override.split("=")[override[0] in "ds"] in error
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_a_foreign_table_is_left_alone(make, tmp_path):
    path = tmp_path / "out" / "masks.csv"
    path.parent.mkdir()
    path.write_text("mask,seed\nA,0\n")
    assert_refused(make(), path, "not written by this command")
    assert path.read_text() == "mask,seed\nA,0\n" and not (tmp_path / "out" / "Mask").exists()


@pytest.mark.usefixtures("quick")
def test_nothing_is_written_among_the_scans(make, scans):
    for folder in (scans / "Image", scans / "Image" / "out"):
        assert_refused(make(f"output_dir={folder}"), folder, "output_dir", "choose another")
    for name in SCANS:
        write(scans / "Mask" / f"{name.replace('_CVol_', '_CMask_')}.nii.gz", np.ones(SHAPE, np.uint8))
    refused = make("spheres=masks", f"output_dir={scans}")
    assert_refused(refused, f"output_dir={scans / 'Mask'} lies in {scans / 'Mask'}", "choose another")
    refused = make(f"lesion_masks={scans / 'Mask'}", f"output_dir={scans / 'Mask' / 'new'}")
    assert_refused(refused, f"lies in {scans / 'Mask'}", "choose another")
    assert len(list((scans / "Mask").iterdir())) == len(SCANS)
    assert sorted(path.name for path in (scans / "Image").iterdir()) == [f"{name}.nii.gz" for name in SCANS]


def test_a_mask_on_another_grid_is_noticed(make, scans, tmp_path):
    assert make()[0] == 0
    name = f"{SCANS[0]}_GenMask_1.nii.gz"
    write(tmp_path / "out" / "Mask" / name, np.ones(SHAPE, np.uint8), 2 * OBLIQUE)
    csv_file = tmp_path / "out" / "masks.csv"  # as of an earlier version, which kept no hashes
    csv_file.write_text(csv_file.read_text().replace("mask_sha256", "other"))
    assert_refused(make(), name, scans / "Image" / f"{SCANS[0]}.nii.gz", "overwrite=true")


def test_painting_needs_all_masks(make):
    assert_refused(make("paint=true", "shards=2", "shard=1"), "paint=true", "shard=1")
