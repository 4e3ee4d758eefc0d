"""Lesions in whole scans: each by itself, in its own voxels, whatever the order of the axes."""

import json

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.fidelity.inserted import find_inserted, read_inserted
from LeFusion.data_types import load_data_type
from LeFusion.errors import MissingFileError, UserError

LIDC = load_data_type("lidc")
AFFINE = np.diag([-0.7, -0.7, 2.5, 1.0])  # stored left, front, head


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)


@pytest.fixture
def scan(tmp_path):
    """-> write(folder, **changed arrays): an output of two lesions, at 100 and beyond the window."""
    source = np.full((60, 50, 20), -800, np.int16)
    labels = np.zeros(source.shape, np.uint8)
    labels[10:16, 20:24, 5:7], labels[40:42, 30:33, 12] = 1, 2
    save(tmp_path / "sources" / "ct.nii.gz", source)
    image = np.choose(labels, (source, 100, 900)).astype(np.int16)

    def write(name="ct_v1", edit=labels, image=image):
        save(tmp_path / "out" / name / "image.nii.gz", image)
        save(tmp_path / "out" / name / "labels.nii.gz", labels)
        if edit is not None:
            save(tmp_path / "out" / name / "edit.nii.gz", (edit > 0).astype(np.uint8))
        (tmp_path / "out" / name / "report.json").write_text(json.dumps({"source": "/data/ct.nii.gz"}))
        return tmp_path / "out"

    return write


def test_each_lesion_is_read_by_itself(scan, tmp_path):
    (found,) = find_inserted(scan())
    assert (found.name, found.source) == ("ct_v1", "ct") and found.edit is not None
    assert find_inserted(tmp_path / "out" / "ct_v1") == [found] and find_inserted(tmp_path / "sources") == []
    (first, second), _ = read_inserted([found], LIDC, None)
    assert (first.case, second.case) == ("ct_v1/1", "ct_v1/2") and first.patient == second.patient == "ct"
    assert first.spacing_mm == pytest.approx((2.5, 0.7, 0.7)) and first.kind == 1
    assert (first.mask.sum(), second.mask.sum()) == (6 * 4 * 2, 2 * 3)
    assert set(first.values) == {100} and set(second.values) == {400}
    assert np.array_equal(first.labels > 0, first.mask)
    assert not (first.image == 400).any() or first.image[~first.mask].max() == 400  # another, not its own


def test_what_changed_outside_of_what_was_painted(scan, tmp_path):
    sources = {"ct": tmp_path / "sources" / "ct.nii.gz"}
    _, (background,) = read_inserted(find_inserted(scan()), LIDC, sources)
    assert (background.case, background.largest, background.changed_voxels) == ("ct_v1", 0, 0)
    painted = np.zeros((60, 50, 20), np.uint8)
    painted[10:16] = 1
    _, (background,) = read_inserted(find_inserted(scan(edit=painted)), LIDC, sources)
    assert (background.largest, background.changed_voxels) == (1700, 6)
    _, none = read_inserted(find_inserted(scan("other", edit=None))[1:], LIDC, sources)
    assert none == []


def test_damaged_outputs_are_refused(scan, tmp_path):
    found = find_inserted(scan())
    with pytest.raises(UserError, match="--source_dir has no scan ct"):
        read_inserted(found, LIDC, {"other": found[0].image})
    (tmp_path / "out" / "ct_v1" / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"report.json: is no report of lefusion insert"):
        find_inserted(tmp_path / "out")
    scan()
    found[0].image.unlink()
    with pytest.raises(MissingFileError, match="ct_v1: has labels and no image"):
        find_inserted(tmp_path / "out")
