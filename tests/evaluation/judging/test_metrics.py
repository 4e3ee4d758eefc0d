"""Metrics: hand-made answers, identities, and agreement with the independent package surface-distance."""

import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

from evaluation_pipeline.judging import metrics
from LeFusion.dataset.scans import read_volume

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("LEFUSION_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
SPACING = (0.7, 1.25, 2.5)
SHAPE = (16, 20, 24)


def blob(seed: int, shape=SHAPE, level: float = 0.0) -> np.ndarray:
    """Smoothed noise above a level: several parts, holes, and contact with the border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > level * noise.std()


def cube(start=(4, 5, 6), size=(6, 6, 6), shape=SHAPE) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] = True
    return mask


def assert_agrees(prediction: np.ndarray, reference: np.ndarray, spacing, tolerances) -> None:
    surface_distance = pytest.importorskip("surface_distance", reason="pip install surface-distance")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls old names of scipy
        theirs = surface_distance.compute_surface_distances(reference, prediction, spacing)
    expected = surface_distance.compute_robust_hausdorff(theirs, 95)
    ours = metrics.surface_distances(prediction, reference, spacing)
    assert ours.hd95() == pytest.approx(expected, abs=1e-6)
    for tolerance in tolerances:
        expected = surface_distance.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert ours.nsd(tolerance) == pytest.approx(expected, abs=1e-6), tolerance


@pytest.mark.parametrize("spacing", [(1, 1, 1), SPACING, (10, 1.458, 1.458), (0.1, 0.3, 7)])
@pytest.mark.parametrize("seed", range(6))
def test_agreement_on_random_masks(seed, spacing):
    # multiples of a spacing put many surface elements exactly at the tolerance
    tolerances = (0, 1, 2, 3 * spacing[0], 3 * spacing[1], 2 * spacing[2], 0.37)
    prediction, reference = blob(seed), blob(seed + 100)
    assert prediction[:, 0].any() and reference[-1].any()  # both touch the border
    assert_agrees(prediction, reference, spacing, tolerances)
    assert_agrees(blob(seed, level=2), blob(seed + 100, level=1.5), spacing, tolerances)
    assert_agrees(np.roll(reference, 1, 1), reference, spacing, tolerances)


def test_agreement_where_the_percentile_falls_between_two_distances():
    """19 of 20 equal lesions are found exactly: 95 % of the area lies at 0 mm, the rest elsewhere."""
    reference = np.zeros((5, 20, 24), bool)
    reference[2, 2:18:4, 2:22:4] = True
    prediction = reference.copy()
    prediction[2, 2, 2] = False
    prediction[4, 0, 0] = True
    assert reference.sum() == prediction.sum() == 20
    for spacing in ((1, 1, 1), SPACING, (0.3, 0.9, 1.1)):
        assert_agrees(prediction, reference, spacing, (1, 2))


@pytest.mark.skipif(not (DATA / "LIDC").is_dir(), reason=f"no data in {DATA}; set LEFUSION_SHARED_DATA")
def test_agreement_on_real_masks():
    nodules = sorted((DATA / "LIDC" / "Pathological" / "Mask").rglob("*.nii.gz"))[:8]
    masks = [read_volume(path).raw > 0 for path in nodules]
    for mask, other in zip(masks, masks[1:], strict=False):
        assert_agrees(other, mask, (2.5, 0.7, 0.7), (1, 2, 2.1, 5))
        assert_agrees(ndimage.binary_dilation(mask), mask, (1, 1, 1), (0.5, 1, 2))
    hearts = sorted((DATA / "EMIDEC" / "Pathological" / "labels").glob("*.nii.gz"))[:6]
    for path in hearts:
        volume = read_volume(path)
        infarct = volume.raw >= 3
        spacing = tuple(np.linalg.norm(volume.affine[:3, :3], axis=0))
        assert_agrees(np.roll(infarct, 2, 0), infarct, spacing, (1, 2, 10))
        assert_agrees(volume.raw == 2, infarct, spacing, (1, 2, 10))


def test_the_table_of_surfaces():
    """A corner with one voxel inside has a triangle; with the inside out its normal has the same length."""
    areas = metrics._areas_by_code((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0 and areas[1:255].min() > 0
    assert areas[metrics.BITS.ravel()] == pytest.approx(np.sqrt(3) / 8)
    assert areas == pytest.approx(areas[::-1], rel=0.6)
    half = int(metrics.BITS[0].sum())
    assert areas[half] == areas[255 - half] == 1  # a plane


def test_agreement_with_monai_within_its_precision():
    prediction, reference = blob(1), blob(2)
    batch = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, reference)]
    for tolerance in (0.81, 1.93):
        theirs = compute_surface_dice(
            *batch, [tolerance], include_background=True, spacing=SPACING, use_subvoxels=True
        )
        ours = metrics.nsd(prediction, reference, SPACING, tolerance)
        assert ours == pytest.approx(theirs.item(), abs=1e-5)
    table, _ = create_table_neighbour_code_to_surface_area(SPACING)
    assert metrics._areas_by_code(SPACING) == pytest.approx(table.numpy(), rel=1e-6)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("shift", [1, 3])
def test_hd95_of_a_shifted_cube_is_the_shift(axis, shift):
    """A sixth of the surface, the face in front, lies exactly so far off."""
    moved = np.roll(cube(), shift, axis)
    distance = shift * SPACING[axis]
    surfaces = metrics.surface_distances(moved, cube(), SPACING)
    assert surfaces.hd95() == pytest.approx(distance)
    assert surfaces.nsd(distance + 1e-6) == 1 and surfaces.nsd(distance - 1e-6) < 0.9
    assert metrics.dice(moved, cube()) == pytest.approx((6 - shift) / 6)


def test_identical_and_exchanged_masks():
    prediction, reference = blob(3), blob(4)
    assert metrics.dice(reference, reference) == 1
    assert metrics.hd95(reference, reference, SPACING) == 0
    assert metrics.nsd(reference, reference, SPACING, 0) == 1
    assert metrics.dice(prediction, reference) == metrics.dice(reference, prediction) < 1
    pairs = (prediction, reference), (reference, prediction)
    assert len({metrics.hd95(*pair, SPACING) for pair in pairs}) == 1
    nsd = [metrics.nsd(*pair, SPACING, 1) for pair in pairs]
    assert nsd[0] == pytest.approx(nsd[1]) and 0.1 < nsd[0] < 1
    found, exchanged = (metrics.lesion_detection(*pair) for pair in pairs)
    assert found["Lesion Sensitivity"] == exchanged["Lesion Precision"]
    assert found["Lesion F1"] == exchanged["Lesion F1"]


def test_moving_both_masks_changes_nothing():
    prediction, reference = cube((2, 2, 2)), cube((3, 4, 2), (5, 7, 6))
    moved = [np.roll(mask, (3, 4, 5), (0, 1, 2)) for mask in (prediction, reference)]
    before = metrics.case_metrics(prediction, reference, SPACING, [1])[1]
    assert metrics.case_metrics(*moved, SPACING, [1])[1] == pytest.approx(before)


def test_larger_voxels_scale_distances_and_volumes():
    prediction, reference = blob(5), blob(6)
    doubled = tuple(2 * size for size in SPACING)
    small = metrics.case_metrics(prediction, reference, SPACING, [1], (1.1,))[1]
    large = metrics.case_metrics(prediction, reference, doubled, [1], (2.2,))[1]
    assert large["HD95 mm"] == pytest.approx(2 * small["HD95 mm"])
    assert large["NSD 2.2 mm"] == pytest.approx(small["NSD 1.1 mm"])
    assert large["Volume ml"] == pytest.approx(8 * small["Volume ml"])
    assert large["Relative Volume Error"] == pytest.approx(small["Relative Volume Error"])


def test_the_border_of_the_volume_is_a_surface():
    """Cut off right at the masks or with a margin: the same distances."""
    prediction, reference = np.ones((4, 5, 6), bool), cube((0, 0, 2), (4, 5, 4), (4, 5, 6))
    wide = [np.pad(mask, 3) for mask in (prediction, reference)]
    for spacing in ((1, 1, 1), SPACING):
        tight, padded = (
            metrics.surface_distances(*masks, spacing) for masks in ((prediction, reference), wide)
        )
        assert tight.hd95() == padded.hd95() == 2 * spacing[2]
        assert tight.nsd(1) == padded.nsd(1) < 1
        assert tight.areas_mm2[0].sum() == pytest.approx(padded.areas_mm2[0].sum())


def test_surface_area_of_a_plate_is_about_its_faces():
    area = metrics.surface_distances(cube((1, 1, 1), (2, 15, 18)), cube(), SPACING).areas_mm2[0].sum()
    depth, height, width = 2 * 0.7, 15 * 1.25, 18 * 2.5
    assert area == pytest.approx(2 * (depth * height + depth * width + height * width), rel=0.05)


def test_empty_masks():
    empty, full = np.zeros(SHAPE, bool), cube()
    diagonal = math.sqrt((16 * 0.7) ** 2 + (20 * 1.25) ** 2 + (24 * 2.5) ** 2)
    volume = 216 * 0.7 * 1.25 * 2.5 / 1000
    names = ("Dice", "HD95 mm", "NSD 1 mm", "Lesion Sensitivity", "Lesion Precision", "Lesion F1")
    names += ("Volume Error ml", "Relative Volume Error")
    nan = math.nan
    for prediction, reference, expected in (
        (empty, empty, (1, 0, 1, nan, nan, nan, 0, nan)),
        (full, empty, (0, diagonal, 0, nan, 0, 0, volume, nan)),
        (empty, full, (0, diagonal, 0, 0, nan, 0, volume, 1)),
    ):
        found = metrics.case_metrics(prediction, reference, SPACING, [1])[1]
        assert [found[name] for name in names] == pytest.approx(expected, nan_ok=True)


def test_the_penalty_for_an_empty_mask_exceeds_every_distance():
    corners = np.zeros((2, *SHAPE), bool)
    corners[0, 0, 0, 0] = corners[1, -1, -1, -1] = True
    empty = np.zeros(SHAPE, bool)
    assert metrics.hd95(*corners, SPACING) < metrics.hd95(corners[0], empty, SPACING)


def test_lesions_found_by_hand():
    real = cube((1, 1, 1), (3, 3, 3)) | cube((10, 10, 10), (3, 3, 3))
    predicted = cube((2, 1, 1), (3, 3, 3)) | cube((1, 15, 18), (2, 2, 2)) | cube((12, 1, 18), (2, 2, 2))
    found = metrics.lesion_detection(predicted, real)  # the first of each overlap by two thirds
    assert found == pytest.approx(
        {"Lesion Sensitivity": 1 / 2, "Lesion Precision": 1 / 3, "Lesion F1": 2 / 5}
    )


NOTHING = {"Lesion Sensitivity": 0, "Lesion Precision": 0, "Lesion F1": 0}
EVERYTHING = {"Lesion Sensitivity": 1, "Lesion Precision": 1, "Lesion F1": 1}


def test_a_lesion_is_found_from_an_iou_of_a_tenth():
    real = cube((4, 5, 6), (1, 1, 10))
    tenth, less = cube((4, 5, 6), (1, 1, 1)), cube((4, 5, 15), (1, 1, 2))  # 1 of 10 and 1 of 11 voxels
    assert metrics.lesion_detection(tenth, real) == metrics.lesion_detection(real, tenth) == EVERYTHING
    assert metrics.lesion_detection(less, real) == metrics.lesion_detection(real, less) == NOTHING


def test_a_mask_over_everything_finds_nothing():
    real = cube((1, 1, 1), (3, 3, 3)) | cube((10, 10, 10), (3, 3, 3))
    assert metrics.lesion_detection(np.ones(SHAPE, bool), real) == NOTHING


def test_one_prediction_may_find_two_lesions_and_two_may_find_one():
    parts, whole = cube((4, 4, 4), (2, 4, 4)) | cube((8, 4, 4), (2, 4, 4)), cube((4, 4, 4), (6, 4, 4))
    assert metrics.lesion_detection(whole, parts) == EVERYTHING
    assert metrics.lesion_detection(parts, whole) == EVERYTHING
    assert metrics.lesion_detection(cube((12, 4, 4), (2, 2, 2)), parts) == NOTHING


def test_voxels_that_share_a_corner_are_one_lesion():
    diagonal = np.zeros((4, 4, 4), bool)
    diagonal[range(4), range(4), range(4)] = True
    one = np.zeros_like(diagonal)
    one[0, 0, 0] = True
    # as one component a quarter is found; as two, one of two
    assert metrics.lesion_detection(one, diagonal)["Lesion Sensitivity"] == 1
    apart = diagonal.copy()
    apart[1, 1, 1] = False
    assert metrics.lesion_detection(one, apart)["Lesion Sensitivity"] == 0.5


def test_volumes_by_hand():
    reference, prediction = cube(size=(2, 5, 10)), cube(size=(2, 5, 9))
    found = metrics.case_metrics(prediction, reference, (1, 2, 5), [1])[1]
    assert (found["Reference Volume ml"], found["Volume ml"]) == pytest.approx((1.0, 0.9))
    assert (found["Volume Error ml"], found["Relative Volume Error"]) == pytest.approx((0.1, 0.1))
    assert metrics.case_metrics(reference, prediction, (1, 2, 5), [1])[1]["Volume Error ml"] > 0


def test_classes_are_judged_apart():
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    reference[cube((1, 1, 1))], reference[cube((8, 8, 8))] = 3, 4
    prediction[cube((1, 1, 1))], prediction[cube((8, 8, 8))] = 3, 3
    found = metrics.case_metrics(prediction, reference, SPACING, [3, 4], (1, 2.5))
    assert (found[3]["Dice"], found[4]["Dice"]) == (pytest.approx(2 / 3), 0)
    assert "NSD 2.5 mm" in found[3] and "NSD 1 mm" in found[3] and "NSD 2 mm" not in found[3]


def test_percentage_of_the_myocardium_by_hand():
    reference = np.zeros((1, 10, 10), np.uint8)
    reference[0, :6], reference[0, 6:8], reference[0, 8] = 2, 3, 4  # 60, 20 and 10 voxels: a wall of 90
    prediction = np.where(reference == 4, 3, reference)
    found = metrics.wall_metrics(prediction, reference, [3, 4], [2, 3, 4])
    names = ("Reference Volume % of Myocardium", "Volume % of Myocardium", "Volume Error % of Myocardium")
    assert [found[3][name] for name in names] == pytest.approx([200 / 9, 300 / 9, 100 / 9])
    assert [found[4][name] for name in names] == pytest.approx([100 / 9, 0, 100 / 9])
    without = metrics.wall_metrics(prediction, np.zeros_like(reference), [3], [2, 3, 4])[3]
    assert all(math.isnan(value) for value in without.values())


def test_bad_input():
    with pytest.raises(ValueError, match=r"\(16, 20, 24\).*\(2, 2, 2\)"):
        metrics.dice(cube(), np.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="two 3D masks"):
        metrics.hd95(np.ones((4, 4)), np.ones((4, 4)), (1, 1, 1))
    for spacing in ((1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1), (1, math.inf, 1)):
        with pytest.raises(ValueError, match="three positive numbers"):
            metrics.nsd(cube(), cube(), spacing, 1)
    with pytest.raises(ValueError, match="-1 mm is negative"):
        metrics.nsd(cube(), cube(), SPACING, -1)
