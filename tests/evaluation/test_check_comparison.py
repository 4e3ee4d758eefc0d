"""Wrong options of any run of a comparison are refused before the first run."""

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.cases.nnunet_layout import description, file_names, write_description
from evaluation_pipeline.check_comparison import main


@pytest.fixture
def check(tmp_path, capsys, files):
    """-> check(*runs): (exit code, stdout, stderr); a run is (options of the training, of the evaluation). It
    must have written nothing."""
    for name in ("P0_Vol_1", "P1_Vol_1", "P2_Vol_1", "T0_Vol_1"):
        split = "Ts" if name.startswith("T") else "Tr"
        for part, file_name in zip(("images", "labels"), file_names(name), strict=True):
            path = tmp_path / "real" / f"{part}{split}" / file_name
            path.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), np.eye(4)), path)
    write_description(tmp_path / "real", description("CT", {"nodule": 1}, 3))
    training = ["--real_data_dir", tmp_path / "real", "--model_name", "UNet", "--num_folds", "3"]
    evaluation = [
        "--test_data_dir",
        "ts",
        "--gt_dir",
        "gt",
        "--model_name",
        "UNet",
        "--output_pred_dir",
        "out",
    ]

    def call(*runs) -> tuple[int, str, str]:
        given = []
        for more_training, more_evaluation in runs:
            given += [*training, *more_training, "--", *evaluation, *more_evaluation, "--"]
        before, code = files(tmp_path), 0
        try:
            main(list(map(str, given)))
        except SystemExit as stopped:
            code = stopped.code
        assert files(tmp_path) == before
        return code, *capsys.readouterr()

    return call


GOOD = ((), ())


def test_good_runs(check):
    assert check(GOOD, (("--real_count", "2"), ("--no_mirroring",))) == (0, "2 runs are in order\n", "")


@pytest.mark.parametrize(
    "run, message",
    [
        ((("--real_count", "3"), ()), "--real_count 3 must be 1 to 2"),
        ((("--synthetic_data_dir", "missing"), ()), "missing: no such folder of synthetic images"),
        ((("--fold", "3"), ()), "--fold 3 must be 0 to 2"),
        (((), ("--val_overlap", "1")), "--val_overlap 1.0 must be at least 0 and below 1"),
    ],
)
def test_a_wrong_run_among_good_ones(check, run, message):
    code, out, err = check(GOOD, run, GOOD)
    assert code == 1 and message in err and out == ""


def test_a_misspelt_option(check):
    code, _, err = check(GOOD, ((), ("--no_miroring",)))
    assert code == 2 and "unrecognized arguments: --no_miroring" in err


def test_no_runs(check):
    code, _, err = check()
    assert code == 1 and "give options of the training and of the evaluation" in err
