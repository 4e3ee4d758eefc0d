"""The training command: what it leaves behind, what it refuses, and stopping and resuming it as a process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import LeFusion.inference.inference as inference
import LeFusion.train.train as training
from LeFusion.box_painter import BoxPainter
from LeFusion.diffusion import load_checkpoint
from LeFusion.errors import UserError
from LeFusion.painting import SamplerSettings
from LeFusion.runtime.commandline import PROJECT_ROOT, git_commit
from LeFusion.train.export import export
from LeFusion.training.state import STATE_FILE

pytestmark = pytest.mark.usefixtures("fresh_process_state")

SCRIPT = PROJECT_ROOT / "LeFusion" / "train" / "train.py"
TABLE = PROJECT_ROOT / "configs" / "lesion_textures" / "lidc.json"
MATCHED = ["textures=null", "histogram_matching=1", f"lesion_table={TABLE}"]
REGION = ["diffusion_depth_size=8", "diffusion_img_size=16"]
SMALL = [
    *REGION,
    "timesteps=6",
    "model.dim=8",
    "model.dim_mults=[1,1,1,1]",
    "model.attn_heads=2",
    "model.attn_dim_head=8",
    "trainer.train_num_steps=3",
    "trainer.batch_size=2",
    "trainer.gradient_accumulate_every=1",
    "trainer.num_workers=0",
    "trainer.device=cpu",
    "trainer.save_and_sample_every=2",
]


@pytest.fixture
def train(lidc, tmp_path, command):
    """-> train(*overrides): runs the command on the pathological cases into "run"."""

    def call(*overrides):
        defaults = {
            "dataset_root_dir": lidc / "Pathological" / "Image",
            "test_txt_dir": lidc / "Pathological" / "test.txt",
            "results_folder": tmp_path / "run",
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(training.main, "train", *SMALL, *kept, *overrides)

    return call


@pytest.mark.parametrize(
    "overrides, region",
    [
        ([], "whole"),
        (["crop_size=[4,8,8]", "loss.cond_dropout=0.5", "loss.normalisation=lesion"], "lesion"),
    ],
)
def test_training_and_then_painting(train, command, lidc, tmp_path, overrides, region):
    code, out, error = train(*overrides)
    assert code == 0 and "3 cases" in out, error  # the fourth is in test.txt
    path = tmp_path / "run" / "model-000003.safetensors"
    assert str(path) in out
    found = {item.name for item in (tmp_path / "run").iterdir()}
    assert found == {
        "model-000002.safetensors",
        "model-000003.safetensors",
        "samples-000002.png",
        "samples-000003.png",
        STATE_FILE,
        "loss.csv",
        "loss.png",
        "tensorboard",
    }
    with Image.open(tmp_path / "run" / "samples-000003.png") as sheet:
        sheet.load()
    metadata = load_checkpoint(path).metadata
    assert metadata["data_type"] == "lidc" and metadata["cases"] == 3 and metadata["region"] == region
    assert metadata["schedule"] == {"kind": "cosine", "num_steps": 6} and metadata["histogram_bins"] == 16
    assert metadata["window"] == [-1000, 400] and metadata["lesion_labels"] == [1]
    assert metadata["git_commit"] == git_commit()

    exported = tmp_path / "small.safetensors"
    for guidance in (-0.1, 1.5, float("nan")):
        with pytest.raises(UserError, match="--intensity-guidance .* must be a number from 0 to 1"):
            export(path, exported, guidance)
    for edge in (-0.1, 101.0, float("nan")):
        with pytest.raises(UserError, match="--soft-edge-mm .* must be a number from 0 to 100"):
            export(path, exported, soft_edge_mm=edge)
    export(path, exported)
    soft = tmp_path / "soft.safetensors"
    for steps in (0, 7):
        with pytest.raises(UserError, match=f"--num-steps {steps} must be from 1 to 6, the levels of the"):
            export(path, exported, num_steps=steps)
    with pytest.raises(UserError, match="was trained with rims of 0 to 0 mm, so --edit-margin-mm 2 must be"):
        export(path, exported, edit_margin_mm=2)
    export(exported, soft, 1.0, 2.5, 0.99, 3)
    found = load_checkpoint(soft)
    keys = ("soft_edge_mm", "intensity_guidance", "guided_signal", "num_steps")
    assert [found.metadata[key] for key in keys] == [2.5, 1.0, 0.99, 3]
    export(soft, tmp_path / "again.safetensors")
    assert load_checkpoint(tmp_path / "again.safetensors").metadata == found.metadata
    once = load_checkpoint(exported).network.state_dict()
    assert all(torch.equal(value, once[name]) for name, value in found.network.state_dict().items())
    assert exported.stat().st_size < path.stat().st_size / 3
    for model in (path, exported):
        target = tmp_path / model.stem
        code, out, error = command(
            inference.main,
            "inference",
            *REGION,
            f"model_path={model}",
            f"dataset_root_dir={lidc / 'Normal'}",
            f"target_img_path={target}",
            f"target_label_path={target}",
            "types=1",
            "num_steps=6",
            "device=cpu",
        )
        assert code == 0 and "wrote 3 images" in out, error


def test_the_same_command_goes_on(train, tmp_path):
    train()
    code, out, error = train("trainer.train_num_steps=4")
    assert code == 0 and "resuming" in out and "at step 3" in out, error
    whole = tmp_path / "whole"
    train("trainer.train_num_steps=4", f"results_folder={whole}")
    for weights in ("model", "ema"):
        one, other = (
            load_checkpoint(folder / "model-000004.safetensors", weights).network.state_dict()
            for folder in (tmp_path / "run", whole)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
    code, _, error = train("trainer.batch_size=1", "trainer.train_num_steps=5")
    assert code == 1 and "batch_size was 2, is 1" in error


def test_fine_tuning_starts_from_the_average(train, save_network, tmp_path):
    start = save_network("start.safetensors")
    code, _, error = train(f"init_weights={start}", "trainer.train_lr=0")
    assert code == 0, error
    trained = load_checkpoint(tmp_path / "run" / "model-000003.safetensors", "model")
    expected = load_checkpoint(start, "ema").network.state_dict()
    assert all(torch.equal(expected[name], value) for name, value in trained.network.state_dict().items())
    assert trained.metadata["init_weights"] == "start.safetensors"


def test_a_bad_start_is_refused(train, save_network, tmp_path):
    start = save_network("start.safetensors")
    assert_refused(
        train(f"init_weights={start}", "model.dim=16"), tmp_path, [str(start), "dim 8 instead of 16"]
    )
    assert_refused(train("init_weights=nowhere.pt"), tmp_path, ["nowhere.pt", "does not exist"])


def mask_of(lidc):
    return lidc / "Pathological" / "Mask" / "P-0002" / "P-0002_Mask_1.nii.gz"


def image_of(lidc):
    return lidc / "Pathological" / "Image" / "P-0002" / "P-0002_Vol_1.nii.gz"


def rewrite(path: Path, change):
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asanyarray(image.dataobj)), image.affine), path)


def with_nan(array):
    array = array.astype(np.float32)
    array[1, 1, 1] = np.nan
    return array


def remove_images(lidc):
    for path in (lidc / "Pathological" / "Image").rglob("*.nii.gz"):
        path.unlink()


@pytest.mark.parametrize(
    "damage, texts",
    [
        (lambda lidc: (lidc / "Pathological" / "test.txt").unlink(), ["test.txt", "no such file"]),
        (remove_images, ["Image", "no case found"]),
        (lambda lidc: mask_of(lidc).unlink(), ["P-0002_Mask_1.nii.gz", "missing"]),
        (lambda lidc: rewrite(mask_of(lidc), lambda a: a[1:]), ["P-0002_Mask_1.nii.gz", "shape (7, 16, 16)"]),
        (lambda lidc: rewrite(mask_of(lidc), lambda a: a * 0), ["P-0002_Mask_1.nii.gz", "no lesion voxel"]),
        (lambda lidc: rewrite(mask_of(lidc), lambda a: a * 5), ["P-0002_Mask_1.nii.gz", "unknown values 5"]),
        (lambda lidc: rewrite(image_of(lidc), with_nan), ["P-0002_Vol_1.nii.gz", "1 NaN"]),
        (
            lambda lidc: image_of(lidc).write_bytes(image_of(lidc).read_bytes()[:500]),
            ["P-0002_Vol_1.nii.gz", "damaged gzip"],
        ),
    ],
)
def test_bad_data_is_refused_before_anything_is_written(train, lidc, tmp_path, damage, texts):
    damage(lidc)
    assert_refused(train(), tmp_path, texts)


def assert_refused(result, tmp_path, texts):
    code, _, error = result
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    for text in texts:
        assert text in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["cond_dim=32"], ["cond_dim=32", "16"]),
        (["diffusion_num_channels=2"], ["diffusion_num_channels=2", "1"]),
        (["crop_size=[4,8,12]"], ["[4, 8, 12]", "multiples of 8"]),
        (["crop_size=[4,8]"], ["crop_size=[4, 8]", "three"]),
        (["diffusion_img_size=20"], ["20", "multiples of 8"]),
        (["diffusion_img_size=wide"], ["diffusion_img_size=wide"]),
        (["timesteps=0"], ["timesteps=0"]),
        (["split=every"], ["every"]),
        (["dataset_root_dir=nowhere"], ["nowhere"]),
        (["dataset_root_dir="], ["dataset_root_dir"]),
        (["results_folder="], ["results_folder"]),
        (["loss.loss_type=l3"], ["loss.loss_type=l3"]),
        (["loss.normalisation=none"], ["loss.normalisation=none"]),
        (["loss.cond_dropout=1"], ["cond_dropout=1"]),
        (["trainer.batch_size=0"], ["batch_size=0"]),
        (["trainer.train_lr=fast"], ["trainer.train_lr=fast"]),
        (["trainer.device=gpu"], ["trainer.device=gpu"]),
        (["model.dim=12"], ["dim=12", "multiple of 8"]),
        (["window=[400,-1000]"], ["window"]),
        (["edit_margin_mm=-1"], ["edit_margin_mm=-1"]),
        (["edit_margin_mm=2", "least_margin_mm=3"], ["least_margin_mm=3", "at most edit_margin_mm=2"]),
        (["least_margin_mm=1"], ["least_margin_mm=1", "at most edit_margin_mm=0"]),
        (["edit_margin_mm=2", "least_margin_mm=0"], ["least_margin_mm=0", "above 0"]),
        (["turns=true", "crop_size=[4,8,16]"], ["turns=true", "as high as wide"]),
        (["like_size=2"], ["like_size=2", "histogram_matching"]),
        (["lesion_table=a.json"], ["lesion_table=a.json", "histogram_matching"]),
        ([*MATCHED, "lesion_table=a.json"], ["a.json", "no such file"]),
        ([*MATCHED, "histogram_bins=8"], [str(TABLE), "bins=16"]),
        ([*MATCHED, "window=[-900,400]"], [str(TABLE), "window"]),
        ([*MATCHED, "layout.lesion_labels=[1,2]"], [f"lesion_table={TABLE}", "one class"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(train, tmp_path, overrides, texts):
    assert_refused(train(*overrides), tmp_path, texts)


def test_a_results_folder_below_a_file_is_refused(train, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "deep" / "er"
    assert_refused(train(f"results_folder={folder}"), tmp_path, [str(folder), "not a folder"])


@pytest.mark.parametrize(
    "override", ["data_type=lidcc", "model=huge", "experiment=none", "trainer.batchsize=3"]
)
def test_a_misspelt_name_is_refused(command_line, tmp_path, override):
    code, _, error = command_line(training.main, f"results_folder={tmp_path / 'run'}", override)
    assert code == 1 and override.split("=")[override.startswith(("data", "model", "exp"))] in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_is_stopped_and_resumed(train, lidc, tmp_path):
    """From another folder with relative paths; the weights are those of a run that was never stopped."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    process = subprocess.Popen(
        [
            sys.executable,
            SCRIPT,
            *SMALL,
            "dataset_root_dir=../LIDC/Pathological/Image",
            "test_txt_dir=../LIDC/Pathological/test.txt",
            "results_folder=run",
            "trainer.train_num_steps=100000",
            "trainer.num_workers=1",
        ],
        cwd=elsewhere,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    state, until = elsewhere / "run" / STATE_FILE, time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGTERM)  # as a batch system does: the data loader's worker, too
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in error, error
    assert [path.name for path in elsewhere.iterdir()] == ["run"]  # nothing of Hydra's

    steps = torch.load(state, weights_only=True)["step"] + 1
    results = [f"results_folder={elsewhere / 'run'}", f"results_folder={tmp_path / 'run'}"]
    for folder in results:
        code, _, error = train(f"trainer.train_num_steps={steps}", folder)
        assert code == 0, error
    one, other = (torch.load(p, weights_only=True) for p in (state, tmp_path / "run" / STATE_FILE))
    assert one["step"] == other["step"] == steps
    for part in ("model", "ema"):
        assert all(torch.equal(one[part][name], other[part][name]) for name in one[part])


def test_fine_tuning_starts_from_the_moving_average_of_another_run(train, tmp_path):
    assert train()[0] == 0
    first = tmp_path / "run" / "model-000003.safetensors"
    tuned = tmp_path / "tuned"
    code, _, error = train(
        f"results_folder={tuned}", f"init_weights={first}", "trainer.train_num_steps=1", "trainer.train_lr=0"
    )
    assert code == 0, error
    before = load_checkpoint(first, "ema").network.state_dict()
    after = load_checkpoint(tuned / "model-000001.safetensors", "model").network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    code, _, error = train(f"results_folder={tmp_path}/c", f"init_weights={first}", "model.attn_heads=4")
    assert code == 1 and str(first) in error and "attn_heads 2 instead of 4" in error


def test_contrast_augmentation_and_weighting_reach_the_run(train, tmp_path):
    assert train()[0] == 0
    other = tmp_path / "other"
    code, _, error = train(f"results_folder={other}", "lesion_contrast=[0.5,2.0]", "loss.max_weight=50")
    assert code == 0, error
    losses = [(folder / "loss.csv").read_text().split("\n")[1] for folder in (tmp_path / "run", other)]
    assert losses[0].split(",")[1] != losses[1].split(",")[1]
    metadata = load_checkpoint(other / "model-000003.safetensors").metadata
    assert metadata["lesion_contrast"] == [0.5, 2.0] and metadata["loss"]["max_weight"] == 50


def test_a_network_learns_a_rim_and_paints_it_by_default(train, command, lidc, tmp_path):
    code, _, error = train(
        "edit_margin_mm=1.5",
        "turns=true",
        "histogram_matching=1",
        "like_size=2",
        f"lesion_table={TABLE}",
        "model.context=clean",
    )
    assert code == 0, error
    path = tmp_path / "run" / "model-000003.safetensors"
    metadata = load_checkpoint(path).metadata
    told = {key: metadata[key] for key in ("edit_margin_mm", "turns", "like_size", "lesion_table")}
    assert told == {"edit_margin_mm": 1.5, "turns": True, "like_size": 2, "lesion_table": "lidc.json"}
    losses = (tmp_path / "run" / "loss.csv").read_text().splitlines()[1:]
    assert losses and all(np.isfinite(float(line.split(",")[1])) for line in losses)
    assert metadata["edit_margins_mm"] == [1.5, 1.5]
    changed = {}
    for given in ("", "edit_margin_mm=0"):
        out = tmp_path / f"out {given}"
        code, _, error = command(
            inference.main,
            "inference",
            *REGION,
            f"model_path={path}",
            f"dataset_root_dir={lidc / 'Normal' / 'Image'}",
            f"target_img_path='{out}'",
            f"target_label_path='{out}'",
            "types=1",
            "num_steps=2",
            "device=cpu",
            "preview_cases=1",
            *([given] if given else []),
        )
        assert code == 0, error
        source, painted, label = (
            np.asanyarray(nibabel.load(next(folder.rglob("N-0001_*.nii.gz"))).dataobj)
            for folder in (lidc / "Normal" / "Image", out / "Image_1", lidc / "Normal" / "Mask")
        )
        changed[given] = ((source != painted) & (label == 0)).sum()
    assert changed[""] > 0 and changed["edit_margin_mm=0"] == 0


@pytest.mark.parametrize("least, widths", [(0.3, [0.3, 1.3, 2.3]), (1, [1, 2, 2.3]), (2.3, [2.3])])
def test_the_widest_rim_is_one_of_the_training(train, tmp_path, least, widths):
    code, _, error = train("edit_margin_mm=2.3", f"least_margin_mm={least}")
    assert code == 0, error
    checkpoint = load_checkpoint(tmp_path / "run" / "model-000003.safetensors")
    assert checkpoint.metadata["edit_margins_mm"] == [widths[0], widths[-1]]
    walk = SamplerSettings("ddim", num_steps=1)
    assert BoxPainter.of(checkpoint, walk, (8, 16, 16)).edit_margin_mm == 2.3


def test_a_network_of_several_margins_paints_any_of_them(train, tmp_path):
    code, _, error = train("edit_margin_mm=3", "least_margin_mm=1", "model.context=clean")
    assert code == 0, error
    path, small = tmp_path / "run" / "model-000003.safetensors", tmp_path / "small.safetensors"
    with pytest.raises(UserError, match="rims of 1 to 3 mm, so --edit-margin-mm 3.5 must be one of them"):
        export(path, small, edit_margin_mm=3.5)
    export(path, small, edit_margin_mm=2)
    for file, default in ((path, 3), (small, 2)):
        given = (load_checkpoint(file), SamplerSettings("ddim", num_steps=1), (8, 16, 16))
        assert BoxPainter.of(*given).edit_margin_mm == default
        for margin in (0, 1, 2.5, 3):
            assert BoxPainter.of(*given, edit_margin_mm=margin).edit_margin_mm == margin
        with pytest.raises(UserError, match="edit_margin_mm=4 must be 0 or what the network .*, 1 to 3"):
            BoxPainter.of(*given, edit_margin_mm=4)
