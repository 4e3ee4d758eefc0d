"""The calls of nnU-Net's commands, played by scripts that note what they were asked for."""

import json
import os
from pathlib import Path

import pytest

from evaluation_pipeline.cases.nnunet_layout import LabelledImage, RealDataset
from evaluation_pipeline.cases.synthetic import SyntheticImage
from evaluation_pipeline.cases.training_data import TrainingData
from evaluation_pipeline.segmentation.checkpoint import read_checkpoint
from evaluation_pipeline.segmentation.nnunet_original import train_original
from evaluation_pipeline.segmentation.segmenter import load_segmenter

TRAINER = """#!/bin/sh
echo "train $@" >> calls.txt
fold="$nnUNet_results/Dataset001_LeFusion/$5__nnUNetPlans__3d_fullres/fold_$3"
test -f "$nnUNet_preprocessed/Dataset001_LeFusion/splits_final.json" || exit 3
mkdir -p "$fold" && echo weights > "$fold/checkpoint_best.pth" && touch "$fold/checkpoint_latest.pth"
test -f fail && exit 7
touch "$fold/checkpoint_final.pth"
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "bin").mkdir()
    plan = '#!/bin/sh\necho "plan $@" >> calls.txt\ntest -f "$nnUNet_raw/Dataset001_LeFusion/dataset.json"\n'
    for name, script in (("nnUNetv2_plan_and_preprocess", plan), ("nnUNetv2_train", TRAINER)):
        path = tmp_path / "bin" / name
        path.write_text(script)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def data(tmp_path) -> TrainingData:
    def file(name: str) -> Path:
        (tmp_path / name).write_bytes(name.encode())
        return tmp_path / name

    cases = [LabelledImage(name, file(f"{name}.i"), file(f"{name}.l")) for name in ("A", "B", "C")]
    made = [SyntheticImage("A", kind, file(f"s{kind}.i"), file(f"s{kind}.l")) for kind in (1, 2)]
    real = RealDataset(tmp_path, "CT", {"nodule": 1}, cases, [])
    return TrainingData(real, cases[:2], cases[2:], made, 0)


METADATA = {"data_sha256": "x", "fold": 1}


def calls(tmp_path) -> list[str]:
    return (tmp_path / "calls.txt").read_text().splitlines()


def test_nnunet_gets_the_same_cases_and_fold(programs, data, tmp_path):
    output = Path("model")
    best = train_original(data, 1, 5, output, METADATA)
    assert calls(tmp_path) == [
        "plan -d 1 -c 3d_fullres --verify_dataset_integrity",
        "train 1 3d_fullres 0 -tr nnUNetTrainer_5epochs -device cpu",
    ]
    raw = output / "nnunet/raw/Dataset001_LeFusion"
    assert (raw / "imagesTr/synthetic_00001_A_0000.nii.gz").read_bytes() == b"s2.i"
    assert (
        json.loads((raw / "dataset.json").read_text())["numTraining"]
        == 5
        == len(list((raw / "labelsTr").iterdir()))
    )
    (split,) = json.loads((output / "nnunet/preprocessed/Dataset001_LeFusion/splits_final.json").read_text())
    assert split == {"train": ["A", "B", "synthetic_00000_A", "synthetic_00001_A"], "val": ["C"]}
    assert read_checkpoint(best)["model"]["name"] == "nnUNetv2"
    segmenter = load_segmenter(output, "nnUNetv2", "cpu")
    assert segmenter.labels == {"nodule": 1} and segmenter.metadata["epoch"] == 5
    with pytest.raises(ValueError, match="holds a nnUNetv2, not a UNet"):
        load_segmenter(output, "UNet")


def test_a_failed_training_goes_on_and_a_finished_one_rests(programs, data, tmp_path, capsys):
    Path("fail").touch()
    with pytest.raises(ValueError, match="nnUNetv2_train failed with exit code 7"):
        train_original(data, None, 1000, Path("model"), METADATA)
    Path("fail").unlink()
    train_original(data, None, 1000, Path("model"), METADATA)
    train_original(data, None, 1000, Path("model"), METADATA)
    assert [call for call in calls(tmp_path) if call.startswith("train")] == [
        "train 1 3d_fullres all -tr nnUNetTrainer -device cpu",
        "train 1 3d_fullres all -tr nnUNetTrainer -device cpu --c",
    ]
    assert "already trained" in capsys.readouterr().out
    with pytest.raises(ValueError, match="other data or settings"):
        train_original(data, None, 1000, Path("model"), METADATA | {"data_sha256": "y"})


def test_without_nnunet_the_error_says_how_to_get_it(data, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(ValueError, match="pip install nnunetv2"):
        train_original(data, 0, 5, tmp_path / "model", METADATA)
    with pytest.raises(ValueError, match="trainers for 1, 5, 10"):
        train_original(data, 0, 7, tmp_path / "model", METADATA)
