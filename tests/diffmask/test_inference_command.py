"""The inference command of DiffMask: what it writes, that it goes on where it stopped, what it refuses."""

import csv
import os
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

import DiffMask.inference.inference as inference
import DiffMask.inference.masks as making
from DiffMask.inference.report import MaskTable
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import PROJECT_ROOT, plain, run_command
from LeFusion.viewer import view

GOLDEN = Path(os.environ.get("LEFUSION_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
HEART = "Case_DEMO-N03"  # the smallest
SHAPE = (24, 40, 44)
SCANS = ("N-1_CVol_1", "N-2_CVol_1")
# Turned and sheared, voxels of about 2 x 1.1 x 0.8 mm
OBLIQUE = np.array(
    [[0.1, 1.08, -0.1, -12.5], [-0.1, 0.12, 0.79, 31.0], [-2.0, 0.05, 0.1, 7.25], [0, 0, 0, 1]]
)


def lung_hu():
    """(D, H, W): a chest wall, and lung from column 10 on."""
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    hu[:, :, 10:] -= 890
    return hu.astype(np.int16)


def write(path, array, affine=OBLIQUE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(array, affine)
    image.header["descrip"] = b"a scan"
    nibabel.save(image, path)
    return path


@pytest.fixture
def scans(tmp_path):
    for name in SCANS:
        write(tmp_path / "Normal" / "Image" / f"{name}.nii.gz", lung_hu())
    return tmp_path / "Normal"


@pytest.fixture
def run(tmp_path, command):
    """-> run(*overrides): the command in this process, below "out"; (exit code, stdout, stderr)."""

    def call(*overrides):
        overrides = [str(override) for override in overrides]
        given = {override.split("=", 1)[0] for override in overrides}
        defaults = {"output_dir": tmp_path / "out", "device": "cpu"}
        overrides = [f"{key}={value}" for key, value in defaults.items() if key not in given] + overrides
        return command(
            lambda config: run_command(lambda: inference.run(*inference.read(plain(config)))),
            "diffmask_inference",
            *overrides,
        )

    return call


@pytest.fixture
def make(scans, save_mask_network, run):
    """-> make(*overrides): the same on the two scans, with spheres of 6 mm."""
    model = save_mask_network()

    def call(*overrides):
        defaults = {"model_path": model, "dataset_root_dir": scans, "num_steps": 2}
        given = {str(override).split("=", 1)[0] for override in overrides}
        if "spheres" not in given:
            defaults |= {"diameter_mm": 6, "border_mm": "[0,6]"}
        return run(*(f"{key}={value}" for key, value in defaults.items() if key not in given), *overrides)

    return call


@pytest.fixture
def quick(monkeypatch):
    """Without pictures, which take most of the time."""
    for name in ("save_preview", "save_surface_sheet"):
        monkeypatch.setattr(inference, name, lambda path, *_: path)


@pytest.fixture
def spheres_are_masks(monkeypatch):
    """A network that answers with the sphere it is shown, above 0; -> the addresses of its noise."""
    addresses = []

    def answer(network, schedule, spheres, asked, *settings):
        addresses.extend(asked)
        return spheres

    monkeypatch.setattr(making, "sample_masks", answer)
    return addresses


def empty_for(monkeypatch, is_empty):
    """A network that answers with nothing where is_empty(scan, number, attempt), else with the sphere."""

    def answer(network, schedule, spheres, asked, *settings):
        rows = [-torch.ones_like(s) if is_empty(*a[2:]) else s for s, a in zip(spheres, asked, strict=True)]
        return torch.stack(rows)

    monkeypatch.setattr(making, "sample_masks", answer)


def table(folder):
    with open(folder / "masks.csv", newline="") as file:
        return list(csv.DictReader(file))


def masks(content):
    """Of files by name: only the masks."""
    return {name: data for name, data in content.items() if name.endswith(".nii.gz")}


def stored(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, _, error = result
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
    assert error.rstrip().endswith(lines[0]), error
    for text in texts:
        assert str(text) in lines[0], lines[0]


def assert_picture(path, least_width, least_height):
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG" and least_width <= image.width < 3000
        assert least_height <= image.height < 3000
        assert np.asarray(image.convert("L")).std() > 5


# --- what is written ------------------------------------------------------------


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


# --- again, and on --------------------------------------------------------------


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
def test_finished_masks_are_kept_and_lost_ones_made_again(make, tmp_path, files, monkeypatch):
    make("masks_per_scan=2")
    before = files(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(making, "sample_masks", None)
        code, out, error = make("masks_per_scan=2")
    assert code == 0 and "0 masks to make, 4 kept" in out and "note:" not in out, error
    assert files(tmp_path / "out") == before
    lost, kept = (f"Mask/{SCANS[i]}_GenMask_2.nii.gz" for i in (0, 1))
    (tmp_path / "out" / lost).unlink()
    time = (tmp_path / "out" / kept).stat().st_mtime_ns
    code, out, _ = make("masks_per_scan=2")
    assert code == 0 and "1 masks to make, 3 kept" in out and files(tmp_path / "out") == before
    assert (tmp_path / "out" / kept).stat().st_mtime_ns == time
    (tmp_path / "out" / "masks.csv").unlink()
    code, out, _ = make("masks_per_scan=2")
    assert code == 0 and "4 masks to make" in out and files(tmp_path / "out") == before
    code, out, _ = make("masks_per_scan=3")
    after = files(tmp_path / "out")
    assert "2 masks to make, 4 kept" in out and len(masks(after)) == 6
    assert all(after[name] == data for name, data in masks(before).items())


@pytest.mark.usefixtures("quick")
def test_masks_of_an_edited_scan_are_stale(make, scans, tmp_path, files):
    make()
    before = files(tmp_path / "out")
    path = scans / "Image" / f"{SCANS[0]}.nii.gz"
    hu = lung_hu()
    hu[0, 0, 0] += 1
    write(path, hu)
    code, out, error = make()
    assert code == 0 and "stale: 1 masks" in out and f"made again: {SCANS[0]}_GenMask_1\n" in out, error
    assert "1 masks to make, 1 kept" in out and masks(files(tmp_path / "out")) == masks(before)
    write(path, hu[:-1])  # on another grid
    assert "1 masks to make, 1 kept" in make()[1]
    assert stored(tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz").shape == hu[:-1].shape
    write(path, lung_hu(), OBLIQUE + np.eye(4, k=3))  # elsewhere
    assert "1 masks to make, 1 kept" in make()[1]
    assert "0 masks to make, 2 kept" in make()[1]


@pytest.mark.usefixtures("quick")
def test_masks_of_other_weights_under_one_name_are_stale(make, save_mask_network, tmp_path):
    make()
    save_mask_network(step=4)
    code, out, error = make()
    assert code == 0 and "stale: 2 masks" in out and "2 masks to make, 0 kept" in out, error
    assert "0 masks to make, 2 kept" in make()[1]


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_masks_of_edited_spheres_and_organs_are_stale(make, scans, tmp_path):
    organ = np.ones(SHAPE, np.uint8)
    for name in SCANS:
        write(tmp_path / "organs" / f"{name}.nii.gz", organ)
    spheres = tmp_path / "spheres.csv"
    centres = [",".join(str(v) for v in (OBLIQUE @ (12, 20, 30 - n, 1))[:3]) for n in range(2)]

    def again(first):
        rows = [f"{name},{row},6\n" for name, row in zip(SCANS, (first, centres[0]), strict=True)]
        spheres.write_text("case,x,y,z,diameter_mm\n" + "".join(rows))
        code, out, error = make(f"spheres={spheres}", f"organ_masks={tmp_path / 'organs'}")
        assert code == 0, error
        return out

    assert "2 masks to make, 0 kept" in again(centres[0])
    assert "0 masks to make, 2 kept" in again(centres[0])
    assert f"made again: {SCANS[0]}_GenMask_1\n" in again(centres[1])
    organ[0, 0, 0] = 0
    write(tmp_path / "organs" / f"{SCANS[1]}.nii.gz", organ)
    assert f"made again: {SCANS[1]}_GenMask_1\n" in again(centres[1])


@pytest.mark.usefixtures("quick")
def test_overwrite_makes_masks_again(make, tmp_path, files):
    make()
    before = files(tmp_path / "out")
    (tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz").write_bytes(b"damaged")
    code, out, _ = make("overwrite=true")
    assert code == 0 and "2 masks to make, 0 kept" in out and files(tmp_path / "out") == before


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "weights=model",
        "mask_sampler=repaint",
        "num_steps=3",
        "smoothing=2",
        "diameter_mm=5",
        "border_mm=8",
    ],
)
def test_another_setting_gives_other_masks_and_is_noted(make, tmp_path, files, change):
    if change == "weights=model":
        make("weights=ema")
    else:
        make()
    before = masks(files(tmp_path / "out"))
    code, out, error = make(change)
    assert code == 0 and masks(files(tmp_path / "out")) == before, error
    assert "note: 2 of the kept masks were made with other settings" in out
    code, out, _ = make(change, "overwrite=true")
    after = masks(files(tmp_path / "out"))
    assert code == 0 and "note:" not in out and set(after) == set(before)
    assert all(after[name] != before[name] for name in before)


@pytest.mark.usefixtures("quick")
def test_an_interrupted_run_goes_on(make, tmp_path, files, monkeypatch):
    unbroken = tmp_path / "unbroken" / "out"
    make("masks_per_scan=2", f"output_dir={unbroken}")
    real, calls = making.sample_masks, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise UserError("the power went out")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(making, "sample_masks", interrupted)
        assert_refused(make("masks_per_scan=2", "batch_size=1"), "the power went out")
    partial, expected = files(tmp_path / "out"), files(unbroken)
    assert sorted(partial) == [
        *(f"Mask/{SCANS[0]}_GenMask_{n}.nii.gz" for n in (1, 2)),
        "masks.part-0-of-1.jsonl",
    ]
    assert all(expected[name] == data for name, data in masks(partial).items())
    code, out, error = make("masks_per_scan=2", "batch_size=1")
    assert code == 0 and "2 masks to make, 2 kept" in out, error
    assert files(tmp_path / "out") == expected


# --- empty masks and bad scans --------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_mask_that_is_always_empty_is_an_error_with_scan_and_seed(make, scans, tmp_path, monkeypatch):
    empty_for(monkeypatch, lambda *_: True)
    path = scans / "Image" / f"{SCANS[0]}.nii.gz"
    result = make("seed=7", "max_redraws=2", "masks_per_scan=2")
    assert_refused(result, path, "mask 1", "empty in 3 draws", "seed=7")
    assert not (tmp_path / "out").exists()
    assert_refused(make("skip_bad_cases=true", "max_redraws=0"), "no mask was made", path, "1 draws")


@pytest.mark.usefixtures("quick")
def test_an_empty_mask_is_drawn_again_with_other_noise(make, tmp_path, monkeypatch):
    asked = []

    def until_the_third(scan, number, attempt):
        asked.append((scan, number, attempt))
        return (scan, attempt) in ((SCANS[1], 0), (SCANS[1], 1))

    empty_for(monkeypatch, until_the_third)
    code, _, error = make()
    assert code == 0, error
    assert [row["draws"] for row in table(tmp_path / "out")] == ["1", "3"]
    assert asked == [(SCANS[0], 1, 0), *((SCANS[1], 1, attempt) for attempt in (0, 1, 2))]


@pytest.mark.usefixtures("quick")
def test_after_an_empty_mask_the_others_are_kept(make, tmp_path, files, monkeypatch):
    with monkeypatch.context() as patch:
        empty_for(patch, lambda scan, *_: scan == SCANS[1])
        assert_refused(make("max_redraws=1"), SCANS[1], "2 draws")
        partial = files(tmp_path / "out")
        assert sorted(partial) == [f"Mask/{SCANS[0]}_GenMask_1.nii.gz", "masks.part-0-of-1.jsonl"]
        code, out, error = make("max_redraws=1", "skip_bad_cases=true")
        assert code == 0, error
        (reason,) = [line for line in out.split("\n") if line.startswith("skipped: ")]
        assert SCANS[1] in reason and "seed=0" in reason
        assert masks(files(tmp_path / "out")) == masks(partial) and len(table(tmp_path / "out")) == 1
        assert "wrote 0 masks" in out and "1 kept, 1 skipped" in out
    empty_for(monkeypatch, lambda *_: False)
    code, out, _ = make()
    assert code == 0 and "1 masks to make, 1 kept" in out
    assert masks(partial).items() < masks(files(tmp_path / "out")).items()


@pytest.mark.usefixtures("quick")
def test_a_mask_whose_row_is_lost_and_that_comes_out_empty(make, tmp_path, monkeypatch):
    make()
    (tmp_path / "out" / "masks.csv").unlink()
    empty_for(monkeypatch, lambda scan, *_: scan == SCANS[1])
    code, out, error = make("skip_bad_cases=true")
    assert code == 0 and f"skipped: {tmp_path}" in out, error


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


# --- bad settings ---------------------------------------------------------------


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


def test_the_table_keeps_rows_and_knows_which_are_others(tmp_path):
    first = MaskTable(tmp_path / "masks.csv", {"seed": 0, "model": "a"})
    first.add(
        "B_GenMask_1", "B", 1, 2, {"voxels": 12, "angle": None, "diameter_mm": 1 / 3}, {"of": "x"}, "0b", {}
    )
    first.write()
    second = MaskTable(tmp_path / "masks.csv", {"seed": 1, "model": "a"})
    assert second.has("B_GenMask_1") and not second.has("A_GenMask_1")
    second.add("A_GenMask_1", "A", 1, 1, {"voxels": 3, "height": 0.5}, {}, "0a", {})
    assert second.has_of("B_GenMask_1", {"of": "x"}) and not second.has_of("B_GenMask_1", {"of": "y"})
    assert not second.has_of("A_GenMask_1", {"of": "x"})
    assert second.made_otherwise(["A_GenMask_1"]) == 0
    assert second.made_otherwise(["A_GenMask_1", "B_GenMask_1"]) == 1
    assert second.sha256("B_GenMask_1") == "0b"
    second.join()
    assert table(tmp_path) == [
        dict(mask="A_GenMask_1", scan="A", number="1", draws="1", seed="1", model="a", of="")
        | dict(voxels="3", angle="", diameter_mm="", height="0.5", mask_sha256="0a"),
        dict(mask="B_GenMask_1", scan="B", number="1", draws="2", seed="0", model="a", of="x")
        | dict(voxels="12", angle="", diameter_mm="0.333333", height="", mask_sha256="0b"),
    ]


# --- the released format --------------------------------------------------------


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


# --- hearts ---------------------------------------------------------------------


@pytest.fixture
def hearts(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / "Hearts" / kind).mkdir(parents=True)
        shutil.copy(DEMO / kind / f"{HEART}.nii.gz", tmp_path / "Hearts" / kind)
    return tmp_path / "Hearts"


@pytest.fixture
def infarcts(hearts, run):
    """-> infarcts(*overrides): the command on one demo heart; it needs no network."""

    def call(*overrides):
        return run("data_type=emidec", f"dataset_root_dir={hearts}", *overrides)

    return call


def test_hearts_get_infarcts(infarcts, hearts, tmp_path, files):
    code, out, error = infarcts("masks_per_scan=2", "no_reflow_share=0.2", "transmurality=0.8")
    assert code == 0 and "1 scans: 2 masks to make" in out, error
    folder = tmp_path / "out"
    names = [f"{HEART}_GenMask_{number}" for number in (1, 2)]
    assert sorted(files(folder)) == sorted(
        [f"Mask/{name}.nii.gz" for name in names]
        + ["masks.csv", "preview.png", "surfaces.png", "viewer.html"]
    )
    source = nibabel.load(hearts / "images" / f"{HEART}.nii.gz")
    labels = stored(hearts / "labels" / f"{HEART}.nii.gz")
    voxel_ml = abs(np.linalg.det(source.affine[:3, :3])) / 1000
    for name, row in zip(names, table(folder), strict=True):
        mask = nibabel.load(folder / "Mask" / f"{name}.nii.gz")
        made = np.asanyarray(mask.dataobj)
        assert mask.get_data_dtype() == np.uint8 and np.array_equal(mask.affine, source.affine)
        lesion = made >= 3
        assert set(np.unique(made)) == {0, 1, 2, 3, 4} and np.array_equal(made[~lesion], labels[~lesion])
        assert (labels[lesion] == 2).all() and ndimage.label(lesion, np.ones((3, 3, 3)))[1] == 1
        assert row["mask"] == name and row["seed"] == "0" and row["transmurality"] == "0.8"
        assert float(row["infarct_ml"]) == pytest.approx(lesion.sum() * voxel_ml, rel=1e-3)
        assert float(row["no_reflow_ml"]) == pytest.approx((made == 4).sum() * voxel_ml, rel=1e-3)
        share = (made == 4).sum() / lesion.sum()
        assert float(row["no_reflow_share"]) == pytest.approx(share, rel=1e-3) and share <= 0.21
        assert float(row["infarct_share_of_wall"]) == pytest.approx(
            lesion.sum() / (labels == 2).sum(), rel=1e-3
        )
        assert row["septal_angle_deg"] and -180 <= float(row["angle_deg"]) <= 180
    assert_picture(folder / "preview.png", 500, 300)
    assert_picture(folder / "surfaces.png", 300, 150)


@pytest.mark.usefixtures("quick")
def test_infarcts_are_kept_and_made_again(infarcts, tmp_path, files, make):
    infarcts()
    before = files(tmp_path / "out")
    code, out, _ = infarcts("masks_per_scan=2")
    assert code == 0 and "1 masks to make, 1 kept" in out
    assert masks(before).items() < masks(files(tmp_path / "out")).items()
    assert_refused(make(), tmp_path / "out" / "masks.csv", "move it away")  # lungs into the same folder
    (name,) = masks(before)
    code, out, _ = infarcts("seed=1")
    assert "note: 1 of the kept masks" in out and files(tmp_path / "out")[name] == before[name]
    infarcts("seed=1", "overwrite=true")
    assert files(tmp_path / "out")[name] != before[name]


@pytest.mark.usefixtures("quick")
def test_infarcts_of_an_edited_heart_are_stale(infarcts, hearts):
    infarcts()
    path = hearts / "labels" / f"{HEART}.nii.gz"
    image = nibabel.load(path)
    labels = np.asanyarray(image.dataobj).copy()
    labels[tuple(np.argwhere(labels == 1)[0])] = 2
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert f"made again: {HEART}_GenMask_1\n" in infarcts()[1]
    assert "0 masks to make, 1 kept" in infarcts()[1]


@pytest.mark.usefixtures("quick")
def test_another_kind_of_infarct_is_noted(infarcts):
    infarcts("transmurality=0.5")
    code, out, error = infarcts("transmurality=0.9")
    assert code == 0 and "note: 1 of the kept masks" in out, error


@pytest.mark.parametrize(
    "override, texts",
    [
        ("angle_deg=left", ["angle_deg", "left"]),
        ("heights=0.5", ["heights", "0.5"]),
        ("transmurality=[0.1,0.2,0.3]", ["transmurality"]),
        ("no_reflow_share=1", ["no_reflow_share"]),
    ],
)
def test_a_bad_setting_of_hearts_is_refused_in_one_line(infarcts, tmp_path, override, texts):
    assert_refused(infarcts(override), *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick")
def test_a_heart_with_lesions_is_refused(infarcts, hearts, tmp_path):
    path = hearts / "labels" / f"{HEART}.nii.gz"
    image = nibabel.load(path)
    labels = np.asanyarray(image.dataobj).copy()
    labels[labels == 2] = 3
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert_refused(infarcts(), path, "lesions already", "skip_bad_cases=true")
    assert_refused(infarcts("skip_bad_cases=true"), "no usable scan", path)


# --- painting -------------------------------------------------------------------


def painted(folder, kinds, names, label_name):
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.nii.gz")) == sorted(
        [f"Image/Image_{kind}/{name}.nii.gz" for kind in kinds for name in names]
        + [f"Mask/Mask_{kind}/{label_name(name)}.nii.gz" for kind in kinds for name in names]
    )
    assert (folder / "Image" / "manifest.csv").is_file() and (folder / "Image" / "preview.png").is_file()


def assert_background(folder, kind, source, mask, name, label_name):
    image = stored(folder / "Image" / f"Image_{kind}" / f"{name}.nii.gz")
    before, made = stored(source), stored(mask)
    lesion = np.isin(made, (1,) if made.max() == 1 else (3, 4))
    assert np.array_equal(image[~lesion], before[~lesion]) and image.dtype == before.dtype
    assert (image[lesion] != before[lesion]).mean() > 0.8
    assert np.array_equal(stored(folder / "Mask" / f"Mask_{kind}" / f"{label_name(name)}.nii.gz"), made)


def as_label(name):
    return name.replace("_CVol_", "_Mask_")


@pytest.mark.usefixtures("quick")
def test_a_chain_from_normal_scans_to_painted_ones(make, scans, save_network, tmp_path):
    painter = save_network("a painter, 'mine'.safetensors")
    code, out, error = make(
        "paint=true",
        "painting.types=2",
        "painting.num_steps=2",
        f'+painting.model_path="{painter}"',
        "+painting.diffusion_depth_size=8",
        "+painting.diffusion_img_size=16",
    )
    assert code == 0, error
    folder = tmp_path / "out"
    names = [f"{scan}_GenMask_1" for scan in SCANS]
    painted(folder / "Painted", (1, 2), names, as_label)
    for scan, name in zip(SCANS, names, strict=True):
        source, mask = scans / "Image" / f"{scan}.nii.gz", folder / "Mask" / f"{name}.nii.gz"
        for kind in (1, 2):
            assert_background(folder / "Painted", kind, source, mask, name, as_label)


@pytest.mark.usefixtures("quick")
def test_a_chain_for_hearts(infarcts, hearts, save_network, tmp_path):
    painter = save_network("h.safetensors", in_channels=2, data_type="emidec", window="minmax")
    code, out, error = infarcts(
        "half_angle_deg=30",
        "paint=true",
        "painting.types=1",
        "painting.num_steps=2",
        "painting.sampler=ddim",
        f"+painting.model_path={painter}",
        "+painting.diffusion_depth_size=8",
        "+painting.diffusion_img_size=48",
    )
    assert code == 0, error
    name = f"{HEART}_GenMask_1"
    painted(tmp_path / "out" / "Painted", (1,), [name], lambda name: name)
    source, mask = hearts / "images" / f"{HEART}.nii.gz", tmp_path / "out" / "Mask" / f"{name}.nii.gz"
    assert_background(tmp_path / "out" / "Painted", 1, source, mask, name, lambda name: name)


@pytest.fixture
def paint(make, scans, save_network, tmp_path):
    """-> paint(*overrides): one mask, painted in two steps; -> the result and the rows of the manifest."""
    painter = save_network("p.safetensors")

    def call(*overrides):
        defaults = {
            "dataset_root_dir": scans / "Image" / f"{SCANS[0]}.nii.gz",  # one scan
            "painting.types": 1,
            "painting.num_steps": 2,
            "+painting.model_path": painter,
            "diffusion_depth_size": 8,
            "diffusion_img_size": 16,
        }
        given = {str(override).split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        result = make("paint=true", *kept, *overrides)
        path = next(tmp_path.rglob("manifest.csv"), None)
        if path is None:
            return result, []
        with open(path, newline="") as file:
            return result, list(csv.DictReader(file))

    return call


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_painting_gets_the_settings_of_both_commands(paint, tmp_path):
    odd = tmp_path / "a folder, {odd}=x"
    result, rows = paint(
        "data_type=chest_ct",
        "layout.orientation=null",
        "layout.depth_axis=0",
        "seed=3",
        f'output_dir="{odd}"',
        "masks_per_scan=2",
        "painting.num_steps=null",
        "+painting.textures=[[0,0,0,0,0,0,0,0,0,0,1,1,1,1,0,0]]",
        "+painting.schedule_jump_params.jump_n_sample=3",
    )
    assert result[0] == 0, result[2]
    names = [f"{SCANS[0]}_GenMask_{number}" for number in (1, 2)]
    painted(odd / "Painted", (1,), names, lambda name: name)
    assert {(row["seed"], row["jump_n_sample"], row["num_steps"]) for row in rows} == {("3", "3", "6")}


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_what_both_commands_have_reaches_the_painting(composed, tmp_path):
    changed = ["window=[-160,240]", "unit=HA", "spacing_mm=[2,1,1]", "histogram_bins=32", "cond_dim=32"]
    changed += [
        "seed=5",
        "device=cpu",
        "overwrite=true",
        "batch_size=3",
        "compile=true",
        "skip_bad_cases=true",
    ]
    changed += ["textures=mine.json", "layout.lesion_labels=[2]", "default_paths.weights=w.pt", "num_steps=7"]
    config = composed(
        "diffmask_inference", *changed, "weights=model", "model_path=m.pt", "dataset_root_dir=s"
    )
    settings, _, given = inference.read(config | {"paint": True, "output_dir": str(tmp_path / "out")})
    for key in type(given).model_fields.keys() & config.keys() - inference.OF_MASKS - {"dataset_root_dir"}:
        assert getattr(given, key) == getattr(settings, key), key
    assert (given.weights, given.num_steps, given.types) == ("ema", 10, 3)
    assert given.model_path == "w.pt"  # of the data type, as this run states it
    assert given.mask_dir == str(tmp_path / "out" / "Mask")


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_windows_textures_and_bins_reach_the_painted_images(paint, save_network, tmp_path):
    """The four settings that were once accepted and dropped."""
    fine = save_network("fine.safetensors", bins=32, window=[-160, 240])
    counts = [0] * 20 + [1, 3] + [0] * 10
    result, (row,) = paint(
        "window=[-160,240]",
        "histogram_bins=32",
        "cond_dim=32",
        f"textures=[{counts}]",
        f"+painting.model_path={fine}",
        "+painting.histogram_perturbation=0",
    )
    assert result[0] == 0, result[2]
    asked = [float(share) for share in row["requested_histogram"].split()]
    assert asked == pytest.approx([0] * 20 + [0.25, 0.75] + [0] * 10) and row["textures"] == "type 1"
    image = stored(tmp_path / "out" / "Painted" / "Image" / "Image_1" / f"{SCANS[0]}_GenMask_1.nii.gz")
    made = stored(tmp_path / "out" / "Mask" / f"{SCANS[0]}_GenMask_1.nii.gz") > 0
    assert -160 <= image[made].min() and image[made].max() <= 240


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize("margin", [2, 0])
def test_edit_masks_of_made_lesions(paint, scans, save_network, tmp_path, margin):
    network = save_network("rim.safetensors", edit_margin_mm=2)
    result, (row,) = paint(
        f"+painting.model_path={network}",
        "+painting.save_edit_mask=true",
        *(["+painting.edit_margin_mm=0"] if margin == 0 else []),
    )
    assert result[0] == 0, result[2]
    image, label = stored(tmp_path / "out" / row["image"]), stored(tmp_path / "out" / row["label"])
    edit = stored(next((tmp_path / "out" / "Painted" / "Image" / "Edit_1").glob("*.nii.gz")))
    source = stored(scans / "Image" / f"{SCANS[0]}.nii.gz")
    assert np.array_equal(image[edit == 0], source[edit == 0])
    rim = (edit == 1) & (label == 0)
    assert rim.any() == (image != source)[label == 0].any() == (margin > 0)
    assert float(row["edit_margin_mm"]) == margin


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize(
    "override, texts",
    [
        ("window=[-160,240]", ["window"]),
        ("textures=mine.json", ["mine.json"]),
        ("histogram_bins=32", ["histogram_bins", "32"]),
        ("cond_dim=32", ["cond_dim", "32"]),
        ("+painting.edit_margin_mm=2", ["edit_margin_mm=2 must be 0"]),
    ],
)
def test_what_does_not_fit_the_painter_is_refused(paint, override, texts):
    assert_refused(paint(override)[0], *texts)


@pytest.fixture
def typed(tmp_path):
    """-> typed(*types): a table of two spheres with these textures."""

    def write_table(*types):
        rows = zip((20, 34), types, strict=True)
        rows = [[*(OBLIQUE @ (12, 20, column, 1))[:3].tolist(), 6, kind] for column, kind in rows]
        path = tmp_path / "sites.csv"
        path.write_text("x,y,z,diameter,type\n" + "".join(",".join(map(str, row)) + "\n" for row in rows))
        return f"spheres={path}"

    return write_table


@pytest.mark.usefixtures("quick", "spheres_are_masks")
@pytest.mark.parametrize("condition", ["textures", "mixture"])
def test_each_site_is_painted_with_its_type(paint, typed, tmp_path, condition):
    result, rows = paint(typed(3, "type 2"), "painting.types=3", f"+painting.condition={condition}")
    assert result[0] == 0, result[2]
    names = [f"{SCANS[0]}_GenMask_{number}" for number in (1, 2)]
    assert [(row["case"], row["type"], row["texture"]) for row in rows] == [
        (names[0], "1", "type 3"),
        (names[1], "1", "type 2"),
    ]
    painted(tmp_path / "out" / "Painted", (1,), names, as_label)
    assert [row["type"] for row in table(tmp_path / "out")] == ["3", "type 2"]
    result, rows = paint(typed(3, 1), f"+painting.condition={condition}")
    assert "stale: 1 masks" in result[1] and [row["texture"] for row in rows] == ["type 3", "type 1"]


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_types_are_kept_for_later_without_painting(make, scans, typed, tmp_path):
    code, out, error = make(typed("a", 7), f"dataset_root_dir={scans / 'Image' / SCANS[0]}.nii.gz")
    assert code == 0 and "| type " not in out, error
    assert [row["type"] for row in table(tmp_path / "out")] == ["a", "7"]


@pytest.mark.parametrize(
    "types, override, texts",
    [
        ((1, "hard"), "seed=1", [f"{SCANS[0]}_GenMask_2", "'hard'", "1 to 3", "'type 1'"]),
        ((1, 4), "seed=1", [f"{SCANS[0]}_GenMask_2", "4", "1 to 3"]),
        ((1, 2), "painting.types=2", ["painting.types=2", "sites.csv", "leave it out"]),
        ((1, 2), "+painting.condition=own", ["condition=own", "textures_of"]),
    ],
)
def test_types_that_cannot_be_are_refused_before_any_mask(paint, typed, tmp_path, types, override, texts):
    given = ["painting.types=3"] * ("painting.types" not in override)
    assert_refused(paint(typed(*types), override, *given)[0], *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "override, texts",
    [
        ("+painting.stepz=3", ["painting.stepz", "no such key"]),
        ("+painting.schedule_jump_params.jump=3", ["painting.schedule_jump_params.jump"]),
        ("+painting.data_type=emidec", ["painting.data_type", "leave it out"]),
        ("painting.sampler=euler", ["painting.sampler=euler"]),
    ],
)
def test_a_misspelt_setting_of_painting_is_one_line_before_any_mask(paint, tmp_path, override, texts):
    assert_refused(paint(override)[0], *texts)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("quick", "spheres_are_masks")
def test_what_painting_refuses_leaves_the_masks(make, tmp_path, files):
    painting_refused = make("paint=true", "+painting.model_path=nowhere.safetensors")
    assert_refused(painting_refused, tmp_path / "out" / "Mask", "painting failed", "nowhere.safetensors")
    assert len(masks(files(tmp_path / "out"))) == 2


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


@pytest.mark.usefixtures("quick")
def test_masks_of_another_run_are_not_painted(make, tmp_path, monkeypatch):
    painted = []
    monkeypatch.setattr(inference, "paint", lambda *arguments: painted.append(arguments))
    assert make("masks_per_scan=2")[0] == 0
    result = make("masks_per_scan=1", "paint=true")
    assert_refused(result, tmp_path / "out" / "Mask", "_GenMask_2", "move it away")
    assert not painted and make("masks_per_scan=2", "paint=true")[0] == 0 and len(painted) == 1


def test_a_mask_on_another_grid_is_noticed(make, scans, tmp_path):
    assert make()[0] == 0
    name = f"{SCANS[0]}_GenMask_1.nii.gz"
    write(tmp_path / "out" / "Mask" / name, np.ones(SHAPE, np.uint8), 2 * OBLIQUE)
    csv_file = tmp_path / "out" / "masks.csv"  # as of an earlier version, which kept no hashes
    csv_file.write_text(csv_file.read_text().replace("mask_sha256", "other"))
    assert_refused(make(), name, scans / "Image" / f"{SCANS[0]}.nii.gz", "overwrite=true")


# --- several processes ----------------------------------------------------------


def test_jobs_of_an_array_make_what_one_makes(make, tmp_path, files):
    make("masks_per_scan=2")
    one = files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "one")
    for job in (1, 0):
        code, out, error = make("masks_per_scan=2", "shards=2", f"shard={job}")
        assert code == 0 and "joins the tables" in out, error
    assert not (tmp_path / "out" / "masks.csv").exists()
    code, out, error = make("masks_per_scan=2")
    assert code == 0 and f"0 masks to make, {2 * len(SCANS)} kept" in out, error
    assert files(tmp_path / "out") == one


def test_painting_needs_all_masks(make):
    assert_refused(make("paint=true", "shards=2", "shard=1"), "paint=true", "shard=1")


@pytest.mark.usefixtures("quick")
def test_memory_that_runs_out_changes_no_mask(make, tmp_path, files, monkeypatch):
    make("masks_per_scan=2")
    one = files(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "one")
    sizes, real = [], making.sample_masks

    def full(network, schedule, spheres, *rest):
        sizes.append(len(spheres))
        if len(spheres) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(network, schedule, spheres, *rest)

    monkeypatch.setattr(making, "sample_masks", full)
    code, out, error = make("masks_per_scan=2", "batch_size=2")
    assert code == 0 and "out of memory with 2 samples at once; going on with 1" in out, error
    assert sizes[:2] == [2, 1] and set(sizes[1:]) == {1}
    assert files(tmp_path / "out") == one
