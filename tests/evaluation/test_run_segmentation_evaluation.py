"""The evaluation command, with a stand-in for the network: rows, resuming, and every kind of bad input."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from evaluation_pipeline import run_segmentation_evaluation
from evaluation_pipeline.judging import results
from evaluation_pipeline.run_segmentation_evaluation import main
from evaluation_pipeline.segmentation import segmenter
from evaluation_pipeline.segmentation.checkpoint import save_checkpoint

PIPELINE = Path(run_segmentation_evaluation.__file__).parent
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SHAPE = (10, 12, 8)
CASES = ("A-1_Vol_1", "A-1_Vol_2", "B-2_Vol_1")
HEART = {"background": 0, "cavity": 1, "myocardium": 2, "infarct": 3, "no-reflow": 4}


def write(path: Path, array: np.ndarray, affine=AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def block(start: int, length: int = 4, value: int = 1) -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[start : start + length, 3:7, 2:6] = value
    return labels


class Stub:
    """Predicts the block one voxel further along, and counts."""

    labels = {"lesion": 1}

    def __init__(self, **metadata):
        self.calls, self.metadata = [], metadata

    def predict(self, image_path, overlap=0.5, mirror=True):
        self.calls.append((Path(image_path).name, overlap, mirror))
        return np.roll(read(image_path), 1, 0).astype(np.uint8)


def read(path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


@pytest.fixture
def data(tmp_path) -> Path:
    """imagesTs with the labels themselves as images, labelsTs, and predictions shifted by one voxel."""
    for number, case in enumerate(CASES):
        labels = block(2 + number)
        write(tmp_path / "imagesTs" / f"{case}_0000.nii.gz", labels.astype(np.int16))
        write(tmp_path / "labelsTs" / f"{case}.nii.gz", labels)
        write(tmp_path / "predictions" / f"{case}.nii.gz", block(3 + number))
    return tmp_path


@pytest.fixture
def heart(tmp_path) -> Path:
    for number, case in enumerate(("Case_P001", "Case_P002")):
        labels = block(1, 8, 2)
        labels[2 + number : 5 + number, 3:7, 2:6] = 3
        labels[5 + number, 3:7, 2:6] = 4
        write(tmp_path / "imagesTs" / f"{case}_0000.nii.gz", labels.astype(np.float32))
        write(tmp_path / "labelsTs" / f"{case}.nii.gz", labels)
        labels[labels == 4] = 3
        write(tmp_path / "predictions" / f"{case}.nii.gz", labels)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": HEART}))
    return tmp_path


@pytest.fixture
def evaluate(capsys, monkeypatch):
    """-> evaluate(folder, *options, stub=None, picture=False): (exit code, stdout, stderr).

    With a stub, checkpoint.pt is its checkpoint. The picture takes most of the time.
    """

    def call(folder: Path, *options: str, stub=None, picture=False) -> tuple[int, str, str]:
        if not picture:
            monkeypatch.setattr(run_segmentation_evaluation, "save_picture", lambda *given: None)
        arguments = {
            "--test_data_dir": folder / "imagesTs",
            "--gt_dir": folder / "labelsTs",
            "--trained_model_path": "none" if stub is None else folder / "checkpoint.pt",
            "--model_name": "UNet",
            "--output_pred_dir": folder / "predictions",
            "--results_csv": folder / "results.csv",
            "--experiment_name": "P",
        }
        monkeypatch.setattr(segmenter, "load_segmenter", lambda path, name, device="auto": stub)
        if stub is not None and not (folder / "checkpoint.pt").exists():
            (folder / "checkpoint.pt").write_bytes(b"weights")
        given = [str(part) for pair in arguments.items() for part in pair]
        capsys.readouterr()
        code = 0
        try:
            main([*given, *map(str, options)])  # the last of two values of an option counts
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return call


def assert_refused(outcome: tuple[int, str, str], *parts: str) -> None:
    code, _, error = outcome
    assert code == 1 and error.rstrip().splitlines()[-1].startswith("error: "), error
    for part in parts:
        assert part in error, (part, error)


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


def test_a_second_model_replaces_the_predictions_of_the_first_and_says_so(data, evaluate):
    assert "are replaced" not in evaluate(data, stub=Stub())[1]
    assert "are replaced" not in evaluate(data, stub=Stub())[1]
    (data / "checkpoint.pt").write_bytes(b"another model")
    code, out, _ = evaluate(data, "--experiment_name", "Q", stub=Stub())
    assert code == 0 and f"predictions of {data / 'checkpoint.pt'} or other settings are replaced" in out
    assert "3 of 3 cases predicted" in out
    assert [row["Experiment Name"] for row in results.read_results(data / "results.csv")] == ["P", "Q"]


def test_only_predictions_of_the_same_checkpoint_are_used_again(data, evaluate):
    def predicted(*options) -> int:
        stub = Stub()
        assert evaluate(data, *options, stub=stub)[0] == 0
        return len(stub.calls)

    assert predicted() == 3  # files of unknown origin lie there
    assert predicted() == 0
    (data / "predictions" / f"{CASES[0]}.nii.gz").unlink()
    assert predicted() == 1
    write(data / "predictions" / f"{CASES[1]}.nii.gz", block(0))  # not what was written
    assert predicted() == 1
    write(data / "imagesTs" / f"{CASES[2]}_0000.nii.gz", block(5).astype(np.int16))
    assert predicted() == 1
    assert predicted("--val_overlap", "0.6") == 3
    assert predicted("--val_overlap", "0.6", "--no_mirroring") == 3
    assert predicted("--val_overlap", "0.6", "--no_mirroring", "--model_name", "nnUNet") == 3
    (data / "checkpoint.pt").write_bytes(b"other weights")
    assert predicted() == 3
    assert predicted() == 0


def test_an_interrupted_run_goes_on_and_does_not_pass_for_predictions(data, evaluate):
    class Interrupted(Stub):
        def predict(self, image_path, overlap=0.5, mirror=True):
            if len(self.calls) == 1:
                raise OSError("power cut")
            return super().predict(image_path, overlap, mirror)

    assert_refused(evaluate(data, stub=Interrupted()), "power cut")
    assert not (data / "results.csv").exists()
    # old predictions of other origin are still there for two cases
    assert_refused(evaluate(data), "2 predictions", "A-1_Vol_2, B-2_Vol_1", "predictions.json")
    stub = Stub()
    assert evaluate(data, stub=stub)[0] == 0 and len(stub.calls) == 2
    assert evaluate(data)[0] == 0


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


# Bad input


def test_missing_predictions(data, evaluate):
    (data / "predictions" / f"{CASES[1]}.nii.gz").unlink()
    assert_refused(evaluate(data), "1 of 3 predictions are missing (A-1_Vol_2)", "nothing was judged")
    assert not (data / "results.csv").exists() and not (data / "results_cases").exists()
    assert_refused(evaluate(data, "--output_pred_dir", data / "none"), "none: no such folder")


def test_images_without_label_and_labels_without_image(data, evaluate):
    (data / "labelsTs" / f"{CASES[0]}.nii.gz").unlink()
    assert_refused(evaluate(data), "1 of 3 images have no label", "A-1_Vol_1")
    write(data / "labelsTs" / f"{CASES[0]}.nii.gz", block(2))
    for number in range(7):
        write(data / "labelsTs" / f"Z-{number}.nii.gz", block(2))
    assert_refused(evaluate(data), "7 of 10 labels have no image", "Z-0, Z-1, Z-2, Z-3, Z-4 and 2 more")


def test_missing_and_empty_folders(data, evaluate):
    assert_refused(evaluate(data, "--test_data_dir", data / "none"), "--test_data_dir", "no such folder")
    (data / "empty").mkdir()
    assert_refused(evaluate(data, "--gt_dir", data / "empty"), "--gt_dir", "holds no image")


def test_two_files_of_one_case_and_second_channels(data, evaluate):
    twin = write(data / "imagesTs" / f"{CASES[0]}.nii.gz", block(2))
    assert_refused(evaluate(data), "are of one case")
    twin.rename(data / "imagesTs" / f"{CASES[0]}_0001.nii.gz")
    assert_refused(evaluate(data), "A-1_Vol_1_0001", "one channel")


@pytest.mark.parametrize("folder", ["imagesTs", "labelsTs", "predictions"])
def test_another_geometry(data, evaluate, folder):
    path = data / folder / (f"{CASES[1]}_0000.nii.gz" if folder == "imagesTs" else f"{CASES[1]}.nii.gz")
    write(path, block(3)[:-1])
    assert_refused(evaluate(data), "has shape", path.name, "(9, 12, 8)", "(10, 12, 8)")
    moved = AFFINE.copy()
    moved[0, 3] = 0.5
    write(path, block(3), moved)
    assert_refused(evaluate(data), "affine differs", path.name, "0.5 mm")
    moved[0, 3] = 1e-4  # rounding of another program
    write(path, block(3), moved)
    assert evaluate(data)[0] == 0


@pytest.mark.parametrize("folder", ["labelsTs", "predictions"])
def test_unexpected_label_values(data, evaluate, folder):
    path = data / folder / f"{CASES[1]}.nii.gz"
    write(path, block(3, value=255))
    assert_refused(evaluate(data), path.name, "label values 255 but expected 0, 1", "--lesion_labels")
    write(path, block(3).astype(np.float32) / 2)
    assert_refused(evaluate(data), "label values 0.5")
    write(path, block(3).astype(np.float32))  # whole numbers in a float file are labels
    assert evaluate(data)[0] == 0


def test_lesion_labels_that_do_not_exist(heart, evaluate):
    assert_refused(evaluate(heart, "--lesion_labels", "3", "7"), "--lesion_labels 7 unknown", "no-reflow")
    assert_refused(evaluate(heart, "--lesion_labels", "3", "3"), "must be different numbers")
    write(heart / "labelsTs" / "Case_P001.nii.gz", block(1, value=9))
    assert_refused(evaluate(heart), "Case_P001", "label values 9 but expected 0, 1, 2, 3, 4")
    (heart / "dataset.json").unlink()
    assert_refused(
        evaluate(heart, "--lesion_labels", "7"), "no label map holds lesion label 7", "0, 2, 3, 4, 9"
    )


@pytest.mark.parametrize("content", ["{", '{"labels": [1]}', '{"labels": {"lesion": [1, 2]}}', "{}"])
def test_damaged_dataset_json(data, evaluate, content):
    (data / "dataset.json").write_text(content)
    assert_refused(evaluate(data), "dataset.json: has no labels of the form name: number")


def test_dataset_json_without_lesion(data, evaluate):
    (data / "dataset.json").write_text('{"labels": {"background": 0, "myocardium": 1}}')
    assert_refused(evaluate(data), "no lesion among the labels")


def test_checkpoints_that_do_not_fit(data, evaluate, monkeypatch):
    assert_refused(
        evaluate(data, "--lesion_labels", "2", stub=Stub()), "predicts the labels", "[2] are judged"
    )

    class Small(Stub):
        def predict(self, image_path, overlap=0.5, mirror=True):
            return np.zeros((2, 2, 2), np.uint8)

    assert_refused(evaluate(data, stub=Small()), "(2, 2, 2)")


def test_a_checkpoint_of_another_architecture_or_damaged(data, capsys):
    arguments = ["--test_data_dir", "imagesTs", "--gt_dir", "labelsTs", "--output_pred_dir", "new"]
    arguments = [str(data / part) if "--" not in part else part for part in arguments]
    arguments += ["--results_csv", str(data / "r.csv"), "--experiment_name", "P", "--model_name", "UNet"]
    (data / "damaged.pt").write_bytes(b"no weights")
    save_checkpoint(data / "swin.pt", {"model": {"name": "SwinUNETR"}})
    for checkpoint, message in (
        ("swin.pt", "swin.pt: holds a SwinUNETR, not a UNet"),
        ("damaged.pt", "damaged.pt: is damaged"),
        ("gone.pt", "gone.pt: no such checkpoint"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--trained_model_path", str(data / checkpoint)])
        error = capsys.readouterr().err
        assert stopped.value.code == 1 and message in error and "Traceback" not in error
    assert not (data / "new").exists()


def test_predictions_never_overwrite_their_input(data, evaluate):
    before = read(data / "labelsTs" / f"{CASES[0]}.nii.gz")
    for folder in ("labelsTs", "imagesTs"):
        outcome = evaluate(data, "--output_pred_dir", data / folder, stub=Stub())
        assert_refused(outcome, "holds the images or labels")
    assert_refused(evaluate(data, "--output_pred_dir", data / "labelsTs"), "is the folder of the real labels")
    assert np.array_equal(read(data / "labelsTs" / f"{CASES[0]}.nii.gz"), before)


@pytest.mark.parametrize(
    "options, message",
    [
        (("--val_overlap", "1"), "--val_overlap 1.0 must be"),
        (("--val_overlap", "-0.1"), "--val_overlap -0.1 must be"),
        (("--tolerance_mm", "1", "1"), "must be different numbers"),
        (("--tolerance_mm", "-1"), "of at least 0"),
        (("--experiment_name", " "), "--experiment_name is empty"),
        (("--model_name", ""), "--model_name is empty"),
    ],
)
def test_options_out_of_range(data, evaluate, options, message):
    assert_refused(evaluate(data, *options), message)


def test_a_results_file_of_something_else_is_refused_before_predicting(data, evaluate):
    (data / "results.csv").write_text("a,b\n1,2\n")
    stub = Stub()
    assert_refused(evaluate(data, stub=stub), "results.csv: lacks the columns")
    assert not stub.calls and (data / "results.csv").read_text() == "a,b\n1,2\n"


def test_a_damaged_manifest(data, evaluate):
    (data / "predictions" / "predictions.json").write_text("[")
    assert_refused(evaluate(data), "predictions.json: is damaged")
    assert_refused(evaluate(data, stub=Stub()), "predictions.json: is damaged")


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


def test_patients_that_were_trained_on_are_not_judged(data, evaluate):
    before = (data / "predictions" / f"{CASES[0]}.nii.gz").read_bytes()
    stub = Stub(real_cases=["A-1_Vol_7", "C-3_Vol_1"])  # another nodule of the first patient
    code, _, error = evaluate(data, stub=stub)
    assert code == 1 and "checkpoint.pt" in error and "2 of the 3 cases" in error and CASES[0] in error
    assert not stub.calls and not (data / "results.csv").exists()
    assert (data / "predictions" / f"{CASES[0]}.nii.gz").read_bytes() == before
    lent = Stub(real_cases=["C-3_Vol_1"], synthetic_sources=["D-4_CVol_1", "A-1_Vol_2"])  # painted from one
    code, _, error = evaluate(data, stub=lent)
    assert code == 1 and "2 of the 3 cases" in error and not lent.calls
    assert evaluate(data, stub=Stub(real_cases=["C-3_Vol_1"], synthetic_sources=["D-4_CVol_1"]))[0] == 0
