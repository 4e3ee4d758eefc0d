"""A run over scans: what is written, what is kept, what is made again, and what is refused."""

import csv
import json

import nibabel
import numpy as np
import pytest

from LeFusion.dataset.scans import read_volume, write_label_like
from LeFusion.errors import UserError
from LeFusion.insertion.run import run
from LeFusion.insertion.sites import read_sites

FILES = {"image.nii.gz", "labels.nii.gz", "lesions.csv", "preview.png", "report.json"}


def without_report(found: dict[str, bytes]) -> dict[str, bytes]:
    """Reports hold seconds and memory."""
    return {name: content for name, content in found.items() if not name.endswith("report.json")}


def rows(folder):
    with open(folder / "lesions.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_scan_comes_out(chest, settings, tmp_path, capsys):
    path = chest()
    (folder,) = run(settings(input=path, lesions=2, diameter_mm=5, save_edit_mask=True, viewer=True))
    assert folder == tmp_path / "out" / "A" and {f.name for f in folder.iterdir()} == {*FILES, "edit.nii.gz"}
    source, image = nibabel.load(path), nibabel.load(folder / "image.nii.gz")
    labels, edit = (np.asanyarray(nibabel.load(folder / f"{n}.nii.gz").dataobj) for n in ("labels", "edit"))
    assert np.array_equal(source.affine, image.affine) and source.header == image.header
    changed = np.asanyarray(source.dataobj) != np.asanyarray(image.dataobj)
    assert changed.any() and not changed[edit == 0].any()
    found = rows(folder)
    assert [row["instance"] for row in found] == ["1", "2"] and set(np.unique(labels)) == {0, 1, 2}
    for row in found:
        x, y, z = (float(row[name]) for name in "xyz")
        assert [float(row[f"{name}_lps"]) for name in "xyz"] == pytest.approx([-x, -y, z])
    report = json.loads((folder / "report.json").read_text())
    assert set(report["files"]) == {*FILES, "edit.nii.gz"} - {"report.json"}
    assert {"lefusion", "seconds", "peak_memory_mb", "device", "weights_sha256", "settings"} <= set(report)
    said = capsys.readouterr().out
    assert f"{folder}: edit.nii.gz, image.nii.gz" in said
    named = [line.split()[1].split("/")[-1] for line in said.splitlines() if line.startswith("weights: ")]
    assert set(named) == set(report["weights_sha256"])  # those that paint, and those that make masks
    assert f"wrote {tmp_path / 'out' / 'viewer.html'} (" in said and (tmp_path / "out/viewer.html").is_file()


def test_a_table_can_be_read_as_sites(chest, settings, tmp_path):
    path = chest()
    (folder,) = run(settings(input=path, lesions=2, diameter_mm=5))
    sites = read_sites(folder / "lesions.csv")
    assert [site.texture for site in sites] == [row["texture"] for row in rows(folder)]
    (again,) = run(settings(input=path, sites=folder / "lesions.csv", output=tmp_path / "again", seed=5))
    moved = [
        np.subtract(site.world, [float(row[n]) for n in "xyz"])
        for site, row in zip(sites, rows(again), strict=True)
    ]
    assert np.linalg.norm(moved, axis=1).max() < 4


def test_finished_scans_are_kept_and_others_made_again_bit_for_bit(chest, settings, files, tmp_path, capsys):
    scans = chest().parent
    chest("RAS", "B.nii", seed=1)
    asked = settings(input=scans, lesions=1)
    run(asked)
    whole = files(tmp_path / "out")
    assert set(whole) == {f"A/{name}" for name in FILES} | {
        f"B/{name.replace('image.nii.gz', 'image.nii')}" for name in FILES
    }
    (tmp_path / "out/A/report.json").unlink()  # as after a kill
    (tmp_path / "out/A/image.nii.gz").write_bytes(b"half")
    (tmp_path / "out/B/labels.nii.gz").write_bytes(b"changed")
    run(asked)
    said = capsys.readouterr().out
    assert "2 due, 0 finished" in said and "made again, as written files have changed: B\n" in said
    again = files(tmp_path / "out")
    assert without_report(again) == without_report(whole)
    run(asked)
    assert "0 due, 2 finished" in capsys.readouterr().out and files(tmp_path / "out") == again
    run(settings(input=scans, lesions=1, seed=1, save_edit_mask=True))
    assert (tmp_path / "out/A/edit.nii.gz").is_file()
    run(settings(input=scans, lesions=1, seed=1))
    assert not (tmp_path / "out/A/edit.nii.gz").exists()
    assert "made again, as scan, sites, weights or settings have changed: A, B" in capsys.readouterr().out
    assert without_report(files(tmp_path / "out")) != without_report(whole)


def test_a_scan_gets_its_lesions_whatever_the_others(chest, settings, files, tmp_path):
    path = chest()
    run(settings(input=path, lesions=1, output=tmp_path / "alone"))
    chest("SPL", "0.nii.gz", seed=1)
    run(settings(input=path.parent, lesions=1, output=tmp_path / "both"))
    assert without_report(files(tmp_path / "alone/A")) == without_report(files(tmp_path / "both/A"))


def test_versions_are_different_scans(chest, settings, files, tmp_path):
    folders = run(settings(input=chest(), lesions=1, versions=2))
    assert [folder.name for folder in folders] == ["A_v1", "A_v2"]
    one, two = (files(folder) for folder in folders)
    assert one["image.nii.gz"] != two["image.nii.gz"]
    (single,) = run(settings(input=chest(), lesions=1, output=tmp_path / "one"))
    assert without_report(files(single)) == without_report(one)


def test_sites_of_several_scans(chest, settings, tmp_path):
    path = chest()
    chest("LPS", "B.nii.gz", seed=1)
    table = tmp_path / "sites.csv"
    table.write_text("i,j,k,diameter_mm,scan\n26,24,10,5,A\n26,24,8,5,B\n26,10,8,5,B\n")
    folders = run(settings(input=path.parent, sites=table))
    assert [len(rows(folder)) for folder in folders] == [1, 2]
    table.write_text("i,j,k,scan\n26,24,10,A\n")
    with pytest.raises(UserError, match="has no site for the scan B"):
        run(settings(input=path.parent, sites=table))
    table.write_text("i,j,k,scan\n26,24,10,C\n")
    with pytest.raises(UserError, match="line 2.*scan=C is none of the scans: A, B"):
        run(settings(input=path.parent, sites=table))
    table.write_text("i,j,k\n26,24,10\n")
    with pytest.raises(UserError, match="there are 2 scans; say in the column scan which it is"):
        run(settings(input=path.parent, sites=table))


def test_masks_in_one_file_or_in_several(chest, settings, tmp_path):
    path = chest()
    volume = read_volume(path)
    labels = np.zeros(volume.raw.shape, np.uint8)
    labels[22:28, 20:25, 8:12], labels[32:36, 30:35, 8:12] = 1, 2
    write_label_like(volume, labels, tmp_path / "instances.nii.gz")
    for number in (1, 2):
        write_label_like(volume, labels == number, tmp_path / "apart" / f"m{number}.nii.gz")
        write_label_like(volume, labels == number, tmp_path / "scans_of" / "A" / f"m{number}.nii.gz")
    found = []
    for masks in ("instances.nii.gz", "apart", "scans_of"):
        (folder,) = run(settings(input=path, masks=tmp_path / masks, output=tmp_path / f"out of {masks}"))
        found.append((folder / "labels.nii.gz").read_bytes())
        assert np.array_equal(read_volume(folder / "labels.nii.gz").raw, labels)
    assert found[0] == found[1] == found[2]


def test_what_does_not_go_together_is_refused(chest, settings, tmp_path):
    path = chest()
    with pytest.raises(UserError, match="lesions and sites both say where lesions are; give one of them"):
        run(settings(input=path, lesions=2, sites="a.csv"))
    with pytest.raises(UserError, match="masks=.*nowhere: no such file or folder"):
        run(settings(input=path, masks=tmp_path / "nowhere"))
    with pytest.raises(UserError, match="diameter_mm=8: the lesions of masks=.* have their sizes"):
        run(settings(input=path, masks=path, diameter_mm=8))
    with pytest.raises(UserError, match="output=.* lies "):
        run(settings(input=path.parent, output=path.parent / "out"))
    assert not (tmp_path / "out").exists()


def test_an_unknown_texture_is_refused_before_anything_is_made(chest, settings, tmp_path):
    path = chest()
    with pytest.raises(UserError, match="^texture=soild must be realistic, mixture, or one of the"):
        run(settings(input=path, texture="soild"))
    with pytest.raises(UserError, match="^texture_score=5 leaves no ground-glass lesion"):
        run(settings(input=path, texture="ground-glass", texture_score=5))
    (tmp_path / "sites.csv").write_text("i,j,k,texture\n26,24,10,solid\n26,24,10,9\n")
    with pytest.raises(UserError, match="line 3 .i=26, j=24, k=10.: texture=9 must be"):
        run(settings(input=path, sites=tmp_path / "sites.csv"))
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_where_a_site_is_wrong(chest, settings, tmp_path):
    table = tmp_path / "sites.csv"
    table.write_text("i,j,k\n26,24,10\n2,24,10\n")
    with pytest.raises(UserError, match="line 3 .i=2, j=24, k=10.: the site lies outside the lung"):
        run(settings(input=chest(), sites=table))
    assert not (tmp_path / "out").exists()


def test_a_probability_map_is_no_mask(chest, settings, tmp_path):
    source = read_volume(chest())
    for value in (0.6, -1.0):
        soft = np.zeros(source.raw.shape, np.float32)
        soft[20:24, 20:24, 8:12] = value
        nibabel.save(nibabel.Nifti1Image(soft, source.affine), tmp_path / "soft.nii.gz")
        with pytest.raises(UserError, match=rf"soft.nii.gz: holds {value:g}, which is no label"):
            run(settings(input=source.path, masks=tmp_path / "soft.nii.gz"))


def test_masks_of_a_data_set_are_no_scans(chest, settings, tmp_path):
    chest(name="set/Image/A.nii.gz")
    chest(name="set/Mask/B.nii.gz")
    with pytest.raises(
        UserError, match=r"input=.*: .*Mask/B.nii.gz is a mask.* give the folder of scans .*/set/Image"
    ):
        run(settings(input=tmp_path / "scans"))
