"""Comparing experiments: pairing, runs of one experiment, tables, pictures, and what cannot be compared."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from evaluation_pipeline import compare
from evaluation_pipeline.judging import results
from evaluation_pipeline.judging.experiments import compare as compare_experiments
from evaluation_pipeline.judging.experiments import read_experiments
from evaluation_pipeline.segmentation.predictions import fingerprint

PATIENTS = 12
BASE = np.random.default_rng(0).uniform(0.4, 0.8, PATIENTS)


def case_rows(experiment: str, model: str, dice, files: Path, class_name="all", start=0) -> list[dict]:
    return [
        {
            "Experiment Name": experiment,
            "Model": model,
            "Case": f"P{number:02d}_Vol_1",
            "Patient": f"P{number:02d}",
            "Class": class_name,
            "Labels": "1",
            "Image": str(files / "image.nii.gz"),
            "Label": str(files / "label.nii.gz"),
            "Prediction": str(files / "prediction.nii.gz"),
            "Dice": float(value),
            "HD95 mm": 20 * (1 - float(value)),
            "NSD 1 mm": float(value) ** 2,
            "Lesion Precision": math.nan,
            "Volume ml": 1.0,
        }
        for number, value in enumerate(dice, start=start)
    ]


@pytest.fixture
def add(tmp_path):
    """-> add(experiment, dice, model="UNet", **more): judged, into tmp_path / results.csv."""

    def write(experiment: str, dice, model: str = "UNet", **more) -> Path:
        table = tmp_path / "results.csv"
        rows = case_rows(experiment, model, dice, tmp_path / "files", **more)
        results.write_cases(table, rows)
        results.append_rows(table, results.summarise(rows, (1,)))
        return table

    return write


@pytest.fixture
def table(add, tmp_path) -> Path:
    """P, better Q (+0.05 on average), and R = P."""
    for name in ("image", "label", "prediction"):
        array = np.zeros((6, 16, 16), np.uint8)
        array[2:4, 4:9, 5:9] = 1
        (tmp_path / "files").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "files" / f"{name}.nii.gz")
    add("P", BASE)
    add("Q_&%", BASE + np.linspace(0.01, 0.09, PATIENTS))
    return add("R", BASE)


@pytest.fixture
def command(capsys, monkeypatch):
    """-> command(table, *options, picture=False): (exit code, stdout, stderr).

    Drawing takes most of the time.
    """

    def call(table: Path, *options: str, picture=False) -> tuple[int, str, str]:
        if not picture:
            monkeypatch.setattr(compare, "save_box_plot", lambda *given: None)
            monkeypatch.setattr(compare, "save_cases_sheet", lambda *given: None)
        capsys.readouterr()
        code = 0
        try:
            compare.main(["--results_csv", str(table), *map(str, options)])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_differences_from_the_baseline(table, command, tmp_path):
    code, out, _ = command(table, "--baseline", "P", picture=True)
    assert code == 0
    folder = tmp_path / "results_comparison"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.csv",
        "comparison.md",
        "comparison.png",
        "comparison.tex",
        "worst_cases.png",
    ]
    p, q, r = read_csv(folder / "comparison.csv")
    assert (p["Experiment"], p["difference"], p["p"], p["n"], p["patients"]) == ("P", "", "", "12", "12")
    assert float(q["difference"]) == pytest.approx(0.05, abs=1e-6)
    assert 0.03 < float(q["difference low"]) < 0.05 < float(q["difference high"]) < 0.07
    assert float(q["p"]) == pytest.approx(2 / 2**12)
    assert [float(r[name]) for name in ("difference", "difference low", "p")] == [0, 0, 1]
    assert float(q["Dice"]) == pytest.approx(BASE.mean() + 0.05, abs=1e-6)
    assert "| Dice - P " in out and "0.050 [0." in out and "< 0.001" in out and "baseline" in out
    assert (folder / "comparison.md").read_text().strip() in out
    assert all((folder / name).stat().st_size > 5000 for name in ("comparison.png", "worst_cases.png"))


def test_latex(table, command, tmp_path):
    command(table, "--baseline", "P", "--output_dir", tmp_path / "out")
    lines = (tmp_path / "out" / "comparison.tex").read_text().splitlines()
    rows = [line for line in lines if line.endswith(r"\\")]
    columns = rows[0].count("&")
    assert len(rows) == 4 and all(row.replace(r"\&", "").count("&") == columns for row in rows)
    assert r"  Q\_\&\% & 12 & " in rows[2]
    assert lines[0] == rf"\begin{{tabular}}{{l{'r' * columns}}}" and lines[-1] == r"\end{tabular}"
    assert compare.latex_table(["a"], [["\\~^{}$#"]]).splitlines()[4] == (
        r"  \textbackslash{}\textasciitilde{}\textasciicircum{}\{\}\$\# \\"
    )


def test_latex_shows_minus_and_less_than_as_such():
    """In LaTeX's default fonts a `<` of the text is an inverted exclamation mark, a `-` a hyphen."""
    shown = {
        "< 0.001": "$<$ 0.001",
        "-0.02 [-0.04, -0.01]": "$-$0.02 [$-$0.04, $-$0.01]",
        "Dice - P-1_seed0": r"Dice $-$ P-1\_seed0",
        "-": "--",
        "[P]": "{}[P]",  # after a line break of the table it would be the break's option
    }
    assert {text: compare.latex_text(text) for text in shown} == shown


def test_chosen_experiments_and_metric(table, command):
    code, out, _ = command(table, "--experiments", "R", "P", "--metric", "HD95 mm", "--baseline", "R")
    assert code == 0 and "Q_" not in out and "HD95 mm - R" in out
    assert out.index("| R ") < out.index("| P ")
    code, out, _ = command(table, "--experiments", "Q_&%", "--baseline", "P")
    assert out.index("| P ") < out.index("| Q_&%")  # the baseline is shown, too


def test_without_baseline(table, command):
    code, out, _ = command(table)
    assert code == 0 and "| Dice" in out and " - " not in out.splitlines()[0]


def test_runs_of_an_experiment_are_averaged_case_by_case(add, command, tmp_path):
    noise = np.random.default_rng(1).normal(0, 0.1, (3, PATIENTS))
    noise -= noise.mean(axis=0)
    for seed in range(3):
        add(f"P_seed{seed}", BASE + noise[seed])
        add(f"P+N'_seed{seed}", BASE + 0.02 - noise[seed])
    table = add("other", BASE)
    code, out, _ = command(table, "--group_by_prefix", "--baseline", "P")
    assert code == 0 and "SD of runs" in out and "| runs" in out
    assert out.count("note: ") == 1
    assert "note: other is the mean of one run but P of _seed0, _seed1, _seed2: the runs differ" in out
    p, q, other = read_csv(tmp_path / "results_comparison" / "comparison.csv")
    assert (p["runs"], q["runs"], other["runs"]) == ("3", "3", "1")
    # the noise of the seeds is gone, so that every case differs by 0.02
    assert [float(q[f"difference{end}"]) for end in ("", " low", " high")] == pytest.approx([0.02] * 3)
    assert float(p["Dice"]) == pytest.approx(BASE.mean(), abs=1e-6)
    expected = np.std(noise.mean(axis=1), ddof=1)
    assert float(p["SD of runs"]) == pytest.approx(expected, abs=1e-5) and other["SD of runs"] == ""
    assert "3 of the worst" not in out and "0 of the worst cases are shown" in out


def test_own_pattern_of_runs(add):
    add("P-a", BASE)
    table = add("P-b", BASE)
    (group,) = read_experiments(table, run_endings="-[ab]$")
    assert (group.name, len(group.runs)) == ("P", 2)
    assert [e.name for e in read_experiments(table)] == ["P-a", "P-b"]


@pytest.mark.parametrize("name", ["P_seed0", "P_fold12", "P-run3", "P_seed_1"])
def test_usual_names_of_runs(add, name):
    table = add(name, BASE)
    assert read_experiments(table, run_endings=compare.RUN_ENDINGS)[0].name == "P"


def test_models_are_compared_with_their_own_baseline(add, command, tmp_path):
    for model, level in (("UNet", 0), ("nnUNet", 0.1)):
        add("P", BASE + level, model)
        table = add("Q", BASE + level + 0.03, model)
    code, out, _ = command(table, "--baseline", "P")
    rows = read_csv(tmp_path / "results_comparison" / "comparison.csv")
    assert [(row["Model"], row["Experiment"]) for row in rows] == [
        ("UNet", "P"),
        ("UNet", "Q"),
        ("nnUNet", "P"),
        ("nnUNet", "Q"),
    ]
    assert [float(rows[i]["difference"]) for i in (1, 3)] == pytest.approx([0.03, 0.03])
    assert "| Model" in out
    code, out, _ = command(table, "--baseline", "P", "--model", "nnUNet")
    assert "| Model" not in out and out.count("0.030 [0.030, 0.030]") == 1


def test_nan_values_are_left_out(add):
    table = add("P", [0.5, math.nan, 0.7])
    add("Q", [0.6, 0.9, math.nan])
    first, second = compare_experiments(read_experiments(table), "P", "Dice")
    assert first["Dice"] == pytest.approx(0.6)
    assert second["difference"] == pytest.approx(0.1) and math.isnan(second["difference low"])


def test_classes(add, tmp_path):
    rows = case_rows("P", "UNet", [0.2, 0.4], tmp_path) + case_rows(
        "P", "UNet", [0.6, 0.6], tmp_path, "infarct"
    )
    table = tmp_path / "results.csv"
    results.write_cases(table, rows)
    results.append_rows(table, results.summarise(rows))
    (row,) = compare_experiments(read_experiments(table, class_name="infarct"), None, "Dice")
    assert row["Dice"] == 0.6
    with pytest.raises(ValueError, match="P, UNet: has no --class_name scar but all, infarct"):
        read_experiments(table, class_name="scar")


def test_a_prediction_that_another_run_wrote_over_is_not_pictured_as_the_first(table, command, tmp_path):
    prediction = tmp_path / "files" / "prediction.nii.gz"
    rows = [row | {results.DIGEST: "of another file"} for row in results.read_cases(table, "P", "UNet")]
    results.write_cases(table, rows)
    code, out, _ = command(table)
    assert code == 0 and prediction.exists() and "0 of the worst cases are shown" in out
    results.write_cases(table, [row | {results.DIGEST: fingerprint(prediction)} for row in rows])
    assert "of the worst cases are shown" not in command(table)[1]


def test_cases_whose_files_are_gone_are_left_out_of_the_picture(table, command, tmp_path):
    (tmp_path / "files" / "prediction.nii.gz").unlink()
    code, out, _ = command(table)
    assert code == 0 and "0 of the worst cases are shown" in out
    assert not (tmp_path / "results_comparison" / "worst_cases.png").exists()


def test_learning_curves(add, command, tmp_path):
    for count in (15, 8):
        for name, gain in (("P", 0), ("P+N'", 0.4 / count), ("P+C", 0)):
            for seed in range(2):
                table = add(f"{name}_n{count}_seed{seed}", BASE + count / 100 + gain)
    add("P", BASE)  # of another study
    options = ("--group_by_prefix", "--by_count", "--experiments", "P+N'", "--baseline", "P")
    code, out, _ = command(table, *options, picture=True)
    assert "note: " not in out
    assert code == 0 and out.index("8 real cases") < out.index("15 real cases") and "P+C" not in out
    folder = tmp_path / "results_comparison"
    assert sorted(path.name for path in folder.iterdir()) == ["learning_curves.png", "n15", "n8"]
    assert (folder / "learning_curves.png").stat().st_size > 5000
    for count in (8, 15):
        p, q = read_csv(folder / f"n{count}" / "comparison.csv")
        assert (p["Experiment"], p["runs"], q["Experiment"]) == ("P", "2", "P+N'")
        assert float(p["Dice"]) == pytest.approx(BASE.mean() + count / 100, abs=1e-6)
        assert float(q["difference"]) == pytest.approx(0.4 / count, abs=1e-6)


def test_learning_curves_need_counts(table, add, command):
    code, _, error = command(table, "--by_count")
    assert code == 1 and "--by_count needs experiments like P_n8" in error and "P, Q_&%, R" in error
    add("P_n8", BASE)
    code, _, error = command(table, "--by_count", "--experiments", "P", "S")
    assert code == 1 and "--by_count: has no experiment S but P" in error


@pytest.mark.parametrize(
    "options, message",
    [
        (("--experiments", "P", "S", "T"), "has no experiment S, T but P, Q_&%, R"),
        (("--baseline", "S"), "--baseline S was not judged with model UNet"),
        (("--metric", "Dise"), "--metric Dise is unknown; choose one of Dice, HD95 mm, NSD 1 mm"),
        (("--model", "VNet"), "has no --model VNet but UNet"),
        (("--class_name", "scar"), "has no --class_name scar but all"),
        (("--group_by_prefix", "("), "--group_by_prefix '('"),
        (("--num_worst", "-1"), "--num_worst -1 must be"),
    ],
)
def test_bad_options(table, command, options, message):
    code, out, error = command(table, *options)
    assert (code, out) == (1, "") and error.startswith("error: ") and message in error
    assert not (table.parent / "results_comparison").exists()


def test_experiments_on_different_cases(add, command):
    add("P", BASE)
    table = add("Q", BASE[:-2])
    code, _, error = command(table)
    assert code == 1 and "Q, UNet was judged on other cases than P, UNet (P10_Vol_1, P11_Vol_1)" in error
    table = add("P_seed1", BASE, start=3)
    code, _, error = command(table, "--experiments", "P", "--group_by_prefix")
    assert code == 1 and "other cases" in error


def test_missing_tables(add, command, tmp_path):
    table = add("P", BASE)
    results.cases_path(table, "P", "UNet").unlink()
    code, _, error = command(table)
    assert code == 1 and "P_UNet.csv: no such file" in error
    code, _, error = command(tmp_path / "none.csv")
    assert code == 1 and "none.csv: no such file" in error


def test_p_values_as_text():
    assert [compare.p_text(p) for p in (0.0004, 0.0316, math.nan)] == ["< 0.001", "0.032", "-"]


def test_from_the_folder_of_the_pipeline(table):
    folder = Path(compare.__file__).parent
    program = [sys.executable, "compare.py", "--results_csv", str(table), "--baseline", "P"]
    ran = subprocess.run(program, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0 and "0.050 [" in ran.stdout, ran.stderr
