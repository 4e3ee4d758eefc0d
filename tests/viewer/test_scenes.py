"""What a page is told of a scan."""

import base64
import gzip
import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from LeFusion.viewer import scenes as module
from LeFusion.viewer.scenes import Version, scenes


def content(packed: str) -> bytes:
    return gzip.decompress(base64.b64decode(packed))


def volume(scene: dict) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(content(scene["volume"]))


def boxed(box: dict, dtype, shape_xyz) -> np.ndarray:
    """(D, H, W): a box in what is 0 otherwise."""
    array = np.zeros(shape_xyz[::-1], dtype)
    place = tuple(slice(s, s + n) for s, n in zip(box["start"], box["size"], strict=True))
    array[place] = np.frombuffer(content(box["data"]), dtype).reshape(box["size"])
    return array


def test_a_scan_is_a_volume_and_its_differences(scan):
    (scene,) = scenes(scan)
    shown = volume(scene)
    (version,) = scene["versions"]
    np.testing.assert_array_equal(np.asarray(shown.dataobj).T, scan.image)
    change = boxed(version["change"], "<i2", scene["shape"])
    np.testing.assert_array_equal(scan.image + change, scan.versions[0].image)
    np.testing.assert_array_equal(boxed(version["labels"], np.uint8, scene["shape"]), scan.versions[0].labels)
    assert scene["windows"] == [["lung", -1000, 400], ["mediastinum", -160, 240]]
    json.dumps(scene)


def test_the_affine_is_that_of_columns_rows_slices(scan):
    (scene,) = scenes(scan)
    index = (3, 7, 11)
    expected = (scan.affine @ [*index, 1])[:3]
    np.testing.assert_allclose((volume(scene).affine @ [*index[::-1], 1])[:3], expected, rtol=1e-6)


def test_each_lesion_has_a_voxel_of_its_own_its_volume_and_diameter(scan):
    (scene,) = scenes(scan)
    lesions = scene["versions"][0]["lesions"]
    inside = [np.linalg.inv(scan.affine) @ [*lesion["mm"], 1] for lesion in lesions]
    places = [tuple(np.rint(index[:3]).astype(int)) for index in inside]
    assert [scan.versions[0].labels[place] for place in places] == [1, 1]
    assert places[0][0] < 6 <= places[1][0]
    mm3 = 3 * 5 * 4 * 0.7 * 0.8 * 2
    assert lesions[0]["ml"] == pytest.approx(mm3 / 1000, abs=1e-3)
    assert np.pi / 6 * lesions[0]["ball_mm"] ** 3 == pytest.approx(mm3, rel=0.04)  # of 0.1 mm


def test_touching_lesions_are_two_where_labels_number_them(scan):
    labels = np.zeros(scan.image.shape, np.uint8)
    labels[3:5, 4:9, 5:9], labels[5:8, 4:9, 5:9] = 1, 2
    for instances, number in ((False, 1), (True, 2)):
        (scene,) = scenes(replace(scan, versions=[Version("masks", labels, None, instances)]))
        (version,) = scene["versions"]
        assert len(version["lesions"]) == number and not version["painted"] and version["change"] is None


@pytest.mark.parametrize("low, high", [(0.0, 1.5), (-40_000.0, 70_000.0)])
def test_values_that_int16_does_not_hold_are_scaled(scan, low, high):
    image = np.linspace(low, high, scan.image.size).reshape(scan.image.shape)
    version = Version("type 1", scan.versions[0].labels, image[::-1])
    (scene,) = scenes(replace(scan, image=image, versions=[version], unit=""))
    shown = np.asarray(volume(scene).dataobj).T
    step = (high - low) / 65_000
    np.testing.assert_allclose(shown, image, atol=step)
    slope, inter = scene["scale"]
    stored = np.rint((image - inter) / slope).astype("<i2")
    with np.errstate(over="ignore"):  # differences wrap around, and so do their sums
        after = stored + boxed(scene["versions"][0]["change"], "<i2", scene["shape"])
    np.testing.assert_allclose(after * slope + inter, image[::-1], atol=step)
    assert [name for name, _, _ in scene["windows"]] == ["1 to 99 %", "5 to 99.9 %", "0 to 100 %"]


def test_a_large_scan_is_shown_coarsely_and_around_its_lesions(scan, monkeypatch):
    monkeypatch.setattr(module, "MOST_VOXELS", 2000)
    monkeypatch.setattr(module, "CONTEXT_MM", 3.0)
    whole, *parts = scenes(scan)
    assert np.prod(whole["shape"]) <= 2000 and "one voxel of" in whole["note"]
    assert [len(scene["versions"][0]["lesions"]) for scene in (whole, *parts)] == [2, 1, 1]
    for part, lesion in zip(parts, whole["versions"][0]["lesions"], strict=True):
        shown = volume(part)
        index = np.rint(np.linalg.inv(shown.affine) @ [*lesion["mm"], 1])[:3].astype(int)
        stored = np.rint(np.linalg.inv(scan.affine) @ [*lesion["mm"], 1])[:3].astype(int)
        assert np.asarray(shown.dataobj)[tuple(index)] == scan.image[tuple(stored)]
    coarse = volume(whole)  # a voxel is one of those in its block, in whose middle it lies
    for index in ((0, 0, 0), (7, 5, 3), tuple(n - 1 for n in whole["shape"])):
        middle = (np.linalg.inv(scan.affine) @ coarse.affine @ [*index, 1])[:3]
        near = np.abs(np.stack(np.indices(scan.image.shape), -1) - middle).max(axis=-1) <= 1
        assert np.asarray(coarse.dataobj)[index] in scan.image[near]


def test_a_scan_without_lesions_is_shown(scan):
    (scene,) = scenes(replace(scan, versions=[Version("masks", np.zeros(scan.image.shape, np.uint8))]))
    assert scene["versions"] == [
        {"title": "masks", "painted": False, "change": None, "labels": None, "lesions": []}
    ]
