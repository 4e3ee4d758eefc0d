"""Spheres against hand-made lesions."""

import numpy as np
import pytest
import torch

from DiffMask.sphere import (
    Sphere,
    bounding_sphere,
    draw_ellipsoid,
    draw_sphere,
    drawn_axes,
    drawn_ellipsoid,
    encode_guide,
    encode_sphere,
    fitting_ellipsoid,
    half_axes,
    sphere_encoding,
)


def test_centre_and_radius_are_cut_to_whole_voxels():
    mask = np.zeros((8, 16, 16), np.uint8)
    mask[2:6, 5:11, 6:12] = 1  # centroid (3.5, 7.5, 8.5), its corners sqrt(1.5^2 + 2 * 2.5^2) = 3.84 away
    assert bounding_sphere(mask) == bounding_sphere(torch.from_numpy(mask)) == Sphere((3, 7, 8), 3)


def test_the_centre_is_the_centroid_not_the_middle_of_the_box():
    mask = np.zeros((4, 4, 20), bool)
    mask[1, 1, :4] = mask[1, 1, 19] = True  # mean (0 + 1 + 2 + 3 + 19) / 5
    assert bounding_sphere(mask) == Sphere((1, 1, 5), 14)


def test_one_voxel_is_a_sphere_of_one_voxel():
    mask = np.zeros((3, 4, 5), bool)
    mask[2, 1, 3] = True
    sphere = bounding_sphere(mask)
    assert sphere == Sphere((2, 1, 3), 0)
    assert torch.equal(draw_sphere(sphere, (3, 4, 5)), torch.from_numpy(mask))


def test_an_empty_mask_has_no_sphere():
    with pytest.raises(ValueError, match="empty"):
        bounding_sphere(np.zeros((3, 3, 3)))


def test_a_sphere_holds_the_voxels_within_its_radius():
    drawn = draw_sphere(Sphere((3.5, 4, 6), 2.3), (8, 9, 12))
    for voxel in np.ndindex(8, 9, 12):
        near = np.linalg.norm(np.array(voxel) - (3.5, 4, 6)) <= 2.3
        assert bool(drawn[voxel]) == near
    assert int(draw_sphere(Sphere((5, 5, 5), 1), (10, 10, 10)).sum()) == 7  # the surface counts


def test_a_sphere_may_overhang_but_not_miss_the_volume():
    assert int(draw_sphere(Sphere((0, 0, 0), 1), (4, 4, 4)).sum()) == 4
    with pytest.raises(ValueError, match=r"\(-3, 0, 0\).*radius 2.*\(4, 4, 4\)"):
        draw_sphere(Sphere((-3, 0, 0), 2), (4, 4, 4))


def test_encodings_by_hand():
    inside = torch.tensor([[False, True]])
    assert encode_sphere(inside, "released").tolist() == [[255, 1]]
    assert encode_sphere(inside, "signed").tolist() == [[-1, 1]]
    assert encode_sphere(inside, "signed").dtype == torch.float32
    with pytest.raises(ValueError, match="sphere='uint8' must be one of released, signed"):
        encode_sphere(inside, "uint8")


def test_checkpoints_that_do_not_say_are_the_released_ones():
    assert sphere_encoding({}) == "released" and sphere_encoding({"sphere": "signed"}) == "signed"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_an_ellipsoid_survives_drawing_and_fitting(seed):
    given = drawn_ellipsoid((9, 6, 3.5), (14, 14, 14), generator(seed))
    inside = draw_ellipsoid(given, (30, 30, 30))
    assert int(inside.sum()) == pytest.approx(4 / 3 * np.pi * 9 * 6 * 3.5, rel=0.03)
    found = fitting_ellipsoid(inside)
    assert half_axes(found) == pytest.approx([9, 6, 3.5], rel=0.03)
    assert found.centre == pytest.approx(given.centre, abs=0.1)
    assert np.allclose(found.matrix, given.matrix, atol=0.3)
    assert all(0 <= c - 14 < 1 for c in given.centre)


def test_turns_of_ellipsoids_are_uniform():
    matrices = [drawn_ellipsoid((5, 1, 1), (0, 0, 0), generator(seed)).matrix for seed in range(2000)]
    longest = np.array([np.linalg.eigh(matrix)[1][:, 2] for matrix in matrices])
    assert np.square(longest).mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.025)  # sd 0.0067


def test_the_ellipsoid_of_one_voxel_and_of_none():
    mask = np.zeros((5, 5, 5), bool)
    mask[2, 3, 1] = True
    found = fitting_ellipsoid(mask)
    assert found.centre == (2, 3, 1) and half_axes(found) == pytest.approx([np.sqrt(5 / 12)] * 3)
    assert torch.equal(draw_ellipsoid(found, mask.shape), torch.from_numpy(mask))
    with pytest.raises(ValueError, match="empty"):
        fitting_ellipsoid(np.zeros((3, 3, 3)))


def test_a_guide_shows_the_ellipsoid_in_its_sphere():
    sphere = draw_sphere(Sphere((6, 6, 6), 5), (13, 13, 13))
    ellipsoid = drawn_ellipsoid((6, 2, 2), (6, 6, 6), generator())  # longer than the sphere is wide
    inside = draw_ellipsoid(ellipsoid, (13, 13, 13))
    shown = encode_guide(sphere, ellipsoid, "signed")
    assert torch.equal(shown == 1, sphere & inside) and bool((shown == 1).any())
    assert torch.equal(shown == 0, sphere & ~inside) and bool((shown == 0).any())
    assert torch.equal(shown == -1, ~sphere)
    assert torch.equal(encode_guide(sphere, None, "signed"), encode_sphere(sphere, "signed"))


def test_axes_are_those_of_lesions_of_like_size():
    rows = [[radius, radius / 100, radius / 100, radius / 100] for radius in range(1, 101)]
    drawn = [drawn_axes(rows, 50, generator(seed), like=5) * 100 for seed in range(100)]
    assert {round(float(axes[0])) for axes in drawn} == {48, 49, 50, 51, 52}
    assert all(axes.shape == (3,) for axes in drawn)
    assert np.array_equal(drawn[7], drawn_axes(rows, 50, generator(7), like=5) * 100)
