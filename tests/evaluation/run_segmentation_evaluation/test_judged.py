"""What is judged, and what is written."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from judged import AFFINE, CASES, SHAPE, Stub, block, read, write

from evaluation_pipeline import run_segmentation_evaluation
from evaluation_pipeline.judging import results
from evaluation_pipeline.run_segmentation_evaluation import main
from evaluation_pipeline.segmentation import segmenter

PIPELINE = Path(run_segmentation_evaluation.__file__).parent


def test_existing_predictions_are_judged(data, evaluate):
    code, out, _ = evaluate(data, picture=True)
    assert code == 0
    (row,) = results.read_results(data / "results.csv")
    assert list(row)[:6] == ["Experiment Name", "Model", "Dice", "NSD_Proxy_HD95", "Class", "n"]
    assert (row["Experiment Name"], row["Model"], row["Class"], row["n"]) == ("P", "UNet", "all", 3)
    assert (row["Dice"], row["HD95 mm"], row["NSD_Proxy_HD95"]) == (0.75, 1, 1)
    assert (row["Lesion Sensitivity"], row["Lesion Precision"], row["Lesion F1"]) == (1, 1, 1)
    assert (row["Volume Error ml"], row["Volume ml"]) == (0, pytest.approx(64 * 2 / 1000))
    assert row["NSD 1 mm"] == row["NSD 2 mm"] == 1
    assert {"Dice low", "Dice high", "NSD 2 mm low", "Lesion F1 high"} <= set(row)
    cases = results.read_cases(data / "results.csv", "P", "UNet")
    assert [(c["Case"], c["Patient"], c["Dice"]) for c in cases] == [
        ("A-1_Vol_1", "A-1", 0.75),
        ("A-1_Vol_2", "A-1", 0.75),
        ("B-2_Vol_1", "B-2", 0.75),
    ]
    assert Path(cases[0]["Prediction"]) == data / "predictions" / "A-1_Vol_1.nii.gz"
    assert (data / "results_cases" / "P_UNet.png").stat().st_size > 3000
    assert "| Dice" in out and "0.750 [0.750, 0.750]" in out and "results.csv" in out


def test_a_second_run_replaces_its_row(data, evaluate):
    evaluate(data)
    evaluate(data, "--experiment_name", "P+N'")
    for case in CASES:
        shutil.copy(data / "labelsTs" / f"{case}.nii.gz", data / "predictions")
    evaluate(data, "--tolerance_mm", "0.5")
    rows = results.read_results(data / "results.csv")
    assert [(row["Experiment Name"], row["Dice"]) for row in rows] == [("P", 1), ("P+N'", 0.75)]
    assert rows[0]["NSD 0.5 mm"] == 1 and np.isnan(rows[0]["NSD 1 mm"]) and rows[1]["NSD 1 mm"] == 1


def test_classes_of_a_heart(heart, evaluate):
    code, out, _ = evaluate(heart)
    assert code == 0
    rows = {row["Class"]: row for row in results.read_results(heart / "results.csv")}
    assert list(rows) == ["all", "infarct", "no-reflow"]
    assert rows["infarct"]["Dice"] == pytest.approx(2 * 3 / 7, abs=1e-6) and rows["no-reflow"]["Dice"] == 0
    assert rows["all"]["Dice"] == pytest.approx(3 / 7, abs=1e-6)
    # the wall is 8 slabs: 3 of infarct, 1 of no-reflow
    assert rows["infarct"]["Reference Volume % of Myocardium"] == 37.5
    assert rows["infarct"]["Volume % of Myocardium"] == 50
    assert rows["infarct"]["Volume Error % of Myocardium"] == 12.5
    assert rows["no-reflow"]["Reference Volume ml"] == pytest.approx(16 * 2 / 1000)
    assert len(results.read_cases(heart / "results.csv", "P", "UNet")) == 2 * 3
    assert "no-reflow" in out and "% of Myocardium" in out


def test_what_nobody_has_labelled_is_not_judged(data, evaluate):
    """A false lesion and a part of the right one lie under nnU-Net's label `ignore`."""
    assert evaluate(data)[0] == 0
    plain = results.read_results(data / "results.csv")[0]
    labels = {"background": 0, "nodule": 1, "ignore": 2}
    (data / "dataset.json").write_text(json.dumps({"labels": labels}))
    for number, case in enumerate(CASES):
        reference, prediction = block(2 + number), block(3 + number)
        reference[:, :, 0], prediction[:, 8:, 0] = 2, 1
        reference[2 + number] = 2  # what was missed
        reference[6 + number] = 2  # what was too much
        write(data / "labelsTs" / f"{case}.nii.gz", reference)
        write(data / "predictions" / f"{case}.nii.gz", prediction)
    assert evaluate(data, "--experiment_name", "ignored")[0] == 0
    row = results.read_results(data / "results.csv")[1]
    assert plain["Dice"] == 0.75 and row["Dice"] == 1 and row["HD95 mm"] == 0 and row["Lesion F1"] == 1
    assert row["Volume ml"] == row["Reference Volume ml"] == pytest.approx(3 * 4 * 4 * 2 / 1000)


def test_chosen_lesion_labels(heart, evaluate):
    evaluate(heart, "--lesion_labels", "4")
    (row,) = results.read_results(heart / "results.csv")
    assert (row["Class"], row["Dice"]) == ("all", 0)
    # the wall holds the infarct although it is not judged
    assert row["Reference Volume % of Myocardium"] == 12.5
    (heart / "dataset.json").unlink()
    evaluate(heart, "--lesion_labels", "3", "4", "--experiment_name", "named")
    classes = [row["Class"] for row in results.read_results(heart / "results.csv")]
    assert classes == ["all", "all", "label 3", "label 4"]


def test_prediction_of_the_network_in_the_geometry_of_the_source(data, evaluate):
    stub = Stub()
    shutil.rmtree(data / "predictions")
    code, out, _ = evaluate(data, "--val_overlap", "0.25", "--no_mirroring", stub=stub)
    assert code == 0 and "3 of 3 cases predicted" in out
    assert stub.calls == [(f"{case}_0000.nii.gz", 0.25, False) for case in CASES]
    for number, case in enumerate(CASES):
        written = nibabel.load(data / "predictions" / f"{case}.nii.gz")
        assert np.array_equal(written.affine, AFFINE) and written.get_data_dtype() == np.uint8
        assert np.array_equal(read(data / "predictions" / f"{case}.nii.gz"), block(3 + number))
    assert results.read_results(data / "results.csv")[0]["Dice"] == 0.75


def test_the_root_of_a_data_set_stands_for_its_images(data, evaluate):
    assert evaluate(data, "--test_data_dir", data)[0] == 0
    assert results.read_results(data / "results.csv")[0]["Dice"] == 0.75


@pytest.mark.parametrize(
    "model, name",
    [
        ("trained/P_UNet_fold1/best_model.pt", "P_UNet_fold1"),
        ("trained/P_UNet_fold1/last_model.pt", "P_UNet_fold1_last"),
        ("trained/P_UNet_fold1", "P_UNet_fold1"),
        ("my model.v2.pt", "my model.v2"),
    ],
)
def test_what_is_left_out_is_named_after_the_model(data, monkeypatch, capsys, model, name):
    monkeypatch.chdir(data)
    monkeypatch.setattr(segmenter, "load_segmenter", lambda path, name, device="auto": Stub())
    monkeypatch.setattr(run_segmentation_evaluation, "save_picture", lambda *given: None)
    (data / "trained/P_UNet_fold1").mkdir(parents=True)
    for path in {Path(model), Path("trained/P_UNet_fold1/best_model.pt")}:
        if not path.is_dir():
            path.write_bytes(b"weights")
    main(
        [
            "--test_data_dir",
            ".",
            "--gt_dir",
            "labelsTs",
            "--trained_model_path",
            model,
            "--model_name",
            "UNet",
        ]
    )
    (row,) = results.read_results("evaluation_results.csv")
    assert row["Experiment Name"] == name and row["Dice"] == 0.75
    assert len(list((data / "predictions" / name).glob("*.nii.gz"))) == 3


def test_predictions_alone_are_named_after_their_folder_which_must_be_given(data, monkeypatch, capsys):
    monkeypatch.chdir(data)
    monkeypatch.setattr(run_segmentation_evaluation, "save_picture", lambda *given: None)
    given = ["--test_data_dir", ".", "--gt_dir", "labelsTs", "--model_name", "UNet"]
    with pytest.raises(SystemExit):
        main(given)
    assert "give --trained_model_path" in capsys.readouterr().err
    main([*given, "--output_pred_dir", "predictions"])
    assert results.read_results("evaluation_results.csv")[0]["Experiment Name"] == "predictions"


def test_folders_of_plain_names(data, evaluate):
    """Images without channel suffix, .nii files, and other files beside them."""
    for case in CASES:
        (data / "imagesTs" / f"{case}_0000.nii.gz").rename(data / "imagesTs" / f"{case}.nii.gz")
    write(data / "predictions" / "A-1_Vol_1.nii", block(2))
    (data / "predictions" / "A-1_Vol_1.nii.gz").unlink()
    (data / "labelsTs" / "notes.txt").write_text("x")
    assert evaluate(data)[0] == 0
    cases = results.read_cases(data / "results.csv", "P", "UNet")
    assert [case["Dice"] for case in cases] == [1, 0.75, 0.75]
    assert cases[0]["Prediction"].endswith("A-1_Vol_1.nii")


def test_cases_without_lesion(data, evaluate):
    empty = np.zeros(SHAPE, np.uint8)
    write(data / "labelsTs" / f"{CASES[0]}.nii.gz", empty)
    write(data / "predictions" / f"{CASES[0]}.nii.gz", empty)
    write(data / "predictions" / f"{CASES[1]}.nii.gz", empty)
    assert evaluate(data)[0] == 0
    (row,) = results.read_results(data / "results.csv")
    diagonal = float(np.linalg.norm([10, 12, 16]))
    assert row["Dice"] == pytest.approx((1 + 0 + 0.75) / 3, abs=1e-6)
    assert row["HD95 mm"] == pytest.approx((0 + diagonal + 1) / 3, abs=1e-5)
    assert (row["Lesion Sensitivity"], row["Lesion Precision"], row["Lesion F1"]) == (0.5, 1, 0.5)


def test_from_the_folder_of_the_pipeline(data):
    """As users start it, with paths relative to where they are; --help says what the defaults are."""
    program = [sys.executable, str(PIPELINE / "run_segmentation_evaluation.py")]
    folders = ["--test_data_dir", "imagesTs", "--gt_dir", "labelsTs", "--output_pred_dir", "predictions"]
    rest = ["--results_csv", "out/r.csv", "--experiment_name", "P", "--model_name", "copy-paste"]
    ran = subprocess.run([*program, *folders, *rest], cwd=data, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    with open(data / "out" / "r.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["Model"], row["Dice"], row["Dice Unit"]) == ("copy-paste", "75", "percent")


def test_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0 and "default 1 2" in out and "--trained_model_path none" in out
