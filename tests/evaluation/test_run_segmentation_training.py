import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from evaluation_pipeline.cases.nnunet_layout import description, file_names, write_description
from evaluation_pipeline.run_segmentation_training import default_folder, main, parser
from evaluation_pipeline.segmentation import training
from evaluation_pipeline.segmentation.checkpoint import read_checkpoint
from evaluation_pipeline.segmentation.saved_training import SavedTraining
from evaluation_pipeline.segmentation.segmenter import load_segmenter
from evaluation_pipeline.segmentation.training import SampleOrder

pytestmark = pytest.mark.usefixtures("fresh_process_state")


def sphere(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball in noise, and its mask."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(5, 11, 3), rng.uniform(2.5, 4)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), axis=-1)
    mask = np.linalg.norm(grid - centre, axis=-1) < radius
    image = rng.normal(-800, 60, mask.shape) + 800 * mask
    return image.astype(np.int16), mask.astype(np.uint8)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


@pytest.fixture
def real(tmp_path) -> Path:
    """8 training patients P0..P7 with one case each, one test patient T0."""
    folder = tmp_path / "real"
    for number, name in enumerate([f"P{n}_Vol_1" for n in range(8)] + ["T0_Vol_1"]):
        split = "Ts" if name.startswith("T") else "Tr"
        for part, file_name, array in zip(
            ("images", "labels"), file_names(name), sphere(number), strict=True
        ):
            write(folder / f"{part}{split}" / file_name, array)
    write_description(folder, description("CT", {"nodule": 1}, 8))
    return folder


def synthesise(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        image, mask = sphere(100 + number)
        write(folder / "imagesTr/Image_1" / f"{name}.nii.gz", image)
        mask_name = name.replace("_CVol_", "_Mask_").replace("_Vol_", "_Mask_")
        write(folder / "labelsTr/Mask_1" / f"{mask_name}.nii.gz", mask)
    return folder


@pytest.fixture
def run(real, tmp_path, capsys):
    """-> run(*options, model="UNet", into="model"): (exit code, stdout, last line of stderr)."""

    def call(*options, model="UNet", into="model", fold="0", epochs="4") -> tuple[int, str, str]:
        arguments = [
            *("--real_data_dir", real, "--model_name", model, "--output_model_dir", tmp_path / into),
            *("--fold", fold, "--max_epochs", epochs, "--num_folds", "4", "--model_size", "small"),
            *("--device", "cpu", "--steps_per_epoch", "4"),
        ]
        code = 0
        try:
            main([*map(str, arguments), *map(str, options)])
        except SystemExit as stopped:
            code = stopped.code
        out, err = capsys.readouterr()
        return code, out, err.strip().splitlines()[-1] if err.strip() else ""

    return call


def curves(folder: Path) -> list[dict]:
    with open(folder / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


def weights(path: Path) -> dict:
    return read_checkpoint(path)["weights"]


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_training_learns_and_leaves_everything_behind(run, tmp_path, real):
    code, out, err = run("--learning_rate", "0.01", epochs="10")
    assert code == 0, err
    assert "fold 0: 6 real and 0 synthetic training cases, 2 validation cases" in out
    folder = tmp_path / "model"
    rows = curves(folder)
    assert len(rows) == 10 and float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    best = max(float(row["dice"]) for row in rows)
    assert best > 0.5
    assert (folder / "curves.png").stat().st_size > 1000 and list((folder / "tensorboard").iterdir())
    segmenter = load_segmenter(folder / "best_model.pt", "UNet", "cpu")
    assert segmenter.metadata["validation_dice"] == pytest.approx(best, abs=1e-5)
    assert segmenter.metadata["fold"] == 0 and segmenter.labels == {"nodule": 1}
    validation = json.loads((folder / "splits.json").read_text())["validation"][0]
    assert len({*validation, *segmenter.metadata["real_cases"]}) == 2 + 6
    predicted = segmenter.predict(real / "imagesTs/T0_Vol_1_0000.nii.gz")
    reference = nibabel.load(real / "labelsTs/T0_Vol_1.nii.gz").get_fdata() > 0
    assert 2 * (predicted & reference).sum() / (predicted.sum() + reference.sum()) > 0.5


def test_the_label_ignore_is_neither_learnt_nor_judged(run, tmp_path, real):
    """Half of each volume is not labelled, and of noise where it would be looked at."""
    write_description(real, description("CT", {"nodule": 1, "ignore": 2}, 8))
    for path in (real / "labelsTr").iterdir():
        labels = np.asarray(nibabel.load(path).dataobj).copy()
        labels[:, :, 8:] = 2
        write(path, labels)
    code, _, err = run(epochs="2")
    assert code == 0, err
    content = read_checkpoint(tmp_path / "model" / "best_model.pt")
    assert content["labels"] == {"nodule": 1} and content["metadata"]["ignore"] == 2
    assert content["model"]["out_channels"] == 2
    reached = {float(row["dice"]) for row in curves(tmp_path / "model")}
    assert all(0 <= dice <= 1 for dice in reached)


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(run, tmp_path, monkeypatch):
    options = ("--val_every", "2")
    assert run(*options, into="whole")[0] == 0
    save = SavedTraining.save

    def killed(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(SavedTraining, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(*options, into="broken")
    monkeypatch.setattr(SavedTraining, "save", save)
    assert read_checkpoint(tmp_path / "broken/last_model.pt")["epoch"] == 2
    code, out, err = run(*options, into="broken")
    assert code == 0 and "going on after epoch 2" in out, err
    for name in ("best_model.pt", "last_model.pt"):
        assert same(weights(tmp_path / "whole" / name), weights(tmp_path / "broken" / name))
    whole, broken = (curves(tmp_path / name) for name in ("whole", "broken"))
    assert [{**row, "seconds": ""} for row in whole] == [{**row, "seconds": ""} for row in broken]
    code, out, _ = run(*options, into="broken")
    assert code == 0 and "already trained for 4 epochs; nothing to do" in out


def test_a_run_of_other_settings_is_not_resumed(run, tmp_path):
    run(epochs="1")
    before = (tmp_path / "model/last_model.pt").read_bytes()
    code, _, err = run("--learning_rate", "0.5", epochs="1")
    assert code == 1 and "learning_rate was 0.001, is 0.5" in err
    assert run(epochs="1", model="nnUNet")[0] == 1
    assert (tmp_path / "model/last_model.pt").read_bytes() == before


def test_a_run_whose_best_weights_are_lost_or_damaged_is_refused(run, tmp_path):
    """The state has the last weights only."""
    run("--val_every", "1", epochs="2")
    best = tmp_path / "model/best_model.pt"
    for content in (b"", best.read_bytes()[:1000], None):
        best.write_bytes(content) if content is not None else best.unlink()
        code, _, err = run("--val_every", "1", epochs="2")
        assert code == 1 and f"error: {best}: is lost or damaged" in err, err


def test_folders_by_default(real, run, tmp_path, monkeypatch):
    """Methods, models, folds and seeds do not meet; other data under the same names is refused."""
    monkeypatch.chdir(tmp_path)
    given = ["--real_data_dir", "x", "--model_name", "UNet"]

    def folder(*options: str) -> str:
        return str(default_folder(parser().parse_args([*given, *options])))

    assert folder() == "trained_models/P_UNet_fold0"
    assert folder("--synthetic_data_dir", "none", "--fold", "3") == "trained_models/P_UNet_fold3"
    assert folder("--synthetic_data_dir", "a/N", "b/C/", "--fold", "all") == "trained_models/N+C_UNet_foldall"
    assert folder("--model_name", "nnUNet", "--seed", "2") == "trained_models/P_nnUNet_fold0_seed2"
    assert folder("--real_count", "8") == "trained_models/P_n8_UNet_fold0"
    options = [
        *("--real_data_dir", str(real), "--model_name", "UNet", "--model_size", "small", "--max_epochs", "1"),
        *("--steps_per_epoch", "1", "--device", "cpu", "--num_folds", "4", "--synthetic_data_dir"),
    ]
    main([*options, str(synthesise(tmp_path / "n", ["N1_CVol_1"]))])
    assert (tmp_path / "trained_models/n_UNet_fold0/best_model.pt").exists()
    with pytest.raises(SystemExit):
        main([*options, str(synthesise(tmp_path / "other/n", ["N1_CVol_1", "N2_CVol_1"]))])


def test_seeds_decide_the_training(run, tmp_path):
    for into, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        run("--seed", seed, into=into, epochs="1")
    a, b, c = (weights(tmp_path / into / "last_model.pt") for into in "abc")
    assert same(a, b) and not same(a, c)


@pytest.mark.parametrize("model, options", [("nnUNet", ["--amp"]), ("SwinUNETR", [])])
def test_the_other_networks_train_too(run, tmp_path, model, options):
    code, _, err = run(*options, "--steps_per_epoch", "1", model=model, epochs="1")
    assert code == 0, err
    assert np.isfinite(float(curves(tmp_path / "model")[0]["loss"]))
    assert load_segmenter(tmp_path / "model", model, "cpu").metadata["epoch"] == 1


def test_all_folds_have_no_validation_and_the_last_is_the_best(run, tmp_path):
    code, out, err = run(fold="all", epochs="2")
    assert code == 0, err
    assert "all folds: 8 real" in out and "dice" not in curves(tmp_path / "model")[0]
    folder = tmp_path / "model"
    assert same(weights(folder / "best_model.pt"), weights(folder / "last_model.pt"))


def test_synthetic_data_joins_but_not_that_of_validation_cases(run, tmp_path):
    first = synthesise(tmp_path / "n", ["N1_CVol_1", "N2_CVol_1"])
    second = synthesise(tmp_path / "p", [f"P{n}_Vol_1" for n in range(8)])
    options = ("--synthetic_data_dir", first, second)
    code, out, err = run(*options, epochs="1")
    assert code == 0, err
    assert "6 real and 8 synthetic training cases (2 left out: made from cases it must not see)" in out
    metadata = load_segmenter(tmp_path / "model" / "best_model.pt", "UNet", "cpu").metadata
    assert set(metadata["synthetic_sources"]) == {"N1_CVol_1", "N2_CVol_1", *metadata["real_cases"]}
    ratio = run("--synthetic_data_dir", first, "--synthetic_data_dir", second, "--synthetic_ratio", "0.5",
                into="ratio", epochs="1")  # fmt: skip
    assert "6 real and 3 synthetic" in ratio[1]
    few = run("--synthetic_data_dir", second, "--real_fraction", "0.5", into="few", epochs="1")
    assert "3 real and 3 synthetic training cases (5 left out" in few[1]
    counted = run("--synthetic_data_dir", second, "--real_count", "2", into="counted", epochs="1")
    assert "2 real and 2 synthetic training cases (6 left out" in counted[1]
    metadata = load_segmenter(tmp_path / "counted" / "best_model.pt", "UNet", "cpu").metadata
    assert metadata["real_count"] == 2 and metadata["synthetic_sources"] == metadata["real_cases"]
    assert "0 synthetic" in run("--synthetic_data_dir", "none", into="none", epochs="1")[1]


def test_leakage_of_the_test_set_stops_the_run(run, tmp_path):
    folder = synthesise(tmp_path / "p", ["P3_Vol_1", "T0_Vol_4"])
    code, _, err = run("--synthetic_data_dir", folder)
    assert code == 1 and "T0_Vol_4.nii.gz: was made from a test case" in err
    assert "held_out_sources.py" in err and not (tmp_path / "model").exists()


def test_normal_regions_belong_to_the_patient_of_the_nodules(run, tmp_path):
    """P6_CVol_9 is another region of the scan that P6_Vol_1 was cut from."""
    code, out, err = run("--synthetic_data_dir", synthesise(tmp_path / "n", ["T0_CVol_9", "N1_CVol_1"]))
    assert code == 1 and "T0_CVol_9.nii.gz: was made from a test case" in err and "patients T0" in err
    folder = synthesise(tmp_path / "p", [f"P{n}_CVol_9" for n in range(8)])
    code, out, err = run("--synthetic_data_dir", folder, epochs="1")
    assert code == 0 and "6 real and 6 synthetic training cases (2 left out" in out, err


def test_bad_input_is_one_line(run, tmp_path, real):
    def fails(message, *options, **settings):
        code, _, err = run(*options, **settings)
        assert code == 1 and err.startswith("error: ") and message in err, err
        assert not list((tmp_path / "model").glob("*.pt"))

    fails("no such folder", "--synthetic_data_dir", tmp_path / "absent")
    fails("--real_count 7 must be 1 to 6: so many real cases", "--real_count", "7")
    fails("--real_count 2 and --real_fraction 0.5: give one", "--real_count", "2", "--real_fraction", "0.5")
    fails("--fold 7 must be 0 to 3, or all", fold="7")
    fails("--synthetic_ratio 1.0 must be above 0 and needs --synthetic_data_dir", "--synthetic_ratio", "1")
    fails("--synthetic_share 0.5 must lie between", "--synthetic_share", "0.5")
    fails("--patch_size 11 16 16 does not suit UNet", "--patch_size", "11", "16", "16")
    fails("SwinUNETR is not stable in bfloat16", "--amp", model="SwinUNETR")
    fails("--batch_size 0 must be at least 1", "--batch_size", "0")
    fails("--steps_per_epoch 0 must be at least 1", "--steps_per_epoch", "0")
    fails("--val_every 0 must be at least 1", "--val_every", "0")
    fails("--learning_rate 0.0 must be above 0", "--learning_rate", "0")
    folder = synthesise(tmp_path / "s", ["N1_CVol_1"])
    write(folder / "labelsTr/Mask_1/N1_Mask_1.nii.gz", np.full((16, 16, 16), 2, np.uint8))
    shutil.rmtree(tmp_path / "model")
    fails("N1_Mask_1.nii.gz: holds the label 2", "--synthetic_data_dir", folder)
    kept = tmp_path / "kept"
    shutil.copytree(real, kept)
    for path in real.glob("*/*.nii.gz"):
        spacing_mm = (1, 1, 4) if "P5" in path.name else (4, 1, 1)
        nibabel.save(nibabel.Nifti1Image(nibabel.load(path).get_fdata(), np.diag([*spacing_mm, 1])), path)
    fails("P5_Vol_1_0000.nii.gz: its slices lie along the stored axis 2")
    shutil.copytree(kept, real, dirs_exist_ok=True)
    image = nibabel.load(real / "labelsTr/P3_Vol_1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(), np.diag([2, 1, 1, 1])), tmp_path / "moved.nii.gz")
    (tmp_path / "moved.nii.gz").replace(real / "labelsTr/P3_Vol_1.nii.gz")
    fails("P3_Vol_1.nii.gz: its affine differs from that of")
    (real / "labelsTr/P2_Vol_1.nii.gz").unlink()
    fails("P2_Vol_1_0000.nii.gz: has no counterpart")
    assert not (
        tmp_path / "model"
    ).exists()  # bad data leave no splits behind, which better data would not fit


def test_the_order_of_samples_visits_all_cases_in_turns():
    order = SampleOrder(4, 6, None, seed=0)
    turns = [[order(draw) for draw in range(start, start + 10)] for start in (0, 10)]
    assert sorted(turns[0]) == sorted(turns[1]) == list(range(10)) and turns[0] != turns[1]


def test_a_share_of_the_samples_is_synthetic():
    order = SampleOrder(4, 6, 0.25, seed=0)
    drawn = [order(draw) for draw in range(96)]
    assert sum(index >= 4 for index in drawn) == 24
    assert [sum(index >= 4 for index in drawn[i : i + 4]) for i in range(0, 96, 4)] == [1] * 24
    assert all(drawn.count(index) == 18 for index in range(4))
    assert all(drawn.count(index) == 4 for index in range(4, 10))


def test_a_killed_process_goes_on(real, tmp_path):
    """The command as users start it, killed in the middle of its work."""
    script = Path(training.__file__).parents[1] / "run_segmentation_training.py"
    command = [
        *(sys.executable, script, "--real_data_dir", real, "--model_name", "UNet", "--fold", "1"),
        *("--num_folds", "4", "--model_size", "small", "--device", "cpu", "--steps_per_epoch", "2"),
        *("--max_epochs", "2000", "--val_every", "1", "--output_model_dir", "out"),
    ]
    process = subprocess.Popen(list(map(str, command)), cwd=tmp_path, stderr=subprocess.DEVNULL)
    last = tmp_path / "out/last_model.pt"
    while not (last.parent / "curves.csv").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert read_checkpoint(last)["epoch"] >= 1 and len(curves(last.parent)) >= 1


@pytest.mark.slow
def test_two_processes_train_together(real, tmp_path):
    script = Path(training.__file__).parents[1] / "run_segmentation_training.py"
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script),
        *("--real_data_dir", real, "--model_name", "nnUNet", "--fold", "0", "--num_folds", "4"),
        *("--model_size", "small", "--device", "auto", "--steps_per_epoch", "2", "--max_epochs", "1"),
        *("--batch_size", "1", "--output_model_dir", "out"),
    ]
    finished = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("wrote ") == 1
    checkpoint = read_checkpoint(tmp_path / "out/best_model.pt")
    assert checkpoint["run"]["processes"] == 2 and checkpoint["metadata"]["validation_dice"] >= 0
