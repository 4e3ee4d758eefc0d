"""The whole command on small data: what it finds, what it leaves out, what it writes and refuses."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline import evaluate_synthesis
from evaluation_pipeline.fidelity import cnn

SHAPE = (12, 24, 24)
PLACES = np.indices(SHAPE) - np.array([6, 12, 12]).reshape(3, 1, 1, 1)


@pytest.fixture(scope="module", autouse=True)
def small_network():
    """The 3D network runs on few lesions, and for two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnn, "LEAST", 10)
        patch.setattr(cnn, "STEPS", 2)
        yield


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def blob(generator) -> np.ndarray:
    noise = gaussian_filter(generator.standard_normal(SHAPE), 2) * 8
    return np.sqrt((PLACES**2).sum(axis=0)) + noise < generator.uniform(3.5, 5)


def lung(generator, shape=SHAPE) -> np.ndarray:
    return -800 + 60 * gaussian_filter(generator.standard_normal(shape), 1)


def painted(background, mask, generator, level=-100.0) -> np.ndarray:
    texture = level + 300 * gaussian_filter(generator.standard_normal(mask.shape), 1)
    return np.where(mask, texture, background).astype(np.int16)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """12 real cases, 3 of them in test.txt; 5 scans with 2 types, painted in the same way as the real ones
    are; a folder "copies" whose lesions are those of training cases."""
    root = tmp_path_factory.mktemp("fidelity")
    generator = np.random.default_rng(0)
    real = []
    for number in range(12):
        mask = blob(generator)
        image = painted(lung(generator), mask, generator)
        real.append((image, mask))
        save(root / f"real/Image/R-{number}_Vol_1.nii.gz", image)
        save(root / f"real/Mask/R-{number}_Mask_1.nii.gz", mask.astype(np.uint8))
    (root / "real/test.txt").write_text("R-9_Vol_1\nR-10_Vol_1\nR-11_Vol_1\n")
    rows, made = ["case,type,requested_histogram"], ["case,type,donor"]
    for number in range(5):
        source, mask = lung(generator).astype(np.int16), blob(generator)
        save(root / f"normal/Image/N-{number}_CVol_1.nii.gz", source)
        for kind in (1, 2):
            image = painted(source, mask, generator)
            save(root / f"good/imagesTr/Image_{kind}/N-{number}_CVol_1.nii.gz", image)
            save(root / f"good/labelsTr/Mask_{kind}/N-{number}_Mask_1.nii.gz", mask.astype(np.uint8))
            counts = np.histogram(image[mask].clip(-1000, 399), 16, (-1000, 400))[0]
            rows.append(f"N-{number}_CVol_1,{kind},{' '.join(map(str, counts))}")
            made.append(f"N-{number}_CVol_1,{kind},")
            lesion, its_mask = (np.flip(a, axis=2) for a in real[number])
            image = np.where(its_mask, lesion, source + 5)
            save(root / f"copies/Image_{kind}/N-{number}_CVol_1.nii.gz", image.astype(np.int16))
            save(root / f"copies/Mask_{kind}/N-{number}_Mask_1.nii.gz", its_mask.astype(np.uint8))
    (root / "good/imagesTr/manifest.csv").write_text("\n".join(made))
    (root / "requested.csv").write_text("\n".join(rows))
    return root


def judge(data: Path, out: Path, synthetic: str = "good", *more: str) -> dict:
    argv = [
        "--real_dir",
        str(data / "real"),
        "--synthetic_dir",
        str(data / synthetic),
        "--output_dir",
        str(out),
    ]
    evaluate_synthesis.main([*argv, *more])
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def good(data, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("good")
    more = ("--source_dir", str(data / "normal"), "--manifest", str(data / "requested.csv"))
    return out, judge(data, out, "good", *more)


def test_good_lesions(good):
    report = good[1]
    found = report["sections"]
    assert report["lesions"] == {
        **{"real": 12, "training": 9, "held_out": 3, "synthetic": 10, "cases": 5, "types": 2}
    }
    assert (found["background"]["max"], found["background"]["images_changed"]) == (0, 0)
    assert found["requested_texture"]["mean"] == pytest.approx(0, abs=1e-6)
    assert found["texture"]["synthetic"]["low"] < found["texture"]["real"]["high"]
    assert abs(found["seam"]["difference"]) < 1.5
    for distance in ("frechet", "kernel"):
        assert found["realism"][distance]["synthetic"]["low"] < found["realism"][distance]["real"]["high"]
    assert 5 < found["diversity"]["psnr_within_case_db"] < 40
    assert found["memorisation"]["copies"] == 0
    assert found["discriminator"]["groups"] == "by patient"
    assert report["left_out"] == {}


def test_the_same_seed_gives_the_same_report(data, good, tmp_path):
    more = ("--source_dir", str(data / "normal"), "--manifest", str(data / "requested.csv"))
    assert judge(data, tmp_path, "good", *more) == good[1]


def test_copies_and_changed_backgrounds_are_found(data, tmp_path):
    report = judge(data, tmp_path, "copies", "--source_dir", str(data / "normal"))
    found = report["sections"]
    assert found["memorisation"]["copies"] == 10
    assert {row["nearest"] for row in found["memorisation"]["nearest"]} == {f"R-{n}_Vol_1" for n in range(5)}
    assert (found["background"]["max"], found["background"]["images_changed"]) == (5, 10)
    assert (found["diversity"]["identical_pairs"], found["diversity"]["psnr_within_case_db"]) == (5, None)
    assert "manifest" in report["left_out"]["requested_texture"]
    assert ">copy<" in (tmp_path / "report.html").read_text()


def test_lesions_of_other_intensity_are_told_apart(data, tmp_path):
    for path in (data / "good").rglob("*.nii.gz"):
        target = tmp_path / "bright" / path.relative_to(data / "good")
        image = nibabel.load(path)
        array = np.asarray(image.dataobj)
        if "Image_" in str(path):
            mask = Path(str(path).replace("imagesTr/Image_", "labelsTr/Mask_").replace("_CVol_", "_Mask_"))
            array = np.where(np.asarray(nibabel.load(mask).dataobj) > 0, 350, array).astype(np.int16)
        save(target, array)
    argv = ["--real_dir", str(data / "real"), "--synthetic_dir", str(tmp_path / "bright"), "--types", "1"]
    evaluate_synthesis.main([*argv, "--output_dir", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out/report.json").read_text())
    found = report["sections"]
    assert report["lesions"]["synthetic"] == 5
    assert found["discriminator"]["features"]["all"]["auc"] == 1
    assert found["realism"]["frechet"]["synthetic"]["low"] > found["realism"]["frechet"]["real"]["high"]
    assert found["texture"]["synthetic"]["mean"] == pytest.approx(450, abs=100)
    assert found["diversity"]["psnr_within_case_db"] is None  # one type


def test_what_too_few_lesions_cannot_answer_is_left_out(data, tmp_path):
    for number in (0, 1, 2):
        for part, middle in (("Image", "Vol"), ("Mask", "Mask")):
            name = f"R-{number}_{middle}_1.nii.gz"
            (tmp_path / "few" / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "real" / part / name, tmp_path / "few" / part / name)
    argv = ["--real_dir", str(tmp_path / "few"), "--synthetic_dir", str(data / "good")]
    evaluate_synthesis.main([*argv, "--output_dir", str(tmp_path / "out")])
    report = json.loads((tmp_path / "out/report.json").read_text())
    for name, reason in (
        ("realism", "too few lesions: 3 real"),
        ("discriminator", "too few groups"),
        ("background", "--source_dir"),
        ("requested_texture", "--manifest"),
    ):
        assert report["sections"][name] is None
        assert reason in report["left_out"][name]
        assert reason in (tmp_path / "out/report.md").read_text()
    assert "other patients" in report["sections"]["memorisation"]["real_is"]


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "action", "onerror")]


def test_the_page_needs_nothing_else(good):
    text = (good[0] / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert page.tags.count("img") == 9
    sections = re.split(r"<h2>(.*?)</h2>", text)
    shown = dict(zip(sections[1::2], sections[2::2], strict=True))
    assert [title for title, part in shown.items() if "<img" not in part] == [
        "Background",
        "Profile and grain",
        "3D network",
    ]
    assert all(link.startswith("data:image/png;base64,iVBORw0KGgo") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", text)


def test_tables_hold_the_same_figures(good):
    with open(good[0] / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    text, page = (" ".join((good[0] / name).read_text().split()) for name in ("report.md", "report.html"))
    assert {row["question"] for row in rows} == {
        *("background", "texture", "seam", "profile", "realism", "diversity", "memorisation"),
        *("discriminator", "3D network"),
    }
    for row in rows:
        assert f"| {row['measure']} | {row['synthetic']} |" in text
        assert f"<td>{row['synthetic']}</td>" in page
    auc = good[1]["sections"]["discriminator"]["features"]["all"]["auc"]
    assert any(row["synthetic"].startswith(f"{auc:.3f} [") for row in rows)


def test_names_are_escaped(data, tmp_path):
    name = "N<b>&1"
    for kind, part in (("Image_1", "CVol"), ("Mask_1", "Mask")):
        (tmp_path / "odd" / kind).mkdir(parents=True)
        shutil.copy(
            data / f"copies/{kind}/N-0_{part}_1.nii.gz", tmp_path / f"odd/{kind}/{name}_{part}_1.nii.gz"
        )
    argv = ["--real_dir", str(data / "real"), "--synthetic_dir", str(tmp_path / "odd")]
    evaluate_synthesis.main([*argv, "--output_dir", str(tmp_path / "out")])
    text = (tmp_path / "out/report.html").read_text()
    assert "N&lt;b&gt;&amp;1_CVol_1" in text
    assert name not in text


@pytest.mark.parametrize(
    "more, message",
    [
        (("--synthetic_dir", "none"), "none"),
        (("--synthetic_dir", "{data}/real"), "no synthetic images"),
        (("--real_dir", "none"), "none"),
        (("--types", "3"), "types 1 to 2"),
        (("--types", "0"), "types 1 to 2"),
        (("--source_dir", "{data}/real"), "no image of this name"),
        (("--manifest", "{data}/good/imagesTr/manifest.csv"), "manifest.csv"),
        (("--lesion_labels", "2", "--other_labels"), "holds the labels 1"),
        (("--lesion_labels", "2", "--other_labels", "1"), "lesion labels [2]"),
        (("--test_txt_path", "none.txt"), "none.txt"),
    ],
)
def test_mistakes_are_one_line(data, tmp_path, capsys, more, message):
    more = [text.format(data=data) for text in more]
    with pytest.raises(SystemExit) as stopped:
        judge(data, tmp_path / "out", "good", *more)
    assert stopped.value.code == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and message in errors[0]
    assert not (tmp_path / "out").exists()


def test_synthetic_images_of_another_grid_or_with_nan(data, tmp_path, capsys):
    folder = tmp_path / "bad"
    shutil.copytree(data / "copies", folder)
    path = folder / "Image_2/N-3_CVol_1.nii.gz"
    for array, message in (
        (np.zeros((12, 24, 25), np.int16), "shape"),
        (np.full(SHAPE, np.nan, np.float32), "NaN"),
    ):
        save(path, array)
        with pytest.raises(SystemExit):
            judge(data, tmp_path / "out", "", "--synthetic_dir", str(folder))
        error = capsys.readouterr().err
        assert message in error and "N-3_" in error


def test_training_lesions_of_another_folder(data, tmp_path):
    """--real_dir then holds what no method has seen."""
    for number in range(9, 12):
        for part, middle in (("Image", "Vol"), ("Mask", "Mask")):
            name = f"R-{number}_{middle}_1.nii.gz"
            (tmp_path / "test" / part).mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "real" / part / name, tmp_path / "test" / part / name)
    argv = ["--real_dir", str(tmp_path / "test"), "--synthetic_dir", str(data / "copies")]
    evaluate_synthesis.main(
        [*argv, "--training_dir", str(data / "real"), "--output_dir", str(tmp_path / "out")]
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["lesions"]["training"], report["lesions"]["held_out"]) == (9, 3)
    assert report["sections"]["memorisation"]["copies"] == 10


def test_training_lesions_in_the_layout_of_nnunet(data, tmp_path):
    """--real_dir holds them too, under their own names: they are not held out, and copies are copies."""
    for number in range(9):
        for source, target in (
            ("Image/R-{}_Vol_1", "imagesTr/R-{}_Vol_1_0000"),
            ("Mask/R-{}_Mask_1", "labelsTr/R-{}_Vol_1"),
        ):
            path = tmp_path / "nnunet" / f"{target.format(number)}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / "real" / f"{source.format(number)}.nii.gz", path)
    report = judge(data, tmp_path / "out", "copies", "--training_dir", str(tmp_path / "nnunet"))
    assert (report["lesions"]["training"], report["lesions"]["held_out"]) == (9, 3)
    assert report["sections"]["memorisation"]["copies"] == 10


def test_the_manifest_beside_the_images_is_read(data, good, tmp_path):
    folder = tmp_path / "good"
    shutil.copytree(data / "good", folder)
    rows = (data / "requested.csv").read_text().splitlines()
    rows = [f"{row},{donor}" for row, donor in zip(rows, ["donor"] + [""] * 10, strict=True)]
    (folder / "imagesTr/manifest.csv").write_text("\n".join(rows))
    report = judge(data, tmp_path / "out", "", "--synthetic_dir", str(folder))
    assert report["sections"]["requested_texture"] == good[1]["sections"]["requested_texture"]
    assert "requested_texture" not in report["left_out"]


def test_as_a_script(data):
    script = Path(evaluate_synthesis.__file__)
    run = subprocess.run(
        [sys.executable, script.name, "--real_dir", "none", "--synthetic_dir", "none"],
        cwd=script.parent,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("error: none")


@pytest.fixture(scope="module")
def inserted(tmp_path_factory) -> Path:
    """Three whole scans of 0.5 x 0.5 x 2 mm with four lesions each, as `lefusion insert` leaves them."""
    root, generator = tmp_path_factory.mktemp("inserted"), np.random.default_rng(1)
    affine, sides = np.diag([-0.5, -0.5, 2.0, 1.0]), np.array([0.5, 0.5, 2.0]).reshape(3, 1, 1, 1)
    (root / "sources").mkdir()
    for number in range(3):
        source = lung(generator, (96, 96, 40))
        labels = np.zeros(source.shape, np.uint8)
        for lesion, (x, y) in enumerate(((24, 24), (24, 72), (72, 24), (72, 72)), start=1):
            away = (np.indices(labels.shape) - np.array([x, y, 20]).reshape(3, 1, 1, 1)) * sides
            labels[np.sqrt((away**2).sum(axis=0)) < generator.uniform(3.5, 5)] = lesion
        image = painted(source, labels > 0, generator)
        arrays = {"image": image, "labels": labels, "edit": (labels > 0).astype(np.uint8)}
        for name, array in arrays.items():
            save(root / "out" / f"ct{number}" / f"{name}.nii.gz", array, affine)
        save(root / "sources" / f"ct{number}.nii.gz", source.astype(np.int16), affine)
        report = {"source": f"sources/ct{number}.nii.gz"}
        (root / "out" / f"ct{number}" / "report.json").write_text(json.dumps(report))
    return root


def test_lesions_in_whole_scans_are_judged_on_voxels_of_one_size(data, inserted, tmp_path, capsys):
    folders = ["--real_dir", str(data / "real"), "--synthetic_dir", str(inserted / "out")]
    more = ["--source_dir", str(inserted / "sources"), "--output_dir", str(tmp_path)]
    evaluate_synthesis.main([*folders, *more])
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["lesions"]["synthetic"] == 12 and report["lesions"]["real"] == 12
    assert report["voxels"] == {
        "real_mm": [1, 1, 1], "synthetic_mm": [2, 0.5, 0.5], "common_mm": [2, 1, 1]
    }  # fmt: skip
    said = capsys.readouterr().out
    assert report["volume_ml"]["real"] == pytest.approx(report["volume_ml"]["synthetic"], rel=0.5)
    assert "note: sizes" not in said
    assert "real 1 x 1 x 1 mm, synthetic 2 x 0.5 x 0.5 mm" in said and "brought to 2 x 1 x 1 mm" in said
    assert report["sections"]["background"]["max"] == 0 and report["sections"]["background"]["images"] == 3
    assert report["sections"]["cnn"]["lesion"]["auc"] is not None


def test_the_voxels_can_be_chosen(data, tmp_path):
    report = judge(data, tmp_path, "good", "--spacing_mm", "2", "2", "2", "--no_cnn")
    assert report["voxels"]["common_mm"] == [2, 2, 2]


def test_lesions_of_other_sizes_are_said(data, inserted, tmp_path, capsys):
    for path in (inserted / "out").glob("*/labels.nii.gz"):
        labels = nibabel.load(path)
        small = np.asanyarray(labels.dataobj).copy()
        small[:, :, :20], small[:, :, 21:] = 0, 0
        save(tmp_path / "out" / path.parent.name / "labels.nii.gz", small, labels.affine)
        for name in ("image.nii.gz", "report.json"):
            shutil.copy(path.parent / name, tmp_path / "out" / path.parent.name / name)
    folders = ["--real_dir", str(data / "real"), "--synthetic_dir", str(tmp_path / "out")]
    evaluate_synthesis.main([*folders, "--output_dir", str(tmp_path / "report"), "--no_cnn"])
    assert "note: sizes: median volume real" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, words",
    [(["--types", "1"], "--types: whole scans"), (["--spacing_mm", "0", "1", "1"], "must be above 0")],
)
def test_flags_that_mean_nothing_are_refused(data, inserted, capsys, flags, words):
    with pytest.raises(SystemExit):
        evaluate_synthesis.main(
            ["--real_dir", str(data / "real"), "--synthetic_dir", str(inserted / "out"), *flags]
        )
    assert words in capsys.readouterr().err
