"""Hearts through the command: their own lesions repainted (P'), others' painted into normal ones (N')."""

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest
import scipy.ndimage
import torch

import LeFusion.inference.inference as inference
from LeFusion.textures.histograms import lesion_histogram
from LeFusion.textures.realistic import read_lesion_table

# Turned and sheared, so that an exchange of axes shows.
AFFINE = np.array([[1.4, 0.2, 0.1, -12], [-0.2, 1.4, 0.3, 31], [0.0, -0.1, 8.0, 7], [0, 0, 0, 1]])
SHAPE = (40, 46)  # rows and columns; the heart lies off their middle
NORMAL, SICK = ("Case_N001", "Case_N002", "Case_N003"), ("Case_P001", "Case_P002", "Case_P003", "Case_P004")
TEST_CASE = "Case_P004"
REALISTIC = Path(__file__).resolve().parents[2] / "configs" / "lesion_textures" / "emidec.json"
# A bin for each class: infarct in bin 10, no-reflow in bin 3
TEXTURE = "textures=[[0,0,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0]]"


def heart(slices, centre, septum, lesion=None, no_reflow=False, tissue=120, seed=0):
    """Image and labels (H, W, D) of a ring of wall around a cavity, apex first, with a right ventricle.

    septum, lesion: angles to the middle of the septum and of an arc of infarct, in radians; None: no infarct.
    tissue: the intensity of healthy myocardium; blood is 300.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    radius, angle = np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])

    def within(middle, width):
        return abs(np.angle(np.exp(1j * (angle - middle)))) < width

    image = np.full((*SHAPE, slices), 40.0)
    labels = np.zeros((*SHAPE, slices), np.uint8)
    for z in range(slices):
        outer = 8 + 2.5 * (z + 1) / slices
        inner = 0.55 * outer
        labels[..., z][radius < outer] = 2
        labels[..., z][radius < inner] = 1
        image[..., z][within(septum, 0.8) & (radius < outer + 6)] = 300
        image[..., z][labels[..., z] == 2] = tissue
        image[..., z][labels[..., z] == 1] = 300
        if lesion is not None and 0 < z < slices - 1:
            arc = (labels[..., z] == 2) & within(lesion, 0.9)
            labels[..., z][arc] = 3
            core = arc & within(lesion, 0.3) & (radius < inner + 3)
            labels[..., z][core if no_reflow else arc & False] = 4
    image[labels == 3], image[labels == 4] = 260, 60
    image = (image + rng.normal(0, 8, image.shape)).clip(0, 400)
    return image.astype(np.int16), labels


def save(folder, name, image, labels):
    for kind, array in (("images", image), ("labels", labels)):
        path = folder / kind / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def hearts(tmp_path):
    """Normal/ with three hearts, Pathological/ with four, the last one in its test.txt."""
    root = tmp_path / "EMIDEC"
    for number, name in enumerate(NORMAL):
        options = {"centre": (15 + number, 28), "septum": -2.6 + number, "tissue": 120 + 40 * number}
        save(root / "Normal", name, *heart(4 + number, seed=number, **options))
    for number, name in enumerate(SICK):
        options = {"centre": (22, 17 + number), "septum": 2.0 - number, "lesion": 0.9 * number}
        save(root / "Pathological", name, *heart(5, no_reflow=number < 2, seed=9 + number, **options))
    (root / "Pathological" / "test.txt").write_text(f"{TEST_CASE}\n")
    return root


@pytest.fixture
def paint(hearts, save_network, tmp_path, command):
    """-> paint("Normal" or "Pathological", *overrides, out="out"): (exit code, stdout, stderr)."""
    model = save_network("tiny_heart.safetensors", in_channels=2, data_type="emidec", window="minmax")

    def call(cases, *overrides, out="out"):
        defaults = {
            "data_type": "emidec",
            "model_path": model,
            "dataset_root_dir": hearts / cases / "images",
            "target_img_path": tmp_path / out / "Image",
            "target_label_path": tmp_path / out / "Mask",
            "donors_test_txt": hearts / "Pathological" / "test.txt",
            "sampler": "ddim",
            "num_steps": 2,
            "diffusion_depth_size": 6,
            "diffusion_img_size": 24,
            "device": "cpu",
            "preview_cases": 1,
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(inference.main, "inference", *kept, *overrides)

    return call


@pytest.fixture
def donors(hearts):
    return f"lesions_from={hearts / 'Pathological'}"


def manifest_of(folder):
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def stored(path):
    return np.asanyarray(nibabel.load(path).dataobj.get_unscaled())


def source(hearts, name):
    """Image and labels (H, W, D) as stored."""
    folder = hearts / ("Normal" if "_N" in name else "Pathological")
    return [stored(folder / kind / f"{name}.nii.gz") for kind in ("images", "labels")]


def shares_of_range(image):
    return (image.astype(float) - image.min()) / (float(image.max()) - float(image.min()))


def network_view(image, labels):
    """(1, H, W, D) in [-1, 1] and (2, H, W, D) bool: axes do not matter to histograms."""
    x = torch.from_numpy(shares_of_range(image) * 2 - 1).float()[None]
    return x, torch.from_numpy(np.stack([labels == 3, labels == 4]))


def requested(row):
    return torch.tensor([float(share) for share in row["requested_histogram"].split()])


def assert_painted(hearts, out, name, kind):
    """What holds for every output; -> its labels as stored."""
    image, labels = source(hearts, name)
    written = nibabel.load(out / "Image" / f"Image_{kind}" / f"{name}.nii.gz")
    mask = nibabel.load(out / "Mask" / f"Mask_{kind}" / f"{name}.nii.gz")
    painted, now = stored(written.get_filename()), stored(mask.get_filename())
    first = out / "Mask" / "Mask_1" / f"{name}.nii.gz"
    assert first.read_bytes() == (out / "Mask" / f"Mask_{kind}" / f"{name}.nii.gz").read_bytes()
    assert np.array_equal(written.affine, mask.affine) and np.allclose(mask.affine, AFFINE)
    assert painted.dtype == image.dtype and painted.shape == now.shape == image.shape
    lesion = now >= 3
    assert lesion.any() and np.array_equal(painted[~lesion], image[~lesion])
    assert (painted[lesion] != image[lesion]).mean() > 0.8
    assert painted[lesion].min() >= image.min() and painted[lesion].max() <= image.max()
    assert np.array_equal(now == 1, labels == 1) and np.array_equal(now >= 2, labels >= 2)
    return now


def assert_measured(hearts, out, row):
    """Means and deviations of a row against the files, in shares of the source's range."""
    image = source(hearts, row["case"])[0]
    low, span = float(image.min()), float(image.max()) - float(image.min())
    painted, labels = stored(row["image"]), stored(row["label"])
    assert row["unit"] == "" and float(row["max_abs_difference_outside"]) == 0
    for suffix, where in (("", labels >= 3), ("_3", labels == 3), ("_4", labels == 4)):
        for of, values in (("lesion", painted), ("source", image)):
            inside = (values[where].astype(float) - low) / span
            cells = row[f"{of}_mean{suffix}"], row[f"{of}_sd{suffix}"]
            if inside.size:
                assert [float(cell) for cell in cells] == pytest.approx(
                    [inside.mean(), inside.std()], abs=1e-4
                )
            else:
                assert cells == ("", "")


def test_own_lesions_are_repainted(paint, hearts, tmp_path):
    code, text, error = paint("Pathological", "condition=own", "types=2")
    assert code == 0, error
    assert "lesion mean, label 4" in text and "shares of the range" in text
    rows = manifest_of(tmp_path / "out")
    assert [(row["case"], row["type"]) for row in rows] == [(name, kind) for name in SICK for kind in "12"]
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        image, labels = source(hearts, row["case"])
        assert np.array_equal(now, labels)
        assert (row["donor"], row["texture"], row["lesions_from"]) == ("", "own", "")
        assert torch.allclose(requested(row), lesion_histogram(*network_view(image, labels)), atol=1e-4)
        assert_measured(hearts, tmp_path / "out", row)
    absent = [row for row in rows if row["lesion_mean_4"] == ""]
    assert {row["case"] for row in absent} == set(SICK[2:])
    assert all(not bool(requested(row)[16:].any()) for row in absent)


def tissue(image, labels):
    """(level, unit) of LeFusion.hearts.tissue, in shares of the range."""
    values = shares_of_range(image)
    far = [scipy.ndimage.distance_transform_edt(labels[..., z] < 3) for z in range(labels.shape[2])]
    lesion = np.array([(labels[..., z] >= 3).any() for z in range(labels.shape[2])])
    remote = (labels == 2) & ((np.stack(far, axis=-1) > 3.5) | ~lesion)
    wall = [scipy.ndimage.distance_transform_edt(labels[..., z] < 2) for z in range(labels.shape[2])]
    blood = (labels == 1) & (np.stack(wall, axis=-1) > 1.5)
    level = np.median(values[remote])
    return level, np.sqrt((np.median(values[blood]) - level) * values[remote].std())


def test_lesions_of_others_keep_their_looks_in_normal_hearts(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "condition=own", "types=1")
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert [row["case"] for row in rows] == list(NORMAL)
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert (now == 3).any() and row["donor"] in SICK and row["donor"] != TEST_CASE
        assert_measured(hearts, tmp_path / "out", row)
        image, _ = source(hearts, row["case"])
        donor_image, donor_labels = source(hearts, row["donor"])
        ours, theirs = tissue(image, now), tissue(donor_image, donor_labels)
        middles = (np.arange(16) + 0.5) / 16
        for label, shares in zip((3, 4), requested(row).reshape(2, 16).numpy(), strict=True):
            if not (now == label).any():
                assert not shares.any()
                continue
            lent = (shares_of_range(donor_image)[donor_labels == label] - theirs[0]) / theirs[1]
            assert shares @ middles == pytest.approx((ours[0] + ours[1] * lent).mean(), abs=0.01)
            assert shares.sum() == pytest.approx(1, abs=1e-3)
        assert abs(ours[0] - theirs[0]) > 0.05 or row["case"] == NORMAL[0]  # so that it shows


def test_lesions_of_others_with_a_texture(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, TEXTURE, "types=1", "histogram_perturbation=0")
    assert code == 0, error
    for row in manifest_of(tmp_path / "out"):
        now = assert_painted(hearts, tmp_path / "out", row["case"], "1")
        wanted = torch.zeros(32)
        wanted[10], wanted[16 + 3] = float((now == 3).any()), float((now == 4).any())
        assert torch.equal(requested(row), wanted) and row["texture"] == "type 1"


def test_realistic_lesions_are_relative_to_the_tissue_of_their_heart(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "types=3", "histogram_perturbation=0")  # the default of hearts
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert len({row["requested_histogram"] for row in rows}) > 4
    table = read_lesion_table(REALISTIC)
    middles = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    relative = (table.layers[:, 0] @ middles) / table.layers[:, 0].sum(axis=1)
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert (row["texture"], row["condition"]) == ("infarct", "realistic")
        level, unit = tissue(source(hearts, row["case"])[0], now)
        found = (requested(row).reshape(2, 16).numpy() @ ((np.arange(16) + 0.5) / 16) - level) / unit
        assert relative.min() - 0.1 < found[0] < relative.max() + 0.1


def test_a_heart_without_bright_blood_has_no_realistic_lesion(paint, hearts, donors):
    image, labels = source(hearts, NORMAL[1])
    image[labels == 1] = 10
    save(hearts / "Normal", NORMAL[1], image, labels)
    code, _, error = paint("Normal", donors, "condition=realistic", "types=1")
    assert code == 1 and error.count("error: ") == 1 and "Traceback" not in error
    assert NORMAL[1] in error and "not brighter than the muscle" in error


def test_the_shipped_textures_move_with_the_heart(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "condition=textures", "types=3", "histogram_perturbation=0")
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert len({row["requested_histogram"] for row in rows}) == 9
    for row in rows:
        assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert row["texture"] == f"type {row['type']}" and bool(requested(row)[:16].any())


def test_the_lesion_lies_at_its_address(paint, hearts, donors, tmp_path):
    """The donor's angle between lesion and septum is that of the target, whose septum points elsewhere."""
    code, _, error = paint("Normal", donors, "condition=own", "types=1", f"donor={SICK[0]}")
    assert code == 0, error
    assert {row["donor"] for row in manifest_of(tmp_path / "out")} == {SICK[0]}
    for number, name in enumerate(NORMAL):
        labels = stored(tmp_path / "out" / "Mask" / "Mask_1" / f"{name}.nii.gz")
        offsets = np.argwhere(labels >= 3)[:, :2] - np.array([15 + number, 28])
        directions = np.arctan2(offsets[:, 0], offsets[:, 1])
        middle = np.angle(np.exp(1j * directions).mean())
        expected = (-2.6 + number) + (0.0 - 2.0)  # the donor's lesion at 0, its septum at 2 radians
        assert abs(np.angle(np.exp(1j * (middle - expected)))) < 0.35


@pytest.mark.parametrize("codes, lent", [("LAS", "RAS"), ("RAS", "LAS"), ("ASR", "IPL"), ("SLP", "RAS")])
def test_the_order_of_the_axes_changes_no_voxel(
    paint, hearts, donors, tmp_path, save_as, monkeypatch, codes, lent
):
    """Heart and donor stored mirrored, upside down, or slices first: the same infarct in the world."""
    monkeypatch.setattr(inference, "save_preview", lambda path, *_: path)  # takes most of the time
    for folder in ("images", "labels"):
        for name in NORMAL[1:]:
            (hearts / "Normal" / folder / f"{name}.nii.gz").unlink()
    options = (donors, "condition=own", "types=1", f"donor={SICK[0]}")
    assert paint("Normal", *options)[0] == 0
    for name, order in ((NORMAL[0], codes), (SICK[0], lent)):
        for folder, array in zip(("images", "labels"), source(hearts, name), strict=True):
            kind = "Normal" if name in NORMAL else "Pathological"
            save_as(order, hearts / kind / folder / f"{name}.nii.gz", array, AFFINE)
    code, _, error = paint("Normal", *options, out="turned")
    assert code == 0, error
    for file in ("Image/Image_1", "Mask/Mask_1"):
        first, turned = (
            nibabel.load(tmp_path / out / file / f"{NORMAL[0]}.nii.gz") for out in ("out", "turned")
        )
        assert nibabel.aff2axcodes(turned.affine) == tuple(codes)
        first, turned = (nibabel.as_closest_canonical(image) for image in (first, turned))
        assert np.array_equal(first.dataobj, turned.dataobj) and np.allclose(first.affine, turned.affine)


def test_a_hot_voxel_does_not_change_what_is_painted(paint, hearts, tmp_path):
    """One spike at ten times the maximum, away from the heart, which stays as it is."""
    options = ("condition=own", "types=1")
    assert paint("Pathological", *options)[0] == 0
    for name in SICK:
        image, labels = source(hearts, name)
        image[1, 1, 1] = 10 * image.max()
        save(hearts / "Pathological", name, image, labels)
    code, _, error = paint("Pathological", *options, out="hot")
    assert code == 0, error
    for name in SICK:
        clean, hot = (
            stored(tmp_path / out / "Image" / "Image_1" / f"{name}.nii.gz") for out in ("out", "hot")
        )
        assert hot[1, 1, 1] == source(hearts, name)[0][1, 1, 1]
        hot[1, 1, 1] = clean[1, 1, 1]
        assert np.array_equal(clean, hot)


def test_weights_of_each_volumes_range_take_percentiles_too(paint, hearts, donors, tmp_path):
    """With the shipped textures, which were fitted on the range; but no fixed window."""
    options = (donors, "types=1")
    code, _, error = paint("Normal", *options, "window={percentiles: [0.5, 99.5]}")
    assert code == 0, error
    for name in NORMAL:
        image, painted = source(hearts, name)[0], stored(tmp_path / "out/Image/Image_1" / f"{name}.nii.gz")
        inside = painted[painted != image]
        low, high = np.percentile(image, (0.5, 99.5))
        assert inside.size and low - 0.5 <= inside.min() and inside.max() <= high + 0.5
    assert_refused(paint("Normal", *options, "window=[0,400]", out="fixed"), "needs window=minmax")


def test_a_donor_is_drawn_by_seed_and_name_alone(paint, hearts, donors, tmp_path, files):
    options = (donors, TEXTURE, "types=1")
    paint("Normal", *options, "batch_size=3", out="all")
    (hearts / "Normal" / "images" / f"{NORMAL[0]}.nii.gz").unlink()
    code, _, error = paint("Normal", *options, "batch_size=1", out="fewer")
    assert code == 0, error
    everything, fewer = (files(tmp_path / name) for name in ("all", "fewer"))
    for name, content in fewer.items():
        if name.endswith(".nii.gz"):
            assert content == everything[name]
    assert len([name for name in fewer if name.endswith(".nii.gz")]) == 4
    lent = {row["case"]: row["donor"] for row in manifest_of(tmp_path / "all")}
    assert {row["case"]: row["donor"] for row in manifest_of(tmp_path / "fewer")} == {
        name: lent[name] for name in NORMAL[1:]
    }


def test_donors_differ_by_case_and_seed_and_are_never_test_cases(hearts, save_network, composed):
    from LeFusion.dataset.cases import find_cases
    from LeFusion.diffusion import load_checkpoint
    from LeFusion.inference.job import make_job
    from LeFusion.settings import InferenceSettings

    model = save_network(in_channels=2, data_type="emidec", window="minmax")
    overrides = [
        "data_type=emidec",
        f"model_path={model}",
        f"lesions_from={hearts / 'Pathological'}",
        f"donors_test_txt={hearts / 'Pathological' / 'test.txt'}",
        "diffusion_img_size=24",
    ]
    lent, config, checkpoint = {}, composed("inference", *overrides), load_checkpoint(model, "ema")
    for seed in range(4):
        job = make_job(InferenceSettings.of(config | {"seed": seed}), checkpoint)
        for folder, few in (("Normal", 3), ("Pathological", 2)):
            for case in find_cases(hearts / folder, job.layout)[:few]:
                lent[seed, case.name] = job.canvas(case).donor
    assert TEST_CASE not in lent.values() and set(lent.values()) == set(SICK[:3])
    assert all(donor != name for (_, name), donor in lent.items())  # a heart gets no lesion of its own
    assert len({tuple(lent[seed, name] for name in NORMAL) for seed in range(4)}) > 2
    assert any(len({lent[seed, name] for name in NORMAL}) > 1 for seed in range(4))


def test_sick_hearts_may_get_the_lesions_of_others(paint, hearts, donors, tmp_path):
    code, _, error = paint("Pathological", donors, "condition=own", "types=1", f"donor={SICK[2]}")
    assert code == 1 and SICK[2] in error and "no other case" in error  # itself
    (hearts / "Pathological" / "images" / f"{SICK[2]}.nii.gz").rename(hearts / "aside.nii.gz")
    code, _, error = paint(
        "Pathological",
        donors,
        "condition=own",
        "types=1",
        f"donor={SICK[0]}",
        "split=test",
        f"test_txt_dir={hearts / 'Pathological' / 'test.txt'}",
    )
    assert code == 0, error
    (row,) = manifest_of(tmp_path / "out")
    now = assert_painted(hearts, tmp_path / "out", TEST_CASE, "1")
    before = source(hearts, TEST_CASE)[1]
    assert row["donor"] == SICK[0] and not np.array_equal(now, before)
    assert (now[before == 3] == 2).any()  # where its own lesion was is healthy now


def test_a_network_with_clean_context_and_velocity(paint, hearts, donors, save_network, tmp_path):
    trained = {"data_type": "emidec", "window": "minmax", "context": "clean", "prediction": "velocity"}
    model = save_network("clean.safetensors", in_channels=5, out_channels=2, **trained)
    code, _, error = paint("Normal", donors, TEXTURE, "types=1", f"model_path={model}")
    assert code == 0, error
    for name in NORMAL:
        assert_painted(hearts, tmp_path / "out", name, "1")
    model = save_network("lost.safetensors", in_channels=2, **trained)
    assert_refused(
        paint("Normal", donors, f"model_path={model}"), "lost.safetensors", "2 input channels, not 5"
    )


@pytest.mark.parametrize("cases", ["Pathological", "Normal"])
def test_resampled_hearts_are_painted_on_the_stored_grid(paint, hearts, donors, tmp_path, cases):
    options = [TEXTURE, "types=1", "spacing_mm=[8,1,1]", "diffusion_img_size=40"]
    code, _, error = paint(cases, *options, *([donors] if cases == "Normal" else []))
    assert code == 0, error
    for name in NORMAL if cases == "Normal" else SICK:
        assert_painted(hearts, tmp_path / "out", name, "1")


@pytest.mark.parametrize("grid", [[], ["spacing_mm=[8,1,1]", "diffusion_img_size=40"]])
@pytest.mark.parametrize("cases", ["Pathological", "Normal"])
def test_two_classes_are_painted_with_a_rim(paint, hearts, donors, save_network, tmp_path, cases, grid):
    trained = {"data_type": "emidec", "window": "minmax", "context": "clean", "edit_margin_mm": 1.5}
    model = save_network("rim.safetensors", in_channels=5, out_channels=2, **trained)
    lender = [donors] if cases == "Normal" else []
    code, _, error = paint(
        cases, *lender, TEXTURE, "types=1", f"model_path={model}", "save_edit_mask=true", *grid
    )
    assert code == 0, error
    out, rims = tmp_path / "out", 0
    for row in manifest_of(out):
        image, labels = source(hearts, row["case"])
        painted, now = stored(row["image"]), stored(row["label"])
        edit = stored(out / "Image" / "Edit_1" / f"{row['case']}.nii.gz").astype(bool)
        rim = edit & (now < 3)
        assert np.array_equal(painted[~edit], image[~edit]) and edit[now >= 3].all()
        assert np.array_equal(now == 1, labels == 1) and np.array_equal(now >= 2, labels >= 2)
        assert (painted != image)[rim].mean() > 0.5
        assert (painted != image)[now >= 3].mean() > 0.8
        rims += rim.sum()
        assert float(row["max_abs_difference_rim"]) > 0 == float(row["max_abs_difference_outside"])
    assert rims > 0


def assert_refused(result, *texts):
    """Exit code 1 and one line on stderr that holds these texts."""
    code, _, error = result
    lines = [line for line in error.replace("\r", "\n").split("\n") if line.startswith("error: ")]
    assert code == 1 and len(lines) == 1 and "Traceback" not in error, error
    assert error.rstrip().endswith(lines[0]), error
    for text in texts:
        assert str(text) in lines[0], lines[0]


def relabel(hearts, name, change):
    folder = hearts / ("Normal" if "_N" in name else "Pathological")
    path = folder / "labels" / f"{name}.nii.gz"
    labels = change(stored(path).copy())
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    return path


def without(label):
    return lambda labels: np.where(labels == label, 0, labels).astype(np.uint8)


def with_label_7(labels):
    labels[0, 0, 0] = 7
    return labels


def nothing_written(tmp_path):
    return not list((tmp_path / "out").rglob("*.nii.gz"))


def test_normal_hearts_need_lesions_from_somewhere(paint, hearts, tmp_path):
    path = hearts / "Normal" / "labels" / f"{NORMAL[0]}.nii.gz"
    assert_refused(paint("Normal", "types=1"), path, "no lesion voxel (label 3 or 4)")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("label, part", [(1, "cavity (label 1)"), (2, "label 2")])
def test_a_heart_without_its_parts_is_named(paint, hearts, donors, tmp_path, label, part):
    path = relabel(hearts, NORMAL[1], without(label))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1"), path, part)
    assert nothing_written(tmp_path)
    code, text, error = paint("Normal", donors, TEXTURE, "types=1", "skip_bad_cases=true")
    assert code == 0 and f"skipped: {path}" in text, error
    assert {row["case"] for row in manifest_of(tmp_path / "out")} == {NORMAL[0], NORMAL[2]}


def test_a_donor_without_cavity_is_named(paint, hearts, donors):
    path = relabel(hearts, SICK[1], without(1))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1", f"donor={SICK[1]}"), path, "cavity (label 1)")


def test_a_donor_without_lesion_is_named(paint, hearts, donors):
    path = relabel(hearts, SICK[1], lambda labels: labels.clip(0, 2))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1", f"donor={SICK[1]}"), path, "no lesion voxel")


def test_unknown_labels_are_named(paint, hearts, donors, tmp_path):
    path = relabel(hearts, NORMAL[2], with_label_7)
    assert_refused(paint("Normal", donors, TEXTURE, "types=1"), path, "unknown values 7", "0, 1, 2, 3, 4")
    path = relabel(hearts, SICK[0], with_label_7)
    assert_refused(paint("Pathological", "condition=own", "types=1"), path, "unknown values 7")
    assert nothing_written(tmp_path)


def test_a_lesion_deeper_than_the_network_is_named(paint, hearts, donors):
    path = hearts / "Pathological" / "labels" / f"{SICK[0]}.nii.gz"
    result = paint("Pathological", "condition=own", "types=1", "diffusion_depth_size=2")
    assert_refused(result, path, "lesion spans (3,", "(2, 24, 24)")
    result = paint("Normal", donors, TEXTURE, "types=1", "diffusion_depth_size=1")
    assert_refused(
        result, hearts / "Normal" / "labels" / f"{NORMAL[0]}.nii.gz", "lesion spans", "(1, 24, 24)"
    )


def test_labels_in_another_order_than_in_training_are_refused(paint, save_network):
    """Infarct and no-reflow would be swapped."""
    model = save_network(
        "swapped.safetensors", in_channels=2, data_type="emidec", window="minmax", lesion_labels=[4, 3]
    )
    code, _, errors = paint("Pathological", f"model_path={model}", "condition=own", "types=1")
    assert code == 1 and errors.count("\n") == 1
    assert "trained with layout.lesion_labels=[4, 3]" in errors and "label 3 would be painted" in errors


def test_settings_that_make_no_sense_are_named(paint, hearts, donors, save_network):
    lidc = f"model_path={save_network('lidc.safetensors')}"
    result = paint("Normal", "data_type=lidc", lidc, donors, "types=1")
    assert_refused(result, "lesions_from", "layout.myocardium_label", "data_type=lidc")
    assert_refused(paint("Normal", f"donor={SICK[0]}"), f"donor={SICK[0]} needs lesions_from")
    for name in (TEST_CASE, "Case_P999"):
        assert_refused(paint("Normal", donors, f"donor={name}"), f"donor={name}", hearts / "Pathological")
    assert_refused(paint("Normal", f"lesions_from={hearts / 'none'}"), hearts / "none")
    assert_refused(paint("Normal", donors, f"donors_test_txt={hearts / 'none.txt'}"), hearts / "none.txt")
