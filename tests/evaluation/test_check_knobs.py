"""Wrong knobs of the pipeline are refused before anything is made."""

import pytest

from evaluation_pipeline.check_knobs import main

TRAINING = ["--real_data_dir", "real", "--model_name", "UNet", "--output_model_dir", "model", "--fold", "0"]
EVALUATION = [
    *("--test_data_dir", "ts", "--gt_dir", "gt", "--model_name", "UNet", "--output_pred_dir", "predictions"),
    *("--results_csv", "results.csv", "--experiment_name", "X"),
]


@pytest.fixture
def check(lidc, tmp_path, capsys, files):
    """-> check(*overrides, training=(), evaluation=()): (exit code, stderr). It must have written nothing."""
    synthetic = tmp_path / "P+N'"

    def call(*overrides: str, training=(), evaluation=(), generate=True) -> tuple[int, str]:
        given = [
            *("data_type=lidc", f"dataset_root_dir={lidc / 'Normal'}", "types=2"),
            *(f"target_{part}='{str(synthetic)[:-1]}\\'/{folder}'" for part, folder in
              (("img_path", "imagesTr"), ("label_path", "labelsTr"))),
        ]  # fmt: skip
        generation = [*given, *overrides] if generate else []
        before, code = files(tmp_path), 0
        try:
            main([*generation, "--", *TRAINING, *training, "--", *EVALUATION, *evaluation])
        except SystemExit as stopped:
            code = stopped.code
        assert files(tmp_path) == before
        return code, capsys.readouterr().err

    call.images = synthetic / "imagesTr"
    return call


def test_good_knobs(check):
    assert check() == (0, "")
    assert check("types=3") == (0, "")
    assert check(generate=False) == (0, "")


def test_more_types_than_textures(check, tmp_path):
    code, err = check("types=4")
    assert code == 1 and "TYPES=4: data_type=lidc has 3 textures" in err and "condition=mixture" in err
    assert check("types=4", "condition=mixture") == (0, "")  # as the message says
    assert check("types=4", "condition=own") == (0, "")
    code, err = check("textures=null")
    assert code == 1 and "has 0 textures" in err
    fitted = tmp_path / "fitted.json"
    fitted.write_text('{"types": [{}, {}, {}, {}]}')
    assert check("types=4", f"textures={fitted}") == (0, "")
    assert "has 4 textures" in check("types=5", f"textures={fitted}")[1]
    fitted.write_text("[]")
    assert "fitted.json: holds no types" in check(f"textures={fitted}")[1]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["types=0"], "types=0 must be a whole number of at least 1"),
        (["types=many"], "types=many must be"),
        (["typs=3"], "Could not override 'typs'"),
        (["data_type=lungs"], "Could not find 'data_type/lungs'"),
        (["dataset_root_dir=absent"], "absent: no such folder"),
        (["textures=absent.json"], "absent.json"),
    ],
)
def test_bad_generation(check, overrides, message):
    code, err = check(*overrides)
    assert code == 1 and err.startswith("error: ") and message in err


@pytest.mark.parametrize(
    "part, options, message",
    [
        ("training", ["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        ("training", ["--fold", "5"], "--fold 5 must be 0 to 4"),
        ("training", ["--model_name", "UNeXt"], "invalid choice: 'UNeXt'"),
        ("training", ["--cache_rate", "2"], "must be between 0 and 1"),
        ("training", ["--model_name", "nnUNetv2", "--max_epochs", "7"], "nnU-Net has trainers for 1, 5"),
        ("training", ["--model_name", "SwinUNETR", "--amp", "--device", "cpu"], "not stable in bfloat16"),
        ("evaluation", ["--val_overlap", "1"], "--val_overlap 1.0 must be"),
        ("evaluation", ["--tolerance_mm", "x"], "invalid float value: 'x'"),
    ],
)
def test_bad_training_and_evaluation(check, part, options, message):
    code, err = check(**{part: options})
    assert code in (1, 2) and message in err


@pytest.mark.parametrize(
    "image, message",
    [
        ("Image_3/N-0001_CVol_2.nii.gz", "is of an earlier run with more types than TYPES=2"),
        ("Image_1/Q-0001_CVol_2.nii.gz", "is of an earlier run on other scans than"),
    ],
)
def test_images_of_an_earlier_run_do_not_slip_into_the_training(check, image, message):
    path = check.images / image
    path.parent.mkdir(parents=True)
    path.touch()
    code, err = check()
    assert code == 1 and f"{image}: {message}" in err and "METHOD_NAME" in err
    path.rename(path.parent / "hidden")
    done = check.images / "Image_2/N-0003_CVol_2.nii.gz"
    done.parent.mkdir()
    done.touch()
    assert check() == (0, "")
