"""The command that fits textures of real lesions: from a tiny table and tiny regions to the file."""

import sys

import nibabel
import numpy as np
import pandas as pd
import pytest

import LeFusion.inference.fit_lesion_table as fit
from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.loading import load_case
from LeFusion.textures.layers import DEPTHS_MM
from LeFusion.textures.surroundings import look_around
from LeFusion.textures.table_files import read_lesion_table

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

    def call(table, kind="--nodules"):
        table.to_csv(tmp_path / "t.csv", index=False)
        arguments = [regions, kind, tmp_path / "t.csv", "--output", tmp_path / "new" / "out.json"]
        monkeypatch.setattr(sys, "argv", ["fit_lesion_table", *map(str, arguments)])
        code = 0
        try:
            fit.main()
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call


def middles(histograms):
    """Mean HU of histograms (N, 16)."""
    return histograms @ (-1000 + 87.5 * (np.arange(16) + 0.5))


def test_nodules_are_moved_onto_the_regions_without_patients_of_test_cases(run, table, tmp_path):
    code, out, error = run(table)
    assert code == 0, error
    assert "wrote 4 lesions (2 ground-glass, 1 part-solid, 1 solid)" in out
    lesions = read_lesion_table(tmp_path / "new" / "out.json")
    assert lesions.textures == ("ground-glass", "part-solid", "solid")
    assert lesions.texture.tolist() == [0, 1, 2, 0] and lesions.volume_mm3.tolist() == [100, 200, 300, 400]
    assert f"{SLOPE:.3f} {INTERCEPT:+.1f} (from 2 in both)" in lesions.voxels
    wanted = SLOPE * middles(table[BINS].to_numpy()[:4]) + INTERCEPT
    assert middles(lesions.histograms) == pytest.approx(wanted, abs=20)


def test_the_regions_own_lesions_without_test_cases(run, table, tmp_path):
    scores = table.assign(name=table["name"].str.replace("_R_", "_Vol_"), texture=[1, 3, 5, 2, 5, 5])
    code, out, error = run(scores, "--scores")
    assert code == 0, error
    lesions = read_lesion_table(tmp_path / "new" / "out.json")
    assert lesions.texture.tolist() == [0, 1, 2]
    assert lesions.volume_mm3.tolist() == [1000] * 3
    assert list(lesions.scores) == ["texture_score"]


def test_a_lesion_with_a_cavity_is_left_out(run, table, tmp_path):
    scores = table.assign(name=table["name"].str.replace("_R_", "_Vol_"), texture=[1, 3, 5, 2, 5, 5])
    assert run(scores, "--scores")[0] == 0
    path = tmp_path / "regions" / "Image" / "P3_Vol_4.nii.gz"
    image = nibabel.load(path).get_fdata(dtype=np.float32)
    image[4:8, 4:8, 4:8] = -1000  # the innermost layer
    nibabel.save(nibabel.Nifti1Image(image, np.eye(4)), path)
    cases = find_cases(tmp_path / "regions", fit.LIDC.layout, tmp_path / "regions" / "test.txt", "train")
    assert [case.name for case in cases] == ["P1_Vol_0", "P1_Vol_1", "P3_Vol_4"]
    assert fit.of_regions(cases, tmp_path / "t.csv").texture.tolist() == [0, 1]


def test_voxels_next_to_a_wall_are_no_border_and_left_out(tmp_path):
    """A nodule of 0 HU whose rim towards the lung has -400, and whose mask took in some of a rib."""
    image = np.random.default_rng(0).normal(-850, 10, (40, 40, 40)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    mask[15:25, 15:25, 15:25] = 1
    image[mask == 1], image[16:24, 16:24, 16:25] = -400, 0
    image[15:25, 15:25, 24] = 300
    image[:, :, 25:32] = 300
    for kind, part, array in (("Image", "Vol", image), ("Mask", "Mask", mask)):
        (tmp_path / kind).mkdir()
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / kind / f"A_{part}_0.nii.gz")
    (case,) = find_cases(tmp_path, fit.LIDC.layout)
    loaded = load_case(case, fit.LIDC.layout, fit.WINDOW)
    layers = fit._layers(loaded, look_around(loaded, loaded.all_lesions))
    hu = np.linspace(*fit.WINDOW, layers.shape[1] + 1)
    assert layers.sum() == pytest.approx(1) and not layers[:, hu[:-1] > 100].any()
    middles, of_sum = (hu[:-1] + hu[1:]) / 2, layers.sum(axis=0)
    assert of_sum[middles < -200].sum() == pytest.approx((900 - 8**3) / 900, abs=0.01)
    rim = fit._rim(loaded, look_around(loaded, loaded.all_lesions))
    assert rim.sum(axis=1) == pytest.approx(np.ones(len(rim))) and not rim[:, hu[:-1] > -700].any()
    inside = layers[np.digitize(1.0, DEPTHS_MM) :].sum(axis=0)  # at the wall, too, it is nodule
    assert inside.sum() > 0.4 and inside @ middles / inside.sum() == pytest.approx(0, abs=15)


def test_scores_go_with_their_lesions(run, table, tmp_path):
    """In the order of the regions, whatever that of the table; an empty cell is not known."""
    scores = table.assign(
        name=table["name"].str.replace("_R_", "_Vol_"), spiculation=[1, 2, 3, 4, 5, 5], calcification=6
    )
    scores.loc[1, "calcification"] = np.nan
    code, _, error = run(scores[::-1].assign(texture=[5, 5, 2, 5, 3, 1]), "--scores")
    assert code == 0, error
    found = read_lesion_table(tmp_path / "new" / "out.json").scores
    assert {name: values.tolist() for name, values in found.items()} == {
        "texture_score": [1, 3, 5],
        "spiculation": [1, 2, 5],
        "calcification": [6, 0, 6],
    }


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda table: table.drop(columns="h07"), ["t.csv", "h07"]),
        (lambda table: table.assign(texture=6), ["t.csv", "texture 6", "1 to 5"]),
        (lambda table: table.assign(margin=0.5), ["t.csv", "margin 0.5", "1 to 5"]),
        (lambda table: table.assign(texture=5), ["t.csv", "no ground-glass lesion"]),
        (lambda table: table.assign(name="other"), ["t.csv", "no nodule of it is one of the regions"]),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(run, table, tmp_path, change, words):
    code, _, error = run(change(table))
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(word in error for word in words), error
    assert not (tmp_path / "new").exists()


def test_a_region_without_score_is_named(run, table, tmp_path):
    code, _, error = run(table[["name", "texture"]], "--scores")
    assert code == 1 and error.startswith("error: ") and "has no row for P1_Vol_0" in error


def test_hearts_become_a_table_relative_to_their_tissue(tmp_path, monkeypatch, capsys):
    """Three hearts of other contrast and noise, each with an infarct halfway between muscle and blood."""
    for number in range(3):
        noise = np.random.default_rng(number).normal(0, 4 * (number + 1), (24, 24, 3))
        labels = np.zeros((24, 24, 3), np.uint8)
        labels[3:21, 3:21], labels[8:16, 8:16], labels[3:6, 8:16] = 2, 1, 3
        image = np.choose(labels, (0, 300 * (number + 1), 100 * (number + 1), 200 * (number + 1))) + noise
        image[0, 0, 0], image[0, 1, 0] = -50, 1000 * (number + 1)
        for kind, array in (("images", image), ("labels", labels)):
            (tmp_path / "P" / kind).mkdir(parents=True, exist_ok=True)
            path = tmp_path / "P" / kind / f"Case_P00{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.5, 1.5, 10, 1])), path)
    (tmp_path / "test.txt").write_text("Case_P002\n")
    arguments = [
        tmp_path / "P",
        "--hearts",
        "--test-txt",
        tmp_path / "test.txt",
        "--output",
        tmp_path / "t.json",
    ]
    monkeypatch.setattr(sys, "argv", ["fit_lesion_table", *map(str, arguments)])
    fit.main()
    assert "wrote 2 lesions (2 infarct)" in capsys.readouterr().out
    table = read_lesion_table(tmp_path / "t.json")
    assert (table.data_type, table.classes) == ("emidec", 2)
    histograms = table.layers
    assert not histograms[:, 1].any()  # no no-reflow
    means = histograms[:, 0] @ np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    # 100 above the muscle in units of sqrt(200 x 4); the other heart has twice the contrast and noise
    assert means == pytest.approx(100 / np.sqrt(200 * 4), rel=0.1)
    assert table.volume_mm3 == pytest.approx(3 * 8 * 3 * 1.5 * 1.5 * 10)
