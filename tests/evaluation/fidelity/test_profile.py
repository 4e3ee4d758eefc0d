"""Layers across a border, grain and strands, on lesions made by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation_pipeline.fidelity.lesions import Lesion, TooLittleData
from evaluation_pipeline.fidelity.profile import (
    ALIKE,
    LAYERS,
    compare_profiles,
    darkest_dot,
    grain,
    grains,
    in_like_scans,
    layer_profile,
    profiles,
    sharpness_across_slices,
    strands,
    unevenness,
)


def ball(radius=6.0, size=33) -> np.ndarray:
    axes = np.indices((size, size, size)) - size // 2
    return (axes**2).sum(axis=0) <= radius**2


def lesion_of(image: np.ndarray, mask: np.ndarray) -> Lesion:
    return Lesion("A", "A", 0, None, image.astype(np.float32), mask, mask.astype(np.uint8), (1.0, 1.0, 1.0))


def test_a_sharp_lesion_has_nothing_outside_and_all_inside():
    mask = ball()
    assert layer_profile(lesion_of(-850 + 800.0 * mask, mask)) == pytest.approx([1, 1, 1, 0, 0, 0])


def test_a_blurred_lesion_fades():
    mask = ball()
    shares = layer_profile(lesion_of(gaussian_filter(-850 + 800.0 * mask, 1.0), mask))
    assert (np.diff(shares) < 0).all()
    assert shares[LAYERS.index(1)] > 0.15 and 0.5 < shares[LAYERS.index(-1)] < 0.85


def test_without_contrast_or_surroundings_there_is_no_profile():
    mask = ball()
    assert np.isnan(layer_profile(lesion_of(np.zeros(mask.shape), mask))).all()
    assert np.isnan(layer_profile(lesion_of(1.0 * mask, np.ones_like(mask)))).all()
    assert profiles([]).shape == (0, len(LAYERS))


def test_grain_is_the_noise_inside_against_the_noise_around():
    mask, rng = ball(8), np.random.default_rng(0)
    noise = rng.normal(0, 20, mask.shape)
    inside, scan = grain(lesion_of(np.where(mask, 3 * noise, noise), mask))
    assert inside / scan == pytest.approx(3, rel=0.25)
    ((inside, scan),) = grains([lesion_of(noise, mask)])
    assert inside / scan == pytest.approx(1, rel=0.25)


def test_a_lesion_without_core_has_no_grain():
    found = grains([lesion_of(np.ones((33, 33, 33)), ball(2))])
    assert found.shape == (1, 2) and np.isnan(found[0, 0])
    assert not len(in_like_scans(found, np.ones((3, 2)))) and not len(in_like_scans(np.ones((3, 2)), found))


def test_like_scans_are_those_nearest_in_noise():
    real = np.stack([np.arange(1.0, 61), np.arange(1.0, 61)], axis=1)
    found = in_like_scans(real, np.array([[9.0, 30], [9, 40], [9, 41]]))
    assert sorted(found[:, 1]) == list(range(32, 52))  # by the ratio: 31 / 40 is farther off than 40 / 51
    assert len(in_like_scans(real[:5], found)) == 5 and not len(in_like_scans(real, found[:0]))


def test_grain_is_judged_against_real_ones_of_scans_as_noisy():
    """Real cores have noise of 20 whatever the scan's, so in noisy scans their ratio is low."""
    rng, mask = np.random.default_rng(0), ball(8)

    def lesion(scan):
        noise = rng.normal(0, 1, mask.shape)
        return lesion_of(np.where(mask, 20 * noise, scan * noise - 800), mask)

    real = [lesion(scan) for scan in [10.0] * 30 + [40.0] * ALIKE]
    found = compare_profiles(real, [lesion(40.0) for _ in range(12)], np.random.default_rng(1))
    assert found["grain"]["real"] > 1.5 and found["grain"]["auc"] > 0.7
    assert found["grain_in_like_scans"]["real"] == pytest.approx(0.5, rel=0.2)
    assert found["grain_in_like_scans"]["low"] < 0.75


def test_a_sharp_rim_is_seen_in_its_layer_alone():
    rng, mask = np.random.default_rng(0), ball()
    scans = [-850 + rng.normal(0, 10, mask.shape) for _ in range(24)]
    blurred = [lesion_of(scan + gaussian_filter(800.0 * mask, 1.0), mask) for scan in scans]
    real, alike = blurred[:12], blurred[12:]
    sharp = [
        lesion_of(np.where(mask, one.image, scan), mask) for one, scan in zip(alike, scans[12:], strict=True)
    ]
    found = compare_profiles(real, sharp, np.random.default_rng(1))
    by_layer = {row["layer"]: row["auc"] for row in found["layers"]}
    assert by_layer[1] == 1 and by_layer[-1] < 0.85
    same = compare_profiles(real, alike, np.random.default_rng(1))
    assert all(row["low"] < 0.72 for row in same["layers"])


def test_grain_that_is_not_the_scan_s_is_seen():
    rng, mask = np.random.default_rng(0), ball(8)
    noise = [rng.normal(0, 20, mask.shape) for _ in range(12)]
    real = [lesion_of(n - 800 * ~mask, mask) for n in noise[:6]]
    grainy = [lesion_of(np.where(mask, 2 * n, n - 800), mask) for n in noise[6:]]
    found = compare_profiles(real, grainy, np.random.default_rng(1))["grain"]
    assert found["auc"] == 1 and found["synthetic"] == pytest.approx(2 * found["real"], rel=0.2)


def test_a_mottled_core_is_seen_by_its_unevenness():
    rng, mask = np.random.default_rng(0), ball(8)
    noise = [rng.normal(0, 20, mask.shape) for _ in range(12)]
    real = [lesion_of(np.where(mask, n, n - 800), mask) for n in noise[:6]]
    blobs = [60 * gaussian_filter(rng.normal(0, 1, mask.shape), 2.0) * 10 for _ in noise[6:]]
    mottled = [lesion_of(np.where(mask, n + b, n - 800), mask) for n, b in zip(noise[6:], blobs, strict=True)]
    found = compare_profiles(real, mottled, np.random.default_rng(1))["unevenness"]
    assert found["auc"] == 1 and found["synthetic"] > 2 * found["real"]
    same = [lesion_of(np.where(mask, n, n - 800), mask) for n in noise[6:]]
    assert compare_profiles(real, same, np.random.default_rng(1))["unevenness"]["low"] < 0.75
    assert unevenness(real[0]) == pytest.approx(unevenness(lesion_of(real[0].image + 700, mask)))


def test_a_lesion_without_core_has_no_unevenness():
    assert np.isnan(unevenness(lesion_of(np.ones((33, 33, 33)), ball(2))))


def test_lesions_without_profile_are_too_little_data():
    nothing = [lesion_of(np.zeros((9, 9, 9)), ball(2, 9))]
    with pytest.raises(TooLittleData):
        compare_profiles(nothing, nothing, np.random.default_rng(0))


def test_a_lesion_that_is_sharp_across_slices_of_a_blurred_scan_is_seen():
    """Thick slices blur a real lesion as well."""
    rng, mask = np.random.default_rng(0), ball(8)
    scans = [gaussian_filter(rng.normal(0, 60, mask.shape), (1.2, 0.4, 0.4)) for _ in range(12)]
    lesion, blur = gaussian_filter(800.0 * mask, 0.7), (1.2, 0.4, 0.4)
    real = [lesion_of(scan + gaussian_filter(lesion, blur), mask) for scan in scans[:6]]
    sharp = [lesion_of(scan + lesion + 60 * rng.normal(0, 1, mask.shape) * mask, mask) for scan in scans[6:]]
    found = compare_profiles(real, sharp, np.random.default_rng(1))["sharpness"]
    assert found["auc"] == 1 and found["synthetic"] > 1.3 * found["real"]
    alike = [sharpness_across_slices(lesion_of(scan, mask)) for scan in scans]  # as the scan
    assert np.median(alike) == pytest.approx(1, abs=0.15)
    turned = lesion_of(sharp[0].image.swapaxes(1, 2), mask.swapaxes(1, 2))
    assert sharpness_across_slices(turned) == pytest.approx(sharpness_across_slices(sharp[0]))


def test_strands_that_end_at_a_lesion_are_seen():
    """Bright rods that go on outwards, or that begin anew further out."""
    rng, mask = np.random.default_rng(0), ball(6)
    places = np.indices(mask.shape) - 16
    away = np.sqrt((places**2).sum(axis=0))

    def lesion(joined: bool) -> Lesion:
        image = np.full(mask.shape, -800.0)
        for number in range(8):
            axis = rng.normal(size=3)
            axis /= np.linalg.norm(axis)
            along = np.tensordot(axis, places, 1)
            rod = (along > 0) & (np.sqrt(np.maximum(away**2 - along**2, 0)) < 1.5)
            image[rod & ((away < 8.5) if not joined and number % 2 else (away > (0 if joined else 8.5)))] = 0
        image = gaussian_filter(np.where(mask, 0, image), 0.6) + rng.normal(0, 20, mask.shape)
        return lesion_of(image, mask)

    real, torn = ([lesion(joined) for _ in range(6)] for joined in (True, False))
    found = compare_profiles(real, torn, np.random.default_rng(1))["strands"]
    assert found["auc"] > 0.95 and found["real"] > found["synthetic"] + 0.2
    assert np.isnan(strands(lesion_of(np.zeros((5, 5, 5)), np.ones((5, 5, 5), dtype=bool))))


def test_too_little_around_a_lesion_tells_no_sharpness():
    assert np.isnan(sharpness_across_slices(lesion_of(np.zeros((9, 9, 9)), ball(2, 9))))


def test_a_lone_dark_voxel_is_seen_and_two_are_not():
    mask, noise = ball(), np.random.default_rng(0).normal(0, 1, (33, 33, 33))
    image = np.where(mask, 0.0, -800 + 20 * noise)
    assert darkest_dot(lesion_of(image, mask), 20.0) == 0
    image[16, 16, 14] = -100
    assert darkest_dot(lesion_of(image, mask), 20.0) == pytest.approx(5)
    image[16, 16, 15] = -100
    assert darkest_dot(lesion_of(image, mask), 20.0) == 0
    assert np.isnan(darkest_dot(lesion_of(image, mask), float("nan")))
    assert np.isnan(darkest_dot(lesion_of(image, mask), 0.0))
    real = [lesion_of(np.where(mask, 5 * rng, -800 + 20 * rng), mask) for rng in noise_of(12)]
    dotted = [lesion_of(one.image.copy(), mask) for one in real[6:]]
    for one in dotted:
        one.image[16, 16, 16] = -200
    found = compare_profiles(real[:6], dotted, np.random.default_rng(1))["dots"]
    assert found["auc"] == 1 and found["synthetic"] > found["real"]


def noise_of(count):
    return np.random.default_rng(2).normal(0, 1, (count, 33, 33, 33))
