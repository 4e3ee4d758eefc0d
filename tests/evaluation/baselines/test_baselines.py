"""The baselines: what they write, what they keep, what they refuse."""

import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.baselines import common, copy_paste, hand_crafted
from evaluation_pipeline.baselines.common import centroid, fade
from evaluation_pipeline.cases.synthetic import find_synthetic
from LeFusion.dataset.scans import read_volume

BOTH = pytest.mark.parametrize("baseline", [copy_paste, hand_crafted], ids=["copy_paste", "hand_crafted"])


def arguments(root: Path, out: Path, *more: str) -> list[str]:
    return [
        *("--dataset_root_dir", str(root / "Normal"), "--lesions_from", str(root / "Pathological")),
        *("--target_img_path", str(out / "imagesTr"), "--target_label_path", str(out / "labelsTr")),
        *("--types", "2", *more),
    ]


def manifest(out: Path) -> list[dict]:
    with open(out / "imagesTr" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


@BOTH
def test_lungs(baseline, lidc, tmp_path, files):
    out = tmp_path / "out"
    baseline.main(arguments(lidc, out))
    found = find_synthetic([out])
    assert {(image.name, image.kind) for image in found} == {
        (f"N-000{number}_CVol_2", kind) for number in (1, 2, 3) for kind in (1, 2)
    }
    for image in found:
        source = read_volume(lidc / "Normal/Image" / image.name.split("_")[0] / image.image.name)
        painted, label = read_volume(image.image), read_volume(image.label)
        inside = label.raw > 0
        assert label.raw.dtype == np.uint8 and set(np.unique(label.raw)) == {0, 1}
        assert painted.raw.dtype == source.raw.dtype
        assert np.array_equal(painted.raw[~inside], source.raw[~inside])
        assert (painted.raw[inside] != source.raw[inside]).any()
        for volume in (painted, label):
            assert np.array_equal(volume.affine, source.affine)
    again = tmp_path / "again"
    baseline.main(arguments(lidc, again))
    written = [{k: v for k, v in files(folder).items() if k.endswith(".gz")} for folder in (out, again)]
    assert written[0] == written[1]
    baseline.main(arguments(lidc, tmp_path / "other", "--seed", "1"))
    assert (
        files(tmp_path / "other")["imagesTr/Image_1/N-0001_CVol_2.nii.gz"]
        != (written[0]["imagesTr/Image_1/N-0001_CVol_2.nii.gz"])
    )


@BOTH
def test_a_drawing_depends_on_its_address_alone(baseline, lidc, tmp_path):
    baseline.main(arguments(lidc, tmp_path / "all"))
    for path in (lidc / "Normal").rglob("N-0001*.nii.gz"):
        path.unlink()
    baseline.main(arguments(lidc, tmp_path / "fewer", "--types", "1"))
    pair = [
        (tmp_path / run / "imagesTr/Image_1/N-0003_CVol_2.nii.gz").read_bytes() for run in ("all", "fewer")
    ]
    assert pair[0] == pair[1]


def test_test_cases_lend_nothing(lidc, tmp_path):
    """The test case and only it is bright; what is pasted must not be."""
    for path in (lidc / "Pathological/Image").rglob("*.nii.gz"):
        image = nibabel.load(path)
        value = 300 if "P-0004" in path.name else -300
        nibabel.save(nibabel.Nifti1Image(np.full(image.shape, value, np.int16), image.affine), path)
    for baseline, column in ((copy_paste, "donor"), (hand_crafted, "intensities_from")):
        out = tmp_path / baseline.__name__
        baseline.main(arguments(lidc, out, "--types", "8", "--blend_mm", "0"))
        rows = manifest(out)
        assert {row[column] for row in rows} == {f"P-000{number}_Vol_1" for number in (1, 2, 3)}
        for image in find_synthetic([out]):
            values = read_volume(image.image).raw[read_volume(image.label).raw > 0]
            assert np.all(values == -300)
    assert {row["donor"] for row in rows} == {""}  # hand-crafted ones hold no lesion of a case


@BOTH
def test_no_scan_of_a_test_patient_is_used(baseline, lidc, tmp_path, case_writer, capsys):
    """P-0004_Vol_1 is the test case: its normal region is not painted into, its other nodule not pasted."""
    case_writer(lidc / "Normal", "P-0004_CVol_9.nii.gz", "P-0004_CMask_9.nii.gz")
    case_writer(lidc / "Pathological", "P-0004_Vol_2.nii.gz", "P-0004_Mask_2.nii.gz")
    baseline.main(arguments(lidc, tmp_path / "out", "--types", "8"))
    assert "1 of 4 scans left out" in capsys.readouterr().out
    rows = manifest(tmp_path / "out")
    assert {row["case"][:6] for row in rows} == {"N-0001", "N-0002", "N-0003"}
    assert {row["intensities_from"][:6] for row in rows} == {"P-0001", "P-0002", "P-0003"}
    for path in (lidc / "Normal").rglob("N-*.nii.gz"):
        path.unlink()
    with pytest.raises(SystemExit):
        baseline.main(arguments(lidc, tmp_path / "none"))
    assert "all 1 scans are of test patients" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_pasted_lesion_is_the_donors_at_the_masks_centroid(lidc, tmp_path):
    copy_paste.main(arguments(lidc, tmp_path, "--blend_mm", "0"))
    donors = {row["case"] + row["type"]: row["donor"] for row in manifest(tmp_path)}
    for image in find_synthetic([tmp_path]):
        patient = donors[image.name + str(image.kind)].split("_")[0]
        folder = lidc / "Pathological"
        donor = read_volume(folder / f"Image/{patient}/{patient}_Vol_1.nii.gz").raw
        lesion = read_volume(folder / f"Mask/{patient}/{patient}_Mask_1.nii.gz").raw > 0
        mask = read_volume(image.label).raw > 0
        assert sorted(read_volume(image.image).raw[mask]) == sorted(donor[lesion])
        own = next((lidc / "Normal/Mask").rglob(image.name.replace("_CVol_", "_CMask_") + ".nii.gz"))
        # a box of even sides has its centroid between voxels: flips may move it by one
        assert np.abs(centroid(mask) - centroid(read_volume(own).raw > 0)).max() <= 1


def test_a_lesion_that_sticks_out_is_cut():
    labels = np.ones((2, 3, 5), np.uint8)
    values = np.arange(30.0).reshape(2, 3, 5)
    placed, moved = copy_paste.place(labels, values, np.array([1, 1, 0]), (4, 6, 6))
    assert np.count_nonzero(placed) == 2 * 3 * 3
    assert np.array_equal(moved[1:3, 0:3, 0:3], values[:, :, 2:]) or np.array_equal(
        moved[0:2, 0:3, 0:3], values[:, :, 2:]
    )
    with pytest.raises(ValueError, match="outside"):
        copy_paste.place(labels, values, np.array([1, 1, -9]), (4, 6, 6))


def test_the_border_fades():
    mask = np.zeros((9, 9, 9), bool)
    mask[1:8, 1:8, 1:8] = True
    share = fade(mask, (1, 1, 1), 2.0)
    assert share[4, 4].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 2 / 3, 1 / 3, 0])
    assert np.array_equal(fade(mask, (1, 1, 1), 0), mask)
    flat = fade(mask, (10, 1, 1), 2.0)  # slices far apart: the first slice fades as the middle one
    assert np.array_equal(flat[1], flat[4])


def test_a_made_up_nodule_keeps_volume_and_place():
    from scipy.ndimage import label

    own = np.zeros((20, 40, 40), bool)
    own[6:14, 15:25, 12:22] = True
    shapes = [
        hand_crafted.deformed_ellipsoid(own, (1, 1, 1), np.random.default_rng(seed)) for seed in range(5)
    ]
    for mask in shapes:
        assert 0.8 * own.sum() <= mask.sum() <= own.sum()
        assert label(mask)[1] == 1
        assert np.abs(np.argwhere(mask).mean(axis=0) - np.argwhere(own).mean(axis=0)).max() < 3
    assert len({mask.tobytes() for mask in shapes}) == 5
    noise = hand_crafted.smooth_noise(shapes[0], (1, 1, 1), np.random.default_rng(0))[shapes[0]]
    assert (noise.mean(), noise.std()) == pytest.approx((0, 1))


def heart(root: Path, name: str, infarct: bool, seed: int) -> None:
    """Depth last: a ring of wall about the cavity, the right ventricle beside it."""
    generator = np.random.default_rng(seed)
    rows, columns, levels = np.indices((48, 48, 6))
    radius = np.hypot(rows - 24, columns - 26)
    angle = np.arctan2(rows - 24, columns - 26)
    labels = np.select([radius < 6 + levels * 0.3, radius < 11], [1, 2], 0)
    if infarct:
        sector = (labels == 2) & (np.abs(angle - 0.6) < 0.7) & (levels > 0)
        labels[sector] = 3
        labels[sector & (radius < 9) & (np.abs(angle - 0.6) < 0.3)] = 4
    image = np.select([labels == 1, labels == 2, labels == 3, labels == 4], [140, 60, 200, 80], 20)
    image[(np.hypot(rows - 24, columns - 9) < 7) & (labels == 0)] = 140
    image = (image + generator.normal(0, 3, image.shape)).clip(0, 255)
    affine = np.diag([1.5, 1.5, 10, 1])
    for folder, array in (("images", image.astype(np.int16)), ("labels", labels.astype(np.uint8))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), root / folder / f"{name}.nii.gz")


@pytest.fixture
def hearts(tmp_path) -> Path:
    for number in range(3):
        heart(tmp_path / "hearts/Pathological", f"Case_P00{number}", True, number)
    heart(tmp_path / "hearts/Normal", "Case_N001", False, 9)
    (tmp_path / "hearts/Pathological/test.txt").write_text("Case_P002\n")
    return tmp_path / "hearts"


@BOTH
def test_hearts(baseline, hearts, tmp_path):
    out = tmp_path / "out"
    baseline.main(arguments(hearts, out))
    source = read_volume(hearts / "Normal/images/Case_N001.nii.gz")
    healthy = read_volume(hearts / "Normal/labels/Case_N001.nii.gz").raw
    for kind in (1, 2):
        painted = read_volume(out / f"imagesTr/Image_{kind}/Case_N001.nii.gz")
        labels = read_volume(out / f"labelsTr/Mask_{kind}/Case_N001.nii.gz").raw
        lesion = labels > 2
        assert lesion.any()
        assert np.all(healthy[lesion] == 2)  # in the wall only
        assert np.array_equal(labels[~lesion], healthy[~lesion])
        assert np.array_equal(painted.raw[~lesion], source.raw[~lesion])
        infarct = painted.raw[labels == 3].mean()
        assert 90 < infarct < 230  # brighter than healthy myocardium (60)
        if baseline is copy_paste:
            assert painted.raw[labels == 4].mean() < infarct - 20
    assert {row["intensities_from"] for row in manifest(out)} <= {"Case_P000", "Case_P001"}


@BOTH
@pytest.mark.parametrize(
    "more, message",
    [
        (("--types", "0"), "--types"),
        (("--lesions_from", "none"), "none"),
        (("--test_txt_path", "none.txt"), "none.txt"),
        (("--lesion_labels", "2", "--other_labels"), "labels 1"),
    ],
)
def test_mistakes_are_one_line(baseline, more, message, lidc, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        baseline.main(arguments(lidc, tmp_path / "out", *more))
    assert stopped.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out").exists()


def test_other_spacings_are_refused(lidc, tmp_path, capsys):
    for path in (lidc / "Pathological").rglob("*.nii.gz"):
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj), np.diag([3, 1, 1, 1])), path)
    with pytest.raises(SystemExit):
        copy_paste.main(arguments(lidc, tmp_path / "out"))
    assert "resample" in capsys.readouterr().err


@BOTH
def test_hearts_do_not_go_into_lungs(baseline, lidc, hearts, tmp_path, capsys):
    argv = arguments(lidc, tmp_path / "out", "--lesions_from", str(hearts / "Pathological"))
    with pytest.raises(SystemExit):
        baseline.main(argv)
    assert "same kind of images" in capsys.readouterr().err


def test_sources_are_never_overwritten(lidc, tmp_path, capsys):
    """Normal/Image/Image_1/... as the source of a run that writes there."""
    folder = lidc / "Normal"
    for path in sorted(folder.rglob("N-0001*.nii.gz")):
        target = folder / ("Image/Image_1" if "_CVol_" in path.name else "Mask/Mask_1") / path.name
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    argv = arguments(lidc, tmp_path / "out", "--target_img_path", str(folder / "Image"))
    with pytest.raises(SystemExit):
        copy_paste.main(argv)
    error = capsys.readouterr().err
    assert f"--target_img_path={folder / 'Image'} lies in {folder / 'Image'}" in error
    argv = arguments(lidc, tmp_path / "out", "--target_label_path", str(lidc / "Pathological/Mask/new"))
    with pytest.raises(SystemExit):
        copy_paste.main(argv)
    error = capsys.readouterr().err
    assert "error: --target_label_path=" in error and error.count("\n") == 1
    assert not (lidc / "Pathological/Mask/new").exists() and not (tmp_path / "out").exists()


@BOTH
def test_folders_of_nnunet(baseline, lidc, tmp_path):
    """Also names with _Vol_, as prepare_real_dataset.py keeps them."""
    for part, names in (("Normal", ("_CVol_", "_CMask_")), ("Pathological", ("_Vol_", "_Mask_"))):
        for path in sorted((lidc / part / "Image").rglob("*.nii.gz")):
            name = path.name.removesuffix(".nii.gz")
            mask = next((lidc / part / "Mask").rglob(path.name.replace(*names)))
            for source, target in ((path, f"imagesTr/{name}_0000"), (mask, f"labelsTr/{name}")):
                (tmp_path / part / target).parent.mkdir(parents=True, exist_ok=True)
                source.rename(tmp_path / part / f"{target}.nii.gz")
    baseline.main(arguments(tmp_path, tmp_path / "out"))
    found = find_synthetic([tmp_path / "out"])
    assert len(found) == 6 and {image.name for image in found} == {
        f"N-000{number}_CVol_2" for number in (1, 2, 3)
    }
    for image in found:
        assert read_volume(image.image).raw.shape == read_volume(image.label).raw.shape
        assert {"P"} == {image.donor[0]} if baseline is copy_paste else image.donor == ""


def test_a_killed_run_has_named_its_donors(lidc, tmp_path, monkeypatch):
    """In a folder with the images of an earlier run, of other donors."""
    copy_paste.main(arguments(lidc, tmp_path, "--seed", "5"))
    earlier = manifest(tmp_path)
    written = []

    def killed_at_the_fourth(scan, painted, layout, image_path, label_path, write=common._write_painted):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append((image_path, painted.donor))
        write(scan, painted, layout, image_path, label_path)

    monkeypatch.setattr(common, "_write_painted", killed_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        common.run(common.parser("").parse_args(arguments(lidc, tmp_path)), copy_paste.paint)
    rows = manifest(tmp_path)
    assert [(Path(row["image"]), row["donor"]) for row in rows[:3]] == written
    assert [row["donor"] for row in rows] != [row["donor"] for row in earlier[:4]]
    assert len(rows) == 4 and not Path(rows[3]["image"]).exists()
    assert Path(earlier[4]["image"]).exists()
    for row in rows[3:]:
        Path(row["label"]).unlink()
    with pytest.raises(ValueError, match="has no row for it"):  # the images of the earlier run
        find_synthetic([tmp_path])


@BOTH
@pytest.mark.parametrize(
    "more, name", [(("--types", "1"), "Image_2"), (("--dataset_root_dir", "{fewer}"), "N-0001_CVol_2.nii.gz")]
)
def test_targets_with_other_images_are_refused(baseline, more, name, lidc, tmp_path, capsys, files):
    out = tmp_path / "out"
    baseline.main(arguments(lidc, out))
    before = files(out)
    shutil.copytree(lidc / "Normal", tmp_path / "fewer")
    for path in (tmp_path / "fewer").rglob("N-0001*.nii.gz"):
        path.unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        baseline.main(arguments(lidc, out, *(text.format(fewer=tmp_path / "fewer") for text in more)))
    error = capsys.readouterr().err
    assert error.startswith("error: ") and name in error and "choose another target" in error
    assert files(out) == before
