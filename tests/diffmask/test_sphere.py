"""Spheres against hand-made lesions."""

import numpy as np
import pytest
import torch

from DiffMask.sphere import Sphere, bounding_sphere, draw_sphere, encode_sphere, sphere_encoding


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
