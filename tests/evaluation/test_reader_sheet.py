"""The sheet for readers: half painted, shuffled, its key right; answers are counted."""

import csv
import shutil
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from evaluation_pipeline import reader_sheet
from LeFusion.data_types import load_data_type

SHAPE = (10, 20, 20)


@pytest.fixture
def data(tmp_path):
    """Six real lesions and two painted ones in each of four places; the real ones are bright, others dark."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:7, 8:12, 8:13] = 1
    for number in range(6):
        save(tmp_path / f"real/Image/R-{number}_Vol_1.nii.gz", np.where(mask, 100, -800 + number))
        save(tmp_path / f"real/Mask/R-{number}_Mask_1.nii.gz", mask)
    for number in range(4):
        for kind in (1, 2):
            save(tmp_path / f"out/Image/Image_{kind}/N-{number}_CVol_1.nii.gz", np.where(mask, -500, -800))
            save(tmp_path / f"out/Mask/Mask_{kind}/N-{number}_Mask_1.nii.gz", mask)
    return tmp_path


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.eye(4)), path)


@pytest.fixture
def call(data, capsys):
    """-> call(*arguments): (exit code, stdout, stderr)."""

    def run(*arguments, folders=True):
        given = ["--real_dir", data / "real", "--synthetic_dir", data / "out"] if folders else []
        code = 0
        try:
            reader_sheet.main([*map(str, given), *map(str, arguments)])
        except SystemExit as stopped:
            code = stopped.code or 0
        return code, *capsys.readouterr()

    return run


def key_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_half_of_a_sheet_is_painted_and_its_key_says_which(call, data):
    code, out, error = call("--lesions", 7, "--output", data / "new" / "sheet.png")
    assert code == 0, error
    assert "wrote" in out and "3 painted of 7" in out
    assert (data / "new" / "sheet.png").read_bytes().startswith(b"\x89PNG")
    rows = key_of(data / "new" / "sheet_key.csv")
    assert [row["number"] for row in rows] == [str(n) for n in range(1, 8)]
    assert sum(row["lesion"] == "painted" for row in rows) == 3
    assert len({row["case"] for row in rows}) == 7
    assert all((row["lesion"] == "painted") == row["case"].startswith("N-") for row in rows)


def test_no_case_is_shown_real_and_painted(call, data):
    """Four places are painted, two of real cases; of eight on the sheet, four are real, and there are six."""
    for number in range(2):
        for kind in (1, 2):
            for path in data.glob(f"out/*/*_{kind}/N-{number}_*"):
                path.rename(path.with_name(path.name.replace("N-", "R-").replace("CVol", "Vol")))
    for seed in range(5):
        assert call("--lesions", 8, "--output", data / "sheet.png", "--seed", seed)[0] == 0
        of = {
            kind: {row["case"] for row in key_of(data / "sheet_key.csv") if row["lesion"] == kind}
            for kind in ("real", "painted")
        }
        assert len(of["real"]) == 4 and not of["real"] & of["painted"]
    code, _, error = call("--lesions", 9, "--output", data / "other.png")
    assert code and "not painted on the sheet" in error


def test_real_lesions_may_be_of_scans_as_noisy_as_the_painted_ones(call, data):
    """Of six real scans two are as noisy; the others have less or more."""
    generator = np.random.default_rng(0)
    mask = np.zeros((24, 24, 24), np.uint8)
    mask[10:14, 10:14, 10:14] = 1
    shutil.rmtree(data / "out")
    for number, noise in enumerate((5, 40, 10, 42, 90, 3)):
        save(data / f"real/Image/R-{number}_Vol_1.nii.gz", generator.normal(-800, noise, mask.shape))
        save(data / f"real/Mask/R-{number}_Mask_1.nii.gz", mask)
    for number in range(2):
        save(data / f"out/Image/Image_1/N-{number}_CVol_1.nii.gz", generator.normal(-800, 41, mask.shape))
        save(data / f"out/Mask/Mask_1/N-{number}_Mask_1.nii.gz", mask)
    code, _, error = call("--lesions", 4, "--like_scans", 2, "--output", data / "sheet.png")
    assert code == 0, error
    cases = {row["case"] for row in key_of(data / "sheet_key.csv") if row["lesion"] == "real"}
    assert cases == {"R-1_Vol_1", "R-3_Vol_1"}
    code, _, error = call("--lesions", 4, "--like_scans", 7, "--output", data / "other.png")
    assert code and "--like_scans 7: the noise of 6 of the real lesions' scans can be told" in error


def test_a_scan_that_is_not_known_along_each_axis_is_like_none(call, data, monkeypatch):
    around = reader_sheet.look_around
    monkeypatch.setattr(
        reader_sheet, "look_around", lambda *given: replace(around(*given), rough=(0.0, 1.0, 1.0))
    )
    code, _, error = call("--lesions", 4, "--like_scans", 2, "--output", data / "sheet.png")
    assert code and "--like_scans 2: the noise of 0 of the real lesions' scans can be told" in error


def test_a_seed_gives_its_sheet_and_another_one_another(call, data):
    keys = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert call("--lesions", 6, "--output", data / f"{name}.png", "--seed", seed)[0] == 0
        keys.append(key_of(data / f"{name}_key.csv"))
    assert keys[0] == keys[1] != keys[2]
    assert (data / "a.png").read_bytes() == (data / "b.png").read_bytes()


def test_panels_show_the_lesion_in_the_middle_of_three_planes_and_two_windows(data):
    mask = data / "out/Mask/Mask_1/N-0_Mask_1.nii.gz"
    image = data / "out/Image/Image_1/N-0_CVol_1.nii.gz"
    lidc = load_data_type("lidc")
    lesion, _, _ = reader_sheet.read_lesion(image, mask, lidc, "N", 1)
    strip = reader_sheet._strip(lesion, lidc)
    side = strip.shape[0]
    assert strip.shape[1] == 6 * side
    middle = side // 2
    levels = [strip[middle, panel * side + middle] for panel in range(6)]
    assert levels == pytest.approx([500 / 1400] * 3 + [0] * 3)


def test_right_answers_are_counted_with_an_interval(call, data):
    call("--lesions", 8, "--output", data / "s.png")
    rows = key_of(data / "s_key.csv")
    painted = [row["number"] for row in rows if row["lesion"] == "painted"]
    code, out, _ = call("--key", data / "s_key.csv", "--painted", *painted, folders=False)
    assert code == 0 and "8 of 8 right: 100% [" in out
    _, out, _ = call("--key", data / "s_key.csv", "--painted", folders=False)
    assert "4 of 8 right" in out


@pytest.mark.parametrize(
    "arguments, folders, words",
    [
        (["--lesions", "20"], True, ["--lesions 20", "out", "which has 4"]),
        (["--lesions", "1"], True, ["--lesions 1", "needs 0"]),
        ([], False, ["--real_dir is missing"]),
        (["--key", "none.csv", "--painted", "1"], False, ["none.csv", "no such key"]),
        (["--key", "none.csv"], False, ["--painted"]),
    ],
)
def test_mistakes_are_one_line(call, tmp_path, monkeypatch, arguments, folders, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = call(*arguments, folders=folders)
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert not (tmp_path / "reader_sheet.png").exists()


def test_a_number_that_the_sheet_lacks_is_refused(call, data):
    call("--lesions", 4, "--output", data / "s.png")
    code, _, error = call("--key", data / "s_key.csv", "--painted", "9", folders=False)
    assert code == 1 and "the sheet has the numbers 1 to 4" in error
