"""Edit masks through the command: what may change around a label, what is written, and what is refused."""

import csv

import nibabel
import numpy as np
import pytest
import scipy.ndimage

import LeFusion.inference.inference as inference

RIM = 2.0  # mm, of the network's training
SPACING = np.array([1.0, 0.8, 2.5])  # of depth, rows and columns as stored
# Near each other, at a corner of the volume, as large as the network's box, and alone
LESIONS = (
    (slice(0, 3), slice(0, 4), slice(0, 5)),
    (slice(5, 8), slice(1, 5), slice(3, 8)),
    (slice(10, 18), slice(20, 36), slice(8, 24)),
    (slice(12, 14), slice(40, 43), slice(28, 31)),
)


@pytest.fixture
def scan(tmp_path):
    """(image, labels) of the scan in tmp_path; the image also has values outside the window."""
    image = np.random.default_rng(0).integers(-1200, 1500, (20, 48, 40)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    for place in LESIONS:
        labels[place] = 1
    for folder, name, array in (("Image", "a_Vol_1", image), ("Mask", "a_Mask_1", labels)):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / f"{name}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(array, np.diag([*SPACING, 1])), path)
    return image, labels


@pytest.fixture
def paint(save_network, tmp_path, command):
    """-> paint(*overrides, out="out"): the result, and the manifest's row where there is one."""
    network = save_network(edit_margin_mm=RIM)

    def call(*overrides, out="out", model=network):
        result = command(
            inference.main,
            "inference",
            f"model_path={model}",
            f"dataset_root_dir={tmp_path}",
            f"target_img_path={tmp_path / out}",
            f"target_label_path={tmp_path / out}",
            "diffusion_depth_size=8",
            "diffusion_img_size=16",
            "types=1",
            "num_steps=2",
            "device=cpu",
            "preview_cases=1",
            *overrides,
        )
        path = tmp_path / out / "manifest.csv"
        if not path.exists():
            return result, None
        with open(path, newline="") as file:
            return result, next(csv.DictReader(file))

    return call


def stored(folder, kind):
    return np.asanyarray(nibabel.load(next((folder / kind).glob("*.nii.gz"))).dataobj)


def rim_of(labels, margin_mm=RIM):
    return (scipy.ndimage.distance_transform_edt(labels == 0, sampling=SPACING) <= margin_mm + 1e-6) & (
        labels == 0
    )


@pytest.mark.parametrize("grid", [[], ["spacing_mm=[1.3,1,3]"]])
@pytest.mark.parametrize("region", ["whole", "lesion"])
def test_voxels_change_in_the_label_and_its_rim_only(paint, scan, tmp_path, region, grid):
    image, labels = scan
    (code, _, error), row = paint("save_edit_mask=true", f"region={region}", *grid)
    assert code == 0, error
    painted, edit, written = (stored(tmp_path / "out", f"{kind}_1") for kind in ("Image", "Edit", "Mask"))
    rim = rim_of(labels)
    assert np.array_equal(written, labels)
    assert edit.dtype == np.uint8 and np.array_equal(edit, (rim | (labels == 1)).astype(np.uint8))
    assert np.array_equal(painted[edit == 0], image[edit == 0])
    changed = painted != image
    alone = np.zeros_like(rim)  # the rims of other lesions may end at the network's box
    alone[9:17, 37:46, 26:33] = True
    assert changed[rim & alone].mean() > 0.5 and changed[labels == 1].mean() > 0.8
    largest = np.abs(painted.astype(float) - image)[rim].max()
    assert float(row["max_abs_difference_rim"]) == pytest.approx(largest, rel=1e-4) and largest > 0
    assert (float(row["max_abs_difference_outside"]), float(row["edit_margin_mm"])) == (0, RIM)
    # Voxels that are still what they were are so bit for bit, also beyond the window
    new = painted[changed & rim]
    assert new.min() >= -1000 and new.max() <= 400


def test_a_rim_beyond_the_network_s_box_stays(paint, scan, tmp_path):
    image, labels = scan
    assert paint("region=whole")[0][0] == 0
    large = np.zeros_like(labels)
    large[LESIONS[2]] = 1  # fills its box
    rim = rim_of(large)
    assert rim.any()
    assert np.array_equal(stored(tmp_path / "out", "Image_1")[rim], image[rim])


def test_a_margin_of_0_changes_nothing_outside_the_label(paint, scan, tmp_path):
    image, labels = scan
    (code, _, error), row = paint("edit_margin_mm=0", "save_edit_mask=true")
    assert code == 0, error
    assert np.array_equal(stored(tmp_path / "out", "Image_1")[labels == 0], image[labels == 0])
    assert np.array_equal(stored(tmp_path / "out", "Edit_1"), labels)
    assert float(row["max_abs_difference_rim"]) == float(row["max_abs_difference_outside"]) == 0
    assert float(row["edit_margin_mm"]) == 0


@pytest.mark.parametrize("trained, margin", [(RIM, 1.5), (None, 2)])
def test_a_margin_that_the_network_does_not_know_is_refused(paint, scan, save_network, trained, margin):
    model = save_network("n.safetensors", **({} if trained is None else {"edit_margin_mm": trained}))
    (code, _, error), _ = paint(f"edit_margin_mm={margin}", model=model)
    assert code == 1 and error.count("error: ") == 1 and "Traceback" not in error
    assert f"edit_margin_mm={margin} must be 0" in error and str(model) in error


def test_without_a_rim_in_training_none_is_painted(paint, scan, tmp_path, save_network):
    image, labels = scan
    (code, _, error), row = paint(model=save_network("n.safetensors"))
    assert code == 0, error
    assert np.array_equal(stored(tmp_path / "out", "Image_1")[labels == 0], image[labels == 0])
    assert float(row["edit_margin_mm"]) == 0


def test_edit_masks_are_made_where_they_are_missing_and_belong_to_their_image(paint, scan, tmp_path, files):
    edit = tmp_path / "out" / "Edit_1" / "a_Mask_1.nii.gz"
    assert paint()[0][0] == 0 and not edit.exists()
    image = (tmp_path / "out" / "Image_1" / "a_Vol_1.nii.gz").read_bytes()
    assert "1 to paint" in paint("save_edit_mask=true")[0][1] and edit.exists()
    assert (tmp_path / "out" / "Image_1" / "a_Vol_1.nii.gz").read_bytes() == image
    assert "0 to paint" in paint("save_edit_mask=true")[0][1]
    assert "1 to paint" in paint("edit_margin_mm=0")[0][1]
    assert not edit.exists()  # the one that was there is not of this image


def test_a_lost_manifest_tells_the_rim_of_what_is_kept(paint, scan, tmp_path):
    _, row = paint()
    (tmp_path / "out" / "manifest.csv").unlink()
    (code, out, _), again = paint()
    assert code == 0 and "0 to paint" in out
    assert again["max_abs_difference_rim"] == row["max_abs_difference_rim"]
    assert float(again["max_abs_difference_outside"]) == 0


def test_a_mask_is_never_taken_for_an_edit_mask(paint, scan, tmp_path):
    source = tmp_path / "Mask" / "a_Mask_1.nii.gz"
    before = source.read_bytes()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "Edit_1").symlink_to(tmp_path / "Mask", target_is_directory=True)
    (code, _, error), _ = paint()
    assert code == 1 and "is a source file; choose another target_img_path" in error
    assert source.read_bytes() == before


def test_batches_and_their_order_change_no_voxel_of_a_rim(paint, scan, tmp_path):
    images = []
    for out, size in (("a", 1), ("b", 3)):
        (code, _, error), _ = paint(f"batch_size={size}", "region=lesion", out=out)
        assert code == 0, error
        images.append(stored(tmp_path / out, "Image_1"))
    assert np.array_equal(*images)


BLUR = 1.0  # mm, of soft_edge_mm


def test_a_soft_edge_changes_what_lies_within_twice_its_blur(paint, scan, tmp_path, save_network):
    image, labels = scan
    model = save_network("n.safetensors")
    assert paint(model=model, out="hard")[0][0] == 0
    (code, _, error), row = paint(f"soft_edge_mm={BLUR}", "save_edit_mask=true", model=model)
    assert code == 0, error
    painted, edit, written = (stored(tmp_path / "out", f"{kind}_1") for kind in ("Image", "Edit", "Mask"))
    rim = rim_of(labels, 2 * BLUR)
    assert np.array_equal(written, labels) and np.array_equal(edit, (rim | (labels == 1)).astype(np.uint8))
    assert np.array_equal(painted[edit == 0], image[edit == 0])
    alone = np.zeros_like(rim)
    alone[10:16, 38:45, 27:32] = True
    assert (painted != image)[rim & alone].mean() > 0.3  # the darkest quarter stays, and what is clipped
    assert not np.array_equal(painted[labels == 1], stored(tmp_path / "hard", "Image_1")[labels == 1])
    assert float(row["soft_edge_mm"]) == BLUR and float(row["max_abs_difference_rim"]) > 0
    assert (float(row["max_abs_difference_outside"]), float(row["edit_margin_mm"])) == (0, 0)


def test_weights_may_ask_for_a_soft_edge_and_a_margin_of_0_for_none(paint, scan, tmp_path, save_network):
    image, labels = scan
    model = save_network("n.safetensors", soft_edge_mm=BLUR)
    (code, _, error), row = paint(model=model)
    assert code == 0, error
    assert float(row["soft_edge_mm"]) == BLUR and float(row["max_abs_difference_rim"]) > 0
    for strict in ("edit_margin_mm=0", "soft_edge_mm=0"):
        (code, _, error), row = paint(strict, model=model)
        assert code == 0, error
        assert np.array_equal(stored(tmp_path / "out", "Image_1")[labels == 0], image[labels == 0])
        assert float(row["soft_edge_mm"]) == float(row["max_abs_difference_rim"]) == 0


@pytest.mark.parametrize("trained, given", [(RIM, []), (None, ["edit_margin_mm=0"])])
def test_a_soft_edge_and_a_painted_rim_or_none_exclude_each_other(paint, scan, save_network, trained, given):
    model = save_network("n.safetensors", **({} if trained is None else {"edit_margin_mm": trained}))
    (code, _, error), _ = paint("soft_edge_mm=1", *given, model=model)
    assert code == 1 and error.count("error: ") == 1 and "soft_edge_mm=1" in error and str(model) in error
