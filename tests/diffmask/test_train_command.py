"""The training command of DiffMask: what it leaves behind, what it refuses, and going on."""

import csv

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

import DiffMask.train.train as training
from DiffMask.dataset import MaskDataset, find_masks
from DiffMask.shapes.baselines import deformed_ellipsoid
from DiffMask.shapes.validation import ShapeValidation
from LeFusion.dataset.cases import Layout
from LeFusion.diffusion import NoiseSchedule, UNet3D, load_checkpoint
from LeFusion.runtime.commandline import git_commit

pytestmark = pytest.mark.usefixtures("fresh_process_state")

SMALL = [
    "crop_size=[8,16,16]",
    "timesteps=6",
    "validation_masks=4",
    "validation_share=0.6",
    "validation_steps=2",
    "model.dim=8",
    "model.dim_mults=[1,1]",
    "model.attn_heads=1",
    "model.attn_dim_head=8",
    "trainer.train_num_steps=3",
    "trainer.batch_size=2",
    "trainer.gradient_accumulate_every=1",
    "trainer.num_workers=0",
    "trainer.device=cpu",
    "trainer.save_and_sample_every=100",  # pictures take seconds
]


@pytest.fixture
def masks(tmp_path):
    """A folder with Mask/ (8 masks to train and validate on, 4 to test, 1 too large) and test.txt."""
    root = tmp_path / "Nodules"
    for number in range(13):
        mask = deformed_ellipsoid(4.5 + 0.2 * (number % 8), number, (10, 20, 20))
        if number == 12:
            mask[:] = True
        path = root / "Mask" / f"P-{number}" / f"P-{number}_Mask_1.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.eye(4)), path)
    (root / "test.txt").write_text("".join(f"P-{number}_Vol_1\n" for number in range(4)))
    return root


@pytest.fixture
def train(masks, tmp_path, command):
    """-> train(*overrides): runs the command on these masks into "run"."""

    def call(*overrides):
        defaults = {
            "dataset_root_dir": masks,
            "test_txt_dir": masks / "test.txt",
            "results_folder": tmp_path / "run",
        }
        given = {override.split("=", 1)[0] for override in overrides}
        kept = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        return command(training.main, "diffmask_train", *SMALL, *kept, *overrides)

    return call


def test_training_leaves_checkpoints_scores_and_pictures(train, tmp_path):
    code, out, error = train("model.prediction=velocity", "loss_type=l2", "trainer.save_and_sample_every=2")
    assert code == 0, error
    assert "4 masks to train on" in out and "1 larger than (8, 16, 16)" in out and "4 masks held out" in out
    run = tmp_path / "run"
    assert str(run / "model-000003.safetensors") in out
    assert {"best.safetensors", "validation.csv", "loss.csv", "loss.png", "model-000002.safetensors"} <= {
        path.name for path in run.iterdir()
    }
    with Image.open(run / "samples-000003.png") as sheet:
        sheet.load()
    with open(run / "validation.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "3"]
    assert all({"score", "mmd", "empty", "diameter_ratio", "sphericity"} <= set(row) for row in rows)
    best = min(rows, key=lambda row: float(row["score"]))
    checkpoint = load_checkpoint(run / "best.safetensors")
    metadata = checkpoint.metadata
    assert metadata["step"] == int(best["step"])
    assert checkpoint.network.config["in_channels"] == 2 and checkpoint.network.config["out_channels"] == 1
    assert metadata["sphere"] == "signed" and metadata["prediction"] == "velocity"
    assert metadata["schedule"] == {"kind": "cosine", "num_steps": 6} and metadata["size"] == [8, 16, 16]
    assert metadata["spacing_mm"] == [1, 1, 1] and metadata["masks"] == 4
    assert metadata["git_commit"] == git_commit()


def test_validation_never_sees_the_test_masks_nor_those_trained_on(train, monkeypatch):
    seen = []

    class Recorded(MaskDataset):
        def __init__(self, masks, *arguments, **options):
            seen.append(set(masks))
            super().__init__(masks, *arguments, **options)

    monkeypatch.setattr(training, "MaskDataset", Recorded)
    assert train("trainer.train_num_steps=1")[0] == 0
    trained_on, validated_on = seen
    assert trained_on | validated_on == {f"P-{number}_Mask_1" for number in range(4, 13)}
    assert not trained_on & validated_on and len(validated_on) == 5  # the largest among them


def test_the_same_command_goes_on(train, tmp_path):
    assert train()[0] == 0
    code, out, error = train("trainer.train_num_steps=4")
    assert code == 0 and "resuming" in out, error
    whole = tmp_path / "whole"
    train("trainer.train_num_steps=4", f"results_folder={whole}")
    one, other = (
        load_checkpoint(folder / "model-000004.safetensors").network.state_dict()
        for folder in (tmp_path / "run", whole)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    scores = [
        {row["step"]: row["score"] for row in csv.DictReader(open(folder / "validation.csv"))}
        for folder in (tmp_path / "run", whole)
    ]
    assert scores[0]["4"] == scores[1]["4"]
    code, _, error = train("sphere=released", "trainer.train_num_steps=5")
    assert code == 1 and "sphere was 'signed', is 'released'" in error


def test_without_validation_no_test_masks_are_needed(train, tmp_path):
    code, out, error = train("validation_masks=0", "split=all", "test_txt_dir=null")
    assert code == 0 and "12 masks to train on" in out and "held out" not in out, error
    assert not (tmp_path / "run" / "validation.csv").exists()


@pytest.mark.parametrize(
    "overrides, texts",
    [
        (["trainer.histogram_loss=1"], ["histogram_loss"]),
        (["model.context=clean"], ["model.context"]),
        (["model.prediction=mask"], ["model.prediction=mask must be one of noise, velocity"]),
        (["loss_type=l3"], ["loss_type=l3"]),
        (["sphere=uint8"], ["sphere=uint8"]),
        (["turns=some"], ["turns=some"]),
        (["crop_size=[8,15,16]"], ["[8, 15, 16]", "multiples of 2"]),
        (["crop_size=16"], ["crop_size=16", "three whole numbers"]),
        (["validation_share=0"], ["validation_share=0 must be a number above 0 and below 1"]),
        (["validation_share=0.99"], ["9 of 9 patients", "validation_masks=0"]),
        (["validation_share=0.2"], ["held-out masks are too few", "a larger validation_share"]),
        (["crop_size=[2,2,2]"], ["no lesion fits into (2, 2, 2)"]),
        (["timesteps=0"], ["timesteps=0"]),
        (["validation_masks=-1"], ["validation_masks=-1"]),
        (["validation_masks=2"], ["2 held-out masks are too few"]),
        (["validation_steps=0"], ["validation_steps=0"]),
        (["split=every"], ["every"]),
        (["test_txt_dir=null"], ["give test_txt_dir, or split=all"]),
        (["dataset_root_dir=nowhere"], ["nowhere"]),
        (["results_folder="], ["results_folder"]),
        (["trainer.batch_size=0"], ["batch_size=0"]),
    ],
)
def test_a_bad_setting_is_refused_in_one_line(train, tmp_path, overrides, texts):
    code, _, error = train(*overrides)
    assert code == 1 and error.startswith("error: ") and error.count("\n") == 1, error
    assert all(text in error for text in texts), error
    assert not (tmp_path / "run").exists()


class Answers(UNet3D):
    """Made for one lesion: whatever the noise, it says that the mask is this function of the sphere."""

    def __init__(self, schedule, answer):
        super().__init__(dim=8, in_channels=2, out_channels=1, dim_mults=[1], attn_heads=1, attn_dim_head=8)
        self.schedule, self.answer = schedule, answer

    def forward(self, x, t):
        x_t, sphere = x.split(1, dim=1)
        signal, spread = (v.float().reshape(-1, 1, 1, 1, 1) for v in self.schedule.signal_and_noise(t))
        return (x_t - signal * self.answer(sphere)) / spread


def test_the_score_is_small_for_the_real_shapes_and_large_for_spheres_and_nothing(masks):
    layout, schedule = Layout(), NoiseSchedule.cosine(6)
    held_out = MaskDataset(find_masks(masks, layout, masks / "test.txt", "test"), layout, (10, 16, 16))
    validate = ShapeValidation(held_out, schedule, 4, 3)
    items = [held_out[i] for i in range(4)]

    def the_lesion_of(sphere):
        return next(item["mask"] for item in items if torch.equal(item["sphere"], sphere[0]))[None]

    real, sphere, nothing = (
        validate(Answers(schedule, answer)) for answer in (the_lesion_of, lambda s: s, lambda s: s * 0 - 1)
    )
    assert real["score"] == pytest.approx(0, abs=1e-3) and real["diameter_ratio"] == pytest.approx(1)
    assert 0.1 < sphere["score"] < nothing["score"]
    assert sphere["sphericity"] > real["sphericity"] and sphere["diameter_ratio"] > 1.1
    assert nothing["empty"] == 1 and np.isnan(nothing["diameter_ratio"])
    assert validate(Answers(schedule, lambda s: s)) == sphere


def test_ellipsoids_and_another_start(train, tmp_path):
    assert train()[0] == 0
    first = tmp_path / "run" / "model-000003.safetensors"
    tuned = tmp_path / "tuned"
    more = ("guide=ellipsoid", "level_power=0.4", "trainer.train_num_steps=1", "trainer.train_lr=0")
    code, _, error = train(f"results_folder={tuned}", f"init_weights={first}", *more)
    assert code == 0, error
    after = load_checkpoint(tuned / "model-000001.safetensors", "model")
    before = load_checkpoint(first, "ema").network.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.network.state_dict().items())
    assert after.metadata["guide"] == "ellipsoid" and len(after.metadata["ellipsoids"]) == 4
    assert after.metadata["loss"]["level_power"] == 0.4
    assert after.metadata["init_weights"] == first.name
