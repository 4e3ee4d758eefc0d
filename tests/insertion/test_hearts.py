"""Infarcts in hearts, by the same command as lesions in lungs."""

import csv
import shutil

import nibabel
import numpy as np
import pytest

from LeFusion.errors import UserError
from LeFusion.insertion.run import run
from LeFusion.runtime.commandline import PROJECT_ROOT

DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
HEART = "Case_DEMO-N03"  # the smallest


@pytest.fixture
def hearts(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / "hearts" / folder).mkdir(parents=True)
        shutil.copy(DEMO / folder / f"{HEART}.nii.gz", tmp_path / "hearts" / folder)
    return tmp_path / "hearts"


@pytest.fixture
def heart_settings(composed, save_network, tmp_path):
    """-> heart_settings(**given): of a run on hearts."""
    from LeFusion.settings import InsertSettings

    model = save_network("heart.safetensors", 2, data_type="emidec", window="minmax", lesion_labels=[3, 4])
    asked = ("data_type=emidec", "input=in", "output=out", f"model_path={model}", "num_steps=1", "device=cpu")
    defaults = composed("insert", *asked)

    def of(**given) -> InsertSettings:
        chosen = {"output": tmp_path / "out"} | given
        return InsertSettings.of(defaults | {key: str(value) for key, value in chosen.items()})

    return of


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def test_a_heart_gets_an_infarct_in_its_wall(hearts, heart_settings, tmp_path, files):
    (folder,) = run(heart_settings(input=hearts))
    before, after = voxels(hearts / "images" / f"{HEART}.nii.gz"), voxels(folder / "image.nii.gz")
    drawn, labels = voxels(hearts / "labels" / f"{HEART}.nii.gz"), voxels(folder / "labels.nii.gz")
    infarct = np.isin(labels, (3, 4))
    assert infarct.any() and (drawn[infarct] == 2).all()
    assert np.array_equal(labels[~infarct], drawn[~infarct])
    changed = before != after
    assert changed.any() and not (changed & ~infarct).any()
    with open(folder / "lesions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["instance"]) for row in rows] == sorted(set(labels[infarct].tolist()))
    assert float(rows[0]["mean"]) == pytest.approx(after[labels == 3].mean(), abs=0.01)
    image = hearts / "images" / f"{HEART}.nii.gz"
    (alone,) = run(heart_settings(input=image, output=tmp_path / "alone"))
    given = {"input": image, "labels": hearts / "labels", "output": tmp_path / "given"}
    (named,) = run(heart_settings(**given))
    same = [{n: c for n, c in files(f).items() if n != "report.json"} for f in (folder, alone, named)]
    assert same[0] == same[1] == same[2]


def test_lesion_labels_that_are_there_are_painted(hearts, heart_settings):
    path = hearts / "labels" / f"{HEART}.nii.gz"
    image = nibabel.load(path)
    labels = np.asanyarray(image.dataobj).copy()
    wall = np.argwhere(labels == 2)[:40]
    labels[tuple(wall.T)] = 3
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    (folder,) = run(heart_settings(input=hearts))
    assert np.array_equal(voxels(folder / "labels.nii.gz"), labels)


def test_what_is_for_lungs_is_refused(hearts, heart_settings, settings, tmp_path):
    with pytest.raises(UserError, match="sites=a.csv is for lungs; a heart gets one infarct"):
        run(heart_settings(input=hearts, sites="a.csv"))
    shutil.copy(hearts / "images" / f"{HEART}.nii.gz", tmp_path / "alone.nii.gz")
    with pytest.raises(
        UserError, match="alone.nii.gz: say with labels= where the label map of this heart is"
    ):
        run(heart_settings(input=tmp_path / "alone.nii.gz"))
    with pytest.raises(UserError, match="labels=a.nii.gz are of hearts, for data_type=emidec"):
        run(settings(input=hearts, labels="a.nii.gz"))
