"""The inference command of DiffMask: what it writes, and where; batches and other scans change nothing."""

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from made_masks import OBLIQUE, SCANS, SHAPE, assert_picture, lung_hu, masks, stored, table, write
from PIL import Image
from scipy import ndimage

import DiffMask.inference.inference as inference
import DiffMask.inference.masks as making
from LeFusion.viewer import view

GOLDEN = Path(os.environ.get("LEFUSION_GOLDEN", Path(__file__).parents[5] / "shared" / "golden"))


def test_what_is_written(make, scans, tmp_path, files):
    code, out, error = make("masks_per_scan=2", "weights=model", "seed=3", "smoothing=1.0")
    assert code == 0, error
    folder = tmp_path / "out"
    names = [f"{scan}_GenMask_{number}" for scan in SCANS for number in (1, 2)]
    assert sorted(files(folder)) == sorted(
        [f"Mask/{name}.nii.gz" for name in names]
        + ["masks.csv", "preview.png", "surfaces.png", "viewer.html"]
    )
    assert "2 scans: 4 masks to make, 0 kept" in out and "wrote 4 masks" in out
    assert "| diameter_mm " in out and "note:" not in out
    for name in names:
        source = nibabel.load(scans / "Image" / f"{name.split('_Gen')[0]}.nii.gz")
        mask = nibabel.load(folder / "Mask" / f"{name}.nii.gz")
        assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
        assert np.array_equal(mask.affine, source.affine)
        for field in ("sform_code", "qform_code", "pixdim", "descrip", "xyzt_units"):
            assert np.array_equal(mask.header[field], source.header[field]), field
        labels = np.asanyarray(mask.dataobj)
        assert set(np.unique(labels)) == {0, 1}
        assert ndimage.label(labels, np.ones((3, 3, 3)))[1] == 1
        assert not labels[:, :, :8].any()  # in the lung, as far as it is known
    rows = table(folder)
    assert [row["mask"] for row in rows] == names
    page = (folder / "viewer.html").read_bytes()
    (folder / "viewer.html").unlink()
    view.run(view.parser().parse_args([str(folder)]))  # from what masks.csv says
    assert (folder / "viewer.html").read_bytes() == page
    assert list(rows[0]) == [
        *("mask", "scan", "number", "draws"),
        *("seed", "model", "weights", "sampler", "num_steps", "smoothing"),
        *("spheres", "given_masks_from", "given_organ_masks"),
        *("given_lesion_masks", "given_diameter_mm", "given_border_mm", "given_inside_share"),
        *("given_vessel_share", "given_separate", "model_sha256", "inputs_sha256"),
        *("x_mm", "y_mm", "z_mm", "sphere_diameter_mm", "distance_to_border_mm", "inside_share"),
        *("network_voxel_mm", "voxels", "volume_ml", "diameter_mm", "longest_axial_diameter_mm"),
        *("sphere_share", "sphericity"),
        *("elongation", "flatness", "roughness", "spiculation", "components", "mask_sha256"),
        *("source", "layout", "unit"),
    ]
    for row in rows:
        assert (row["seed"], row["model"], row["weights"]) == ("3", "masks.safetensors", "model")
        assert (row["spheres"], row["sampler"], row["num_steps"]) == ("placed", "dpmpp", "2")
        assert (row["smoothing"], row["components"], row["sphere_diameter_mm"]) == ("1.0", "1", "6")
        labels = stored(folder / "Mask" / f"{row['mask']}.nii.gz")
        assert int(row["voxels"]) == labels.sum()
        voxel_mm3 = abs(np.linalg.det(OBLIQUE[:3, :3]))
        assert float(row["volume_ml"]) == pytest.approx(labels.sum() * voxel_mm3 / 1000, rel=0.03)
        assert float(row["diameter_mm"]) == pytest.approx(
            (6 / np.pi * labels.sum() * voxel_mm3) ** (1 / 3), rel=0.01
        )
    assert_picture(folder / "preview.png", 500, 600)  # 4 columns, 4 rows
    assert_picture(folder / "surfaces.png", 600, 150)  # 4 in a row


def test_only_so_many_masks_are_shown(make, tmp_path):
    def heights(*overrides):
        code, _, error = make(*overrides)
        assert code == 0, error
        for name in ("preview", "surfaces"):
            with Image.open(tmp_path / "out" / f"{name}.png") as picture:
                yield picture.height if name == "preview" else picture.width

    four = list(heights("masks_per_scan=2"))
    one = list(heights("masks_per_scan=2", "preview_masks=1"))
    assert four[0] > 3 * one[0] and four[1] > 3 * one[1]


@pytest.mark.usefixtures("spheres_are_masks", "quick")
@pytest.mark.parametrize("data_type, axis", [("lidc", 0), ("chest_ct", 2)])
def test_masks_lie_where_their_table_says_in_the_world(make, tmp_path, data_type, axis):
    """A network that draws spheres: from world coordinates to world coordinates."""
    affine = OBLIQUE if axis == 0 else OBLIQUE[:, [1, 2, 0, 3]]
    scan = write(tmp_path / "A_Vol_1.nii.gz", np.moveaxis(lung_hu(), 0, axis), affine)
    stored_voxels = np.array([[12.0, 20, 25], [13.25, 27.5, 31.75]])  # depth, row, column
    if axis == 2:
        stored_voxels = stored_voxels[:, [1, 2, 0]]
    world = nibabel.affines.apply_affine(affine, stored_voxels)
    spheres = tmp_path / "spheres.csv"
    spheres.write_text(
        "x_mm,y_mm,z_mm,diameter_mm\n" + "".join(f"{x},{y},{z},12\n" for x, y, z in world.tolist())
    )
    code, _, error = make(
        f"data_type={data_type}", f"dataset_root_dir={scan}", f"spheres={spheres}", "smoothing=null"
    )
    assert code == 0, error
    for number, (row, wanted) in enumerate(zip(table(tmp_path / "out"), world, strict=True), start=1):
        mask = nibabel.load(tmp_path / "out" / "Mask" / f"A_Vol_1_GenMask_{number}.nii.gz")
        voxels = np.argwhere(np.asanyarray(mask.dataobj))
        places = nibabel.affines.apply_affine(mask.affine, voxels)
        assert abs(places.mean(axis=0) - wanted).max() < 0.4
        assert np.linalg.norm(places - wanted, axis=1).max() < 6 + 1.4
        volume = len(voxels) * abs(np.linalg.det(mask.affine[:3, :3]))
        assert volume == pytest.approx(np.pi / 6 * 12**3, rel=0.2)
        assert [float(row[f"{a}_mm"]) for a in "xyz"] == pytest.approx(wanted.tolist(), abs=1e-3)
        assert float(row["network_voxel_mm"]) == 2  # 12 mm in 8 voxels, of which 2 stay free
        assert row["spheres"] == str(spheres) and row["number"] == str(number)


@pytest.mark.usefixtures("quick")
def test_a_mask_is_the_networks_answer_within_the_organ(make, scans, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "sample_masks", lambda n, s, spheres, *_: torch.ones_like(spheres))
    organ = np.zeros(SHAPE, np.uint8)
    organ[10:14, 14:26, 20:40] = 1
    for name in SCANS:
        write(tmp_path / "organs" / f"{name}.nii.gz", organ)
    spheres = tmp_path / "spheres.csv"
    centre = OBLIQUE @ (12, 20, 30, 1)
    row = ",".join(str(v) for v in centre[:3])
    spheres.write_text("case,x,y,z,diameter_mm\n" + "".join(f"{name},{row},6\n" for name in SCANS))
    code, _, error = make(f"organ_masks={tmp_path / 'organs'}", f"spheres={spheres}")
    assert code == 0, error
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    inside = np.ones(SHAPE, bool)
    for axis, centre in enumerate((12, 20, 30)):
        off = ((np.arange(SHAPE[axis]) - centre) * spacing[axis]).reshape(
            [-1 if i == axis else 1 for i in range(3)]
        )
        inside &= (off >= -4) & (off <= 3)  # 8 voxels, the fifth in the middle
    for name in SCANS:
        labels = stored(tmp_path / "out" / "Mask" / f"{name}_GenMask_1.nii.gz")
        assert np.array_equal(labels, inside & (organ > 0))


@pytest.mark.usefixtures("spheres_are_masks", "quick")
def test_spheres_come_from_the_scans_own_masks(make, scans, tmp_path):
    spacing = np.linalg.norm(OBLIQUE[:3, :3], axis=0)
    for number, name in enumerate(SCANS):
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[11:14, 18 + number : 25 + number, 24:33] = 1
        write(scans / "Mask" / f"{name.replace('CVol', 'CMask')}.nii.gz", lesion)
    assert make("spheres=masks")[0] == 0
    for number, row in enumerate(table(tmp_path / "out")):
        assert [float(row[f"{a}_mm"]) for a in "xyz"] == pytest.approx(
            (OBLIQUE @ (12, 21 + number, 28, 1))[:3].tolist(), abs=1e-3
        )
        diameter = 2 * np.linalg.norm(np.multiply((1, 3, 4), spacing))
        assert float(row["sphere_diameter_mm"]) == pytest.approx(diameter, rel=1e-3)


@pytest.mark.usefixtures("spheres_are_masks", "quick")
def test_the_spread_over_the_masks_is_printed(make, tmp_path):
    _, out, _ = make("masks_per_scan=3", "diameter_mm=[4,8]")
    voxels = [float(row["voxels"]) for row in table(tmp_path / "out")]
    cells = " | ".join(f"{q:.3g}" for q in np.quantile(voxels, (0.05, 0.5, 0.95)))
    out = " ".join(out.split())
    assert f"| voxels | {cells} |" in out and "| draws | 1 | 1 | 1 |" in out
    assert "| seed |" not in out and "| number |" not in out


@pytest.mark.usefixtures("quick")
def test_the_batch_size_and_the_other_scans_do_not_change_a_byte(make, scans, tmp_path, files):
    written = []
    for size in (1, 3):
        out = tmp_path / str(size) / "masks"  # whose name is the title of the page
        code, _, error = make("masks_per_scan=2", f"batch_size={size}", f"output_dir={out}")
        assert code == 0, error
        written.append(files(out))
    assert written[0] == written[1] and len(masks(written[0])) == 4
    alone = scans / "Image" / f"{SCANS[1]}.nii.gz"
    make("masks_per_scan=1", f"dataset_root_dir={alone}", f"output_dir={tmp_path / 'alone'}")
    name = f"Mask/{SCANS[1]}_GenMask_1.nii.gz"
    assert masks(files(tmp_path / "alone")) == {name: written[0][name]}


@pytest.mark.usefixtures("quick")
def test_a_released_file_runs_with_its_own_spheres(make, tmp_path, monkeypatch):
    path = GOLDEN / "diffmask.pt"
    if not path.is_file():
        pytest.skip(f"no {path} (set LEFUSION_GOLDEN)")
    seen, real = [], making.sample_masks

    def spy(network, schedule, spheres, addresses, sampler, steps, prediction):
        seen.append((spheres, schedule.num_steps, prediction))
        return real(network, schedule, spheres, addresses, sampler, steps, prediction)

    monkeypatch.setattr(making, "sample_masks", spy)
    code, _, error = make(
        f"model_path={path}", "diffusion_depth_size=8", "diffusion_img_size=16", "num_steps=3"
    )
    assert code == 0, error
    spheres, levels, prediction = seen[0]
    assert spheres.shape == (2, 1, 8, 16, 16) and (levels, prediction) == (300, "noise")
    assert set(spheres.unique().tolist()) == {1, 255}
    assert (spheres == 1).sum() == 2 * 123  # the ball of radius 3
    assert [row["model"] for row in table(tmp_path / "out")] == ["diffmask.pt"] * 2
    assert all(float(row["network_voxel_mm"]) == 1 for row in table(tmp_path / "out"))


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_the_command_as_it_is_typed(command_line, scans, save_mask_network, tmp_path):
    model = save_mask_network()
    code, out, error = command_line(
        inference.main,
        f"dataset_root_dir={scans}",
        f"output_dir={tmp_path / 'out'}",
        f"model_path={model}",
        "diameter_mm=6",
        "border_mm=[0,6]",
        "num_steps=2",
        "device=cpu",
    )
    assert code == 0 and "wrote 2 masks" in out, error
    assert len(table(tmp_path / "out")) == 2


@pytest.mark.usefixtures("quick")
def test_a_network_that_wants_ellipsoids_gets_those_of_its_training(
    make, save_mask_network, tmp_path, files, monkeypatch
):
    rows = [[3.0, 0.9, 0.5, 0.4], [30.0, 1.0, 1.0, 1.0]]
    model = save_mask_network("long.safetensors", guide="ellipsoid", ellipsoids=rows)
    shown, real = [], making.sample_masks

    def spy(network, schedule, spheres, *arguments):
        shown.extend(spheres[:, 0])
        return real(network, schedule, spheres, *arguments)

    monkeypatch.setattr(making, "sample_masks", spy)
    code, _, error = make(f"model_path={model}")
    assert code == 0, error
    assert all({-1.0, 1.0} <= set(guide.unique().tolist()) <= {-1.0, 0.0, 1.0} for guide in shown)
    assert any(bool((guide == 0).any()) for guide in shown)
    before = masks(files(tmp_path / "out"))
    assert make(f"model_path={model}", "overwrite=true", "batch_size=1")[0] == 0
    assert masks(files(tmp_path / "out")) == before
