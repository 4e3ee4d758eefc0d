"""The command `lefusion view`, and how files become pictures."""

import csv
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import nibabel
import numpy as np
import pytest

from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import Layout
from LeFusion.viewer import view
from LeFusion.viewer.files import Files, read_scan


@pytest.fixture
def call(command_line):
    """-> call(arguments): (exit code, stdout, stderr) of the command."""
    return lambda *arguments: command_line(view.main, *arguments)


@pytest.fixture
def painted(tmp_path, case_writer) -> dict[str, Path]:
    """A region, its mask and the region with a brighter lesion."""
    source, label = case_writer(tmp_path / "in", "P-1_CVol_1.nii.gz", "P-1_CMask_1.nii.gz")
    image, mask = nibabel.load(source), np.asarray(nibabel.load(label).dataobj)
    path = tmp_path / "run" / "Image" / "Image_1" / source.name
    path.parent.mkdir(parents=True)
    values = np.asarray(image.dataobj) + 300 * mask.astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    return {"source": source, "label": label, "image": path}


def write_manifest(files: dict[str, Path], **changed) -> Path:
    row = (
        {"case": "P-1_CVol_1", "type": "1", "texture": "solid", "unit": "HU", "layout": "{}"}
        | files
        | changed
    )
    path = files["image"].parents[1] / "manifest.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return path


def shown(path: Path) -> list[dict]:
    return json.loads(re.search(r'id="scenes">(.*?)</script>', path.read_text(), re.S)[1])


def test_the_output_folder_of_a_run(call, painted):
    manifest = write_manifest(painted)
    page = manifest.with_name("viewer.html")
    for given in (manifest, manifest.parent, manifest.parents[1]):
        code, out, err = call(given)
        assert (code, err) == (0, "") and f"wrote {page}" in out
        (scene,) = shown(page)
        (version,) = scene["versions"]
        assert (scene["name"], version["title"]) == ("P-1_CVol_1", "type 1, solid")
        assert version["change"]["size"] == [3, 5, 4] and len(version["lesions"]) == 1
        page.unlink()


def test_masks_without_painting(call, painted, tmp_path):
    folder = tmp_path / "masks"
    (folder / "Mask").mkdir(parents=True)
    for number in (1, 2):
        shutil.copy(painted["label"], folder / "Mask" / f"P-1_GenMask_{number}.nii.gz")

    def write(**changed) -> None:
        row = {"scan": "P-1", "source": painted["source"], "layout": "{}", "unit": "HU"} | changed
        rows = [{"mask": f"P-1_GenMask_{number}", "number": number} | row for number in (1, 2, 3)]
        with open(folder / "masks.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    for given in (folder, folder / "masks.csv"):
        write()
        code, out, err = call(given)
        assert (code, err) == (0, "") and f"wrote {folder / 'viewer.html'}" in out
        (scene,) = shown(folder / "viewer.html")  # the third mask is gone
        assert [version["title"] for version in scene["versions"]] == ["mask 1", "mask 2"]
        assert all(len(version["lesions"]) == 1 for version in scene["versions"])
        (folder / "viewer.html").unlink()
    for changed, said in (
        ({"source": ""}, "an earlier version wrote it, without the scans"),
        ({"source": "gone.nii.gz"}, "no mask is there together with its scan"),
        ({"layout": "{"}, "its layout is damaged"),
    ):
        write(**changed)
        code, _, err = call(folder)
        assert code == 1 and said in err and not (folder / "viewer.html").exists()
    (folder / "masks.csv").write_text("mask\n")
    assert "is no table of masks" in call(folder)[2]


def test_single_files(call, painted, tmp_path):
    page = tmp_path / "page.html"
    files = (
        "--source",
        painted["source"],
        "--label",
        painted["label"],
        "--data-type",
        "lidc",
        "--html",
        page,
    )
    assert call(*files)[0] == 0 and not shown(page)[0]["versions"][0]["painted"]
    assert call(*files, "--painted", painted["image"])[0] == 0
    assert shown(page)[0]["versions"][0]["change"]["size"] == [3, 5, 4]


@pytest.mark.parametrize(
    "arguments, line",
    [
        ([], "give either OUTPUT, the folder of a run, or --source and --label"),
        (["run", "--source", "x"], "give either OUTPUT"),
        (["run", "--label", "x"], "give either OUTPUT"),
        (["--source", "{source}"], "give a --label for each --painted"),
        (
            ["--source", "{source}", "--label", "{label}", "--painted", "a", "--painted", "b"],
            "give a --label",
        ),
        (["--source", "nothing.nii.gz", "--label", "{label}"], "nothing.nii.gz: no such file"),
        (["nowhere"], "nowhere: no such folder"),
        (["in"], "in: holds no manifest.csv of a painting run"),
        (["run", "--most-mb", "1"], "--most-mb=1 must be from 2 to 1000"),
        (["run", "--data-type", "nothing"], "no such data type"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    call, painted, tmp_path, monkeypatch, arguments, line, files
):
    write_manifest(painted)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    code, out, err = call(*(argument.format(**painted) for argument in arguments))
    assert code == 1 and line in err and err.count("\n") == 1 and out == ""
    assert files(tmp_path) == before


def test_manifests_of_others_and_of_images_that_are_gone(call, painted):
    manifest = write_manifest(painted, layout="")
    assert "does not say how volumes are stored; give --data-type" in call(manifest)[2]
    write_manifest(painted, layout="{1")
    assert "its layout is damaged" in call(manifest)[2]
    write_manifest(painted, source="")
    assert "of no image of the manifest are image, label and source there" in call(manifest)[2]
    manifest.write_text("a,b\n1,2\n")
    assert "is no manifest of a painting run" in call(manifest)[2]
    manifest.write_bytes(b"\x1f\x8b\x08 a scan")
    assert "is no table of comma-separated values" in call(manifest)[2]


def test_another_grid_is_refused(call, painted, case_writer, tmp_path):
    other, _ = case_writer(tmp_path / "other", "P-2_CVol_1.nii.gz", "P-2_CMask_1.nii.gz", shape=(8, 16, 17))
    files = ("--source", painted["source"], "--label", painted["label"], "--data-type", "lidc")
    assert f"its shape (8, 16, 17) is not that of {painted['source']}" in call(*files, "--painted", other)[2]


def test_a_scan_lies_where_its_affine_says_however_it_is_stored(painted, save_as, tmp_path):
    """The same scan in two orders: the same picture at the same places in mm."""
    layout = load_data_type("chest_ct").layout
    image = np.random.default_rng(0).integers(-1000, 400, (9, 10, 11)).astype(np.int16)
    label = np.zeros(image.shape, np.uint8)
    label[2:4, 5:7, 6:9] = 1
    affine = np.diag([0.7, 0.8, 2.0, 1.0])
    scans = []
    for codes in ("RAS", "PIL"):
        for name, array in (("scan", image), ("label", label)):
            save_as(codes, tmp_path / codes / f"{name}.nii.gz", array, affine)
        files = [Files("masks", tmp_path / codes / "label.nii.gz")]
        scans.append(read_scan("scan", tmp_path / codes / "scan.nii.gz", files, layout, "HU"))
    first, second = scans
    np.testing.assert_array_equal(first.image[:], second.image[:])
    np.testing.assert_array_equal(first.versions[0].labels, second.versions[0].labels)
    np.testing.assert_allclose(first.affine, second.affine, atol=1e-6)
    assert first.oriented
    index = (3, 4, 5)
    stored = np.rint(np.linalg.inv(affine) @ first.affine @ [*index, 1])[:3].astype(int)
    assert first.image[index] == image[tuple(stored)]


def test_scans_of_insert(call, painted, tmp_path):
    """Each in a folder with its report; labels number the lesions."""
    folder = tmp_path / "inserted" / "scan"
    folder.mkdir(parents=True)
    shutil.copy(painted["image"], folder / "image.nii.gz")
    label = nibabel.load(painted["label"])
    numbers = np.asarray(label.dataobj).copy()
    numbers[3:] *= 2  # the lesion as two
    nibabel.save(nibabel.Nifti1Image(numbers, label.affine), folder / "labels.nii.gz")
    settings = {"layout": asdict(Layout()), "unit": "HU"}
    report = {"source": str(painted["source"]), "settings": settings, "version": 1}
    (folder / "report.json").write_text(json.dumps(report))
    for output, page in ((folder, folder / "viewer.html"), (folder.parent, folder.parent / "viewer.html")):
        assert call(output)[0] == 0
        (scene,) = shown(page)
        assert scene["name"] == "P-1_CVol_1" and len(scene["versions"][0]["lesions"]) == 2
        assert scene["versions"][0]["change"]["size"] == [3, 5, 4]
    (folder / "report.json").write_text(json.dumps(report | {"source": "/gone.nii.gz"}))
    assert "its source /gone.nii.gz, is gone" in call(folder)[2]
    (folder / "report.json").write_text("{}")
    assert "is no report of insert" in call(folder)[2]
