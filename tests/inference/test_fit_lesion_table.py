"""The command that fits textures of real lesions: from a tiny table and tiny regions to the file."""

import sys

import nibabel
import numpy as np
import pandas as pd
import pytest

import LeFusion.inference.fit_lesion_table as fit
from LeFusion.textures.realistic import read_lesion_table

BINS = [f"h{i:02d}" for i in range(16)]
SLOPE, INTERCEPT = 0.9, -40.0  # HU of the table -> HU of the regions


@pytest.fixture
def table():
    """Six nodules of three patients, of which P3 has a test case; one intensity each."""
    rows = []
    for number, (patient, texture) in enumerate(
        [("P1", 1), ("P1", 3), ("P2", 5), ("P2", 2), ("P3", 4), ("P3", 5)]
    ):
        shares = np.zeros(16)
        shares[3 + 2 * number] = 1
        rows.append(
            [f"{patient}_R_{number}", patient, 100.0 * (number + 1), texture, *shares],
        )
    return pd.DataFrame(rows, columns=["name", "patient", "volume_mm3", "texture", *BINS])


@pytest.fixture
def run(table, tmp_path, monkeypatch, capsys):
    """-> run(table): exit code, stdout, stderr; regions of P1 and P3 have intensities on the line."""
    regions = tmp_path / "regions"
    for row in table[table.patient != "P2"].itertuples():
        low = -1000 + 87.5 * (3 + 2 * row.Index)
        image = np.full((12, 12, 12), -900.0, np.float32)
        mask = np.zeros(image.shape, np.uint8)
        mask[1:11, 1:11, 1:11] = 1
        image[mask == 1] = SLOPE * (low + 87.5 * (np.arange(1000) + 0.5) / 1000) + INTERCEPT
        for kind, part, array in (("Image", "Vol", image), ("Mask", "Mask", mask)):
            (regions / kind).mkdir(parents=True, exist_ok=True)
            path = regions / kind / f"{row.name.replace('_R_', f'_{part}_')}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    (regions / "test.txt").write_text("P3_Vol_5\n")

    def call(table):
        table.to_csv(tmp_path / "t.csv", index=False)
        arguments = [tmp_path / "t.csv", "--regions", regions, "--output", tmp_path / "new" / "out.json"]
        monkeypatch.setattr(sys, "argv", ["fit_lesion_table", *map(str, arguments)])
        code = 0
        try:
            fit.main()
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call


def test_the_table_is_moved_onto_the_regions_and_holds_no_test_patient(run, table, tmp_path):
    code, out, error = run(table)
    assert code == 0, error
    assert "3 nodules are in both" in out  # two of P1 and the one of P3 that is no test case
    assert f"{SLOPE:.3f} x HU of the table {INTERCEPT:+.1f}" in out
    assert "wrote 4 nodules of 2 patients" in out
    lesions = read_lesion_table(tmp_path / "new" / "out.json")
    assert lesions.textures == ("ground-glass", "part-solid", "solid")
    assert lesions.texture.tolist() == [0, 1, 2, 0] and lesions.volume_mm3.tolist() == [100, 200, 300, 400]
    middles = -1000 + 87.5 * (np.arange(16) + 0.5)
    for number, histogram in enumerate(lesions.histograms):
        wanted = SLOPE * middles[3 + 2 * number] + INTERCEPT
        assert float(histogram @ middles) == pytest.approx(wanted, abs=20)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda table: table.drop(columns="h07"), ["t.csv", "h07"]),
        (lambda table: table.assign(texture=6), ["t.csv", "texture", "1 to 5"]),
        (lambda table: table.assign(volume_mm3=0), ["t.csv", "volume_mm3"]),
        (lambda table: table.assign(h00=np.nan), ["t.csv", "h00"]),
        (lambda table: table.assign(name="other"), ["regions", "none of the table's nodules"]),
        (lambda table: table.assign(patient="P3"), ["t.csv", "test"]),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(run, table, tmp_path, change, words):
    code, _, error = run(change(table))
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert not (tmp_path / "new").exists()
