"""A folder of scans of which some cannot be used: the command stops early, or goes on without them."""

import pytest

import LeFusion.insertion.run as insertion
from LeFusion.dataset.scans import read_volume, write_label_like
from LeFusion.errors import UserError
from LeFusion.insertion.run import run

HINT = "(skip_bad_cases=true goes on without such cases)"


@pytest.fixture
def folder(chest):
    """A, B (cut short) and C."""
    for number, name in enumerate("ABC"):
        path = chest(name=f"{name}.nii.gz", seed=number)
    bad = path.with_name("B.nii.gz")
    bad.write_bytes(bad.read_bytes()[:2000])
    return path.parent


def written(tmp_path):
    return {path.name for path in (tmp_path / "out").iterdir()}


def test_a_damaged_scan_stops_the_run_before_a_lesion_is_made(folder, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(insertion, "insert_lesions", lambda *given, **more: pytest.fail("made lesions"))
    with pytest.raises(UserError) as caught:
        run(settings(input=folder, lesions=1))
    assert str(folder / "B.nii.gz") in str(caught.value) and str(caught.value).endswith(HINT)
    assert not (tmp_path / "out").exists()


def test_bad_scans_are_passed_over_on_request(folder, settings, files, tmp_path, capsys):
    made = run(settings(input=folder, lesions=1, skip_bad_cases=True, viewer=True))
    said = capsys.readouterr().out
    assert [path.name for path in made] == ["A", "C"] and written(tmp_path) == {"A", "C", "viewer.html"}
    assert said.count(f"skipped: {folder / 'B.nii.gz'}: ") == 1 and "1 skipped:" in said
    run(settings(input=folder / "C.nii.gz", lesions=1, output=tmp_path / "alone"))
    alone, beside = files(tmp_path / "alone/C"), files(tmp_path / "out/C")
    assert all(alone[name] == beside[name] for name in alone if name != "report.json")
    (folder / "B.nii.gz").write_bytes((folder / "A.nii.gz").read_bytes())
    run(settings(input=folder, lesions=1))  # B is mended: it is made, the others are kept
    assert "1 due, 2 finished" in capsys.readouterr().out


def test_a_scan_without_its_mask_is_passed_over_on_request(folder, settings, tmp_path, capsys):
    (folder / "B.nii.gz").unlink()
    volume = read_volume(folder / "A.nii.gz")
    label = (volume.raw * 0).astype("uint8")
    label[22:28, 20:25, 8:12] = 1
    write_label_like(volume, label, tmp_path / "masks/A.nii.gz")
    asked = {"input": folder, "masks": tmp_path / "masks"}
    with pytest.raises(UserError, match="holds no C.nii.gz") as caught:
        run(settings(**asked))
    assert str(caught.value).endswith(HINT)
    assert [path.name for path in run(settings(**asked, skip_bad_cases=True))] == ["A"]


def test_no_usable_scan_is_an_error(folder, settings, tmp_path):
    for name in "AC":
        (folder / f"{name}.nii.gz").write_bytes(b"")
    with pytest.raises(UserError, match="^no usable scan: .*A.nii.gz"):
        run(settings(input=folder, lesions=1, skip_bad_cases=True))
    assert not (tmp_path / "out").exists()


def test_a_single_scan_gets_no_hint_of_others(folder, settings):
    with pytest.raises(UserError, match="B.nii.gz") as caught:
        run(settings(input=folder / "B.nii.gz", lesions=1))
    assert "skip_bad_cases" not in str(caught.value)
