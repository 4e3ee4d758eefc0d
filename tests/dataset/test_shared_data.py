"""All real cases at hand load. Skipped where the data is not there."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from LeFusion.dataset.cases import Layout, find_cases
from LeFusion.dataset.dataset import LesionDataset
from LeFusion.dataset.loading import load_case
from LeFusion.dataset.scans import read_volume, write_volume_like

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
EMIDEC = Layout("images", "labels", (), lesion_labels=(3, 4), other_labels=(1, 2), depth_axis=2)

pytestmark = pytest.mark.skipif(
    not (DATA / "LIDC").is_dir(), reason=f"no data in {DATA}; set LEFUSION_SHARED_DATA to its folder"
)


@pytest.mark.parametrize("folder, count", [("Pathological", 97), ("Normal", 24)])
def test_every_lidc_case_loads(folder, count):
    cases = find_cases(DATA / "LIDC" / folder, Layout())
    assert len(cases) == count
    dataset = LesionDataset(cases, Layout(), cache_bytes=0)
    for index in range(count):
        item = dataset[index]
        assert item["image"].shape == (1, 32, 64, 64) and item["lesions"].any()
        assert item["image"].min() >= -1 and item["image"].max() <= 1
        assert item["histogram"].sum().item() == pytest.approx(1, abs=1e-5)


def test_lidc_split_has_no_overlap():
    root = DATA / "LIDC" / "Pathological"
    train, test = (find_cases(root, Layout(), root / "test.txt", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (77, 20) and not {c.name for c in train} & {c.name for c in test}


def test_lidc_lesions_and_histograms_agree_with_the_tables():
    """Voxel counts are exact; the table's histograms are of native voxels, ours of 1 mm cubes: close."""
    root = DATA / "LIDC" / "Pathological"
    with open(root / "cases.csv", newline="") as file:
        table = {row["name"]: row for row in csv.DictReader(file)}
    with open(DATA / "lidc_nodule_histograms.csv", newline="") as file:
        native = {row["name"]: [float(row[f"h{i:02d}"]) for i in range(16)] for row in csv.DictReader(file)}
    dataset = LesionDataset(find_cases(root, Layout()), Layout(), cache_bytes=0)
    distances = []
    for item in dataset:
        assert item["lesions"].sum().item() == int(table[item["name"]]["mask_voxels"])
        matched = native.get(item["name"].replace("_Vol_", "_R_"))
        if matched is not None:
            distances.append(np.abs(item["histogram"].numpy() - matched).sum() / 2)
    assert len(distances) > 20 and np.median(distances) < 0.15, (len(distances), np.median(distances))


def test_every_emidec_case_loads_depth_first():
    cases = find_cases(DATA / "EMIDEC" / "Pathological", EMIDEC)
    assert len(cases) == 54
    for case in cases:
        loaded = load_case(case, EMIDEC, "minmax")
        assert (
            loaded.image_dhw.shape == loaded.lesions_dhw.shape[1:] == (*loaded.volume.raw.shape[2:], 96, 96)
        )
        assert (loaded.image_dhw.min(), loaded.image_dhw.max()) == (-1, 1)


def test_a_real_case_written_back_unchanged_is_identical(tmp_path):
    for path in (
        DATA / "CT" / "chest_ct.nii.gz",
        *sorted((DATA / "EMIDEC" / "Normal" / "images").glob("*"))[:2],
    ):
        source = read_volume(path)
        write_volume_like(source, source.values, source.raw > 100, tmp_path / path.name)
        copy = read_volume(tmp_path / path.name)
        assert copy.raw.tobytes() == source.raw.tobytes()
        assert copy.header.binaryblock == source.header.binaryblock
