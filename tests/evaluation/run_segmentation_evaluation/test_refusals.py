"""What is refused before anything is predicted."""

import numpy as np
import pytest
from judged import AFFINE, CASES, Stub, assert_refused, block, read, write

from evaluation_pipeline.run_segmentation_evaluation import main
from evaluation_pipeline.segmentation.checkpoint import save_checkpoint


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
