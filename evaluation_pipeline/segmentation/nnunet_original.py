"""`--model_name nnUNetv2`: the real nnU-Net, called through its own commands, on the same cases and folds.

It plans everything by itself: of our options only those of the data, --max_epochs and --output_model_dir
count. It draws its own random numbers, so two trainings differ. Needs `pip install nnunetv2`; without a GPU
an epoch of its 250 iterations takes hours.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluation_pipeline.cases.nnunet_layout import description, file_names, write_description
from evaluation_pipeline.cases.training_data import TrainingData
from evaluation_pipeline.segmentation.checkpoint import BEST_MODEL, save_checkpoint
from LeFusion.dataset.storage import atomic_file, write_json
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.hashing import sha256_of_file

NAME = "nnUNetv2"
DATASET = "Dataset001_LeFusion"
CONFIGURATION = "3d_fullres"
BEST_CHECKPOINT = "checkpoint_best.pth"
# nnU-Net has a trainer for each number of epochs
TRAINERS = {1: "nnUNetTrainer_1epoch", 1000: "nnUNetTrainer"} | {
    epochs: f"nnUNetTrainer_{epochs}epochs"
    for epochs in (5, 10, 20, 50, 100, 250, 500, 750, 2000, 4000, 8000)
}


def train_original(
    data: TrainingData, fold: int | None, max_epochs: int, output_dir: Path, metadata: dict[str, Any]
) -> Path:
    """Plans, preprocesses and trains; goes on where it stopped. -> best_model.pt, which names nnU-Net's own.

    Raises ValueError when nnunetv2 is not installed, has no trainer for this number of epochs, fails, or the
    folder holds another training.
    """
    programs = find_programs(max_epochs)
    root = (output_dir / "nnunet").absolute()
    folders = {f"nnUNet_{part}": str(root / part) for part in ("raw", "preprocessed", "results")}
    environment = os.environ | folders
    wanted = {"data_sha256": metadata["data_sha256"], "fold": metadata["fold"], "max_epochs": max_epochs}
    _claim(root / "run.json", wanted)
    train_names, validation_names = _raw_data(data, root / "raw" / DATASET)

    preprocessed = root / "preprocessed" / DATASET
    splits = preprocessed / "splits_final.json"
    if not splits.exists():
        plan = (programs["nnUNetv2_plan_and_preprocess"], "-d", "1", "-c", CONFIGURATION)
        _call([*plan, "--verify_dataset_integrity"], environment)
        write_json(splits, [{"train": train_names, "val": validation_names or train_names}])
    results = root / "results" / DATASET / f"{TRAINERS[max_epochs]}__nnUNetPlans__{CONFIGURATION}"
    part = "all" if fold is None else "0"  # the only one in splits_final.json
    checkpoints = results / f"fold_{part}"
    if (checkpoints / "checkpoint_final.pth").exists():
        print(f"{output_dir}: is already trained for {max_epochs} epochs; nothing to do")
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        goes_on = ["--c"] if (checkpoints / "checkpoint_latest.pth").exists() else []
        train = (programs["nnUNetv2_train"], "1", CONFIGURATION, part, "-tr", TRAINERS[max_epochs])
        _call([*train, "-device", device, *goes_on], environment)
    best = checkpoints / BEST_CHECKPOINT
    if not best.exists():
        raise UserError(f"{best}: was not written; see nnU-Net's messages above")
    content = {
        "model": {"name": NAME, "folder": str(results.relative_to(output_dir.absolute())), "fold": part},
        "labels": data.real.classes,
        "metadata": metadata | {"epoch": max_epochs, "checkpoint_sha256": sha256_of_file(best)},
    }
    save_checkpoint(output_dir / BEST_MODEL, content)
    return output_dir / BEST_MODEL


def find_programs(max_epochs: int) -> dict[str, str]:
    """nnU-Net's commands by name. Raises ValueError without them, or a trainer for so many epochs."""
    if max_epochs not in TRAINERS:
        raise UserError(
            f"--max_epochs {max_epochs}: nnU-Net has trainers for {', '.join(map(str, sorted(TRAINERS)))}"
        )
    return {name: _program(name) for name in ("nnUNetv2_plan_and_preprocess", "nnUNetv2_train")}


class OriginalSegmenter:
    """nnU-Net's own prediction behind the interface of segmenter.Segmenter."""

    def __init__(self, path: Path, content: dict[str, Any], device: torch.device):
        self.folder, self.fold = path.parent / content["model"]["folder"], content["model"]["fold"]
        self.labels, self.metadata, self.device = content["labels"], content["metadata"], device
        checkpoint = self.folder / f"fold_{self.fold}" / BEST_CHECKPOINT
        if not checkpoint.is_file():
            raise MissingFileError(f"{checkpoint}: no such file, but {path} names it; train again")

    def predict(self, image_path: str | os.PathLike, overlap: float = 0.5, mirror: bool = True) -> np.ndarray:
        """Labels (uint8) of an image, in its stored shape and axes."""
        try:
            from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        except ImportError as error:
            raise UserError(f"--model_name {NAME} needs nnU-Net ({error}): pip install nnunetv2") from None
        predictor = nnUNetPredictor(
            tile_step_size=1 - overlap, use_mirroring=mirror, device=self.device, allow_tqdm=False,
            perform_everything_on_device=self.device.type == "cuda",
        )  # fmt: skip
        fold = self.fold if self.fold == "all" else int(self.fold)
        predictor.initialize_from_trained_model_folder(str(self.folder), (fold,), BEST_CHECKPOINT)
        image, properties = SimpleITKIO().read_images([str(image_path)])
        labels = predictor.predict_single_npy_array(image, properties)
        return np.ascontiguousarray(labels.transpose(2, 1, 0)).astype(np.uint8)  # SimpleITK reverses the axes


def _program(name: str) -> str:
    """The path of one of nnU-Net's commands: beside this Python, or in PATH."""
    beside = str(Path(sys.executable).parent)
    program = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), beside)))
    if program is None:
        raise UserError(f"--model_name {NAME}: the command {name} is missing; pip install nnunetv2")
    return program


def _call(command: list[str], environment: dict[str, str]) -> None:
    print(" ".join(command), flush=True)
    code = subprocess.run(command, env=environment).returncode
    if code:
        raise UserError(f"{Path(command[0]).name} failed with exit code {code}; see its messages above")


def _raw_data(data: TrainingData, folder: Path) -> tuple[list[str], list[str]]:
    """Copies what is missing into nnU-Net's raw folder; -> names of (training, validation) cases."""
    cases = {case.name: case for case in (*data.train, *data.validation)}
    train = [case.name for case in data.train]
    for number, image in enumerate(data.synthetic):
        name = f"synthetic_{number:05d}_{image.name}"
        cases[name] = image
        train.append(name)
    for name, case in cases.items():
        for part, file_name, source in zip(
            ("imagesTr", "labelsTr"), file_names(name), (case.image, case.label), strict=True
        ):
            target = folder / part / file_name
            if not target.exists():
                with atomic_file(target) as temporary:
                    shutil.copyfile(source, temporary)
    channel = "CT" if data.real.modality == "CT" else "MR"
    write_description(folder, description(channel, data.real.labels, len(cases)))
    return train, [case.name for case in data.validation]


def _claim(path: Path, wanted: dict[str, Any]) -> None:
    """Notes what is trained in a folder; another training there is refused."""
    if path.exists():
        if json.loads(path.read_text()) != wanted:
            raise UserError(
                f"{path.parent}: holds a training with other data or settings; choose another "
                "--output_model_dir, or delete it"
            )
        return
    write_json(path, wanted)
