"""Shapes have the diameter that is asked for, or the nearest that could be had."""

import numpy as np
import pytest
import torch

from DiffMask.shapes.features import longest_axial_diameter_mm
from LeFusion.dataset.boxes import Box
from LeFusion.errors import UserError
from LeFusion.insertion.canvas import Patch
from LeFusion.insertion.shapes import Wanted, make_shapes

SHAPE = (32, 40, 40)


class Maker:
    """Makes balls of these radii in voxels, one for each attempt, whatever is asked for; 0: nothing."""

    size, spacing_mm = (24, 24, 24), (1.0, 1.0, 1.0)

    def __init__(self, *radii):
        self.radii, self.drawn = radii, []

    def sample(self, drafts, attempt):
        self.drawn += [(draft.scan.name, draft.number, attempt) for draft in drafts]
        way = torch.stack(torch.meshgrid(*(torch.arange(24.0) - 12,) * 3, indexing="ij"))
        radius = self.radii[min(attempt, len(self.radii) - 1)]
        return [torch.tanh(radius - way.norm(dim=0)) if radius else -torch.ones(24, 24, 24)] * len(drafts)


class Lung:
    def __init__(self, inside=None):
        self.inside = np.ones(SHAPE, bool) if inside is None else inside

    def mask(self, patch):
        return self.inside


def wanted(diameter_mm, spacing_mm=(1.0, 1.0, 1.0), number=1):
    stored = tuple(round(n / mm) for n, mm in zip(SHAPE, spacing_mm, strict=True))
    patch = Patch(Box((0, 0, 0), stored), SHAPE, spacing_mm)
    centre = tuple(n / 2 for n in stored)
    return Wanted("site 1", "noise", number, centre, diameter_mm or 9.0, diameter_mm, None, patch)


def made(maker, *lesions, lung=None, spacing_mm=(1.0, 1.0, 1.0), tries=4):
    return make_shapes(lesions, maker, lung or Lung(), spacing_mm, tries, SHAPE)


@pytest.mark.parametrize("asked", [7.0, 9.0, 10.5])
@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (1.0, 0.8, 0.8)])
def test_a_shape_is_scaled_to_its_diameter(asked, spacing_mm):
    maker = Maker(4)
    (shape,) = made(maker, wanted(asked, spacing_mm), spacing_mm=spacing_mm)
    assert shape.diameter_mm == longest_axial_diameter_mm(shape.label, spacing_mm)
    assert shape.diameter_mm == pytest.approx(asked, rel=0.1)
    assert [attempt for *_, attempt in maker.drawn] == [0]


def test_another_is_drawn_where_scaling_would_be_too_much():
    maker = Maker(2, 6)
    shapes = made(maker, wanted(12.0, number=1), wanted(5.0, number=2))
    assert [shape.diameter_mm for shape in shapes] == pytest.approx([12, 5], rel=0.1)
    assert maker.drawn == [("noise", 1, 0), ("noise", 2, 0), ("noise", 1, 1)]


def test_the_nearest_is_taken_where_none_fits():
    narrow = np.zeros(SHAPE, bool)
    narrow[:, 17:23, 17:23] = True
    maker = Maker(3, 8, 1)
    (shape,) = made(maker, wanted(16.0), lung=Lung(narrow))
    assert len(maker.drawn) == 4 and shape.label.sum() and not (shape.mask & ~narrow).any()
    assert 7 < shape.diameter_mm < 9  # the diagonal of the lung


def test_a_shape_that_the_box_of_the_network_cuts_is_drawn_again():
    maker = Maker(13, 5)
    (shape,) = made(maker, wanted(None))
    assert len(maker.drawn) == 2 and not shape.cut
    (shape,) = made(Maker(13), wanted(None))
    assert shape.cut


def test_without_a_diameter_the_first_is_taken():
    maker = Maker(0, 5, 3)
    (shape,) = made(maker, wanted(None))
    assert shape.diameter_mm == pytest.approx(10, abs=1) and len(maker.drawn) == 2


def test_no_shape_at_all_is_an_error_that_names_the_lesion():
    with pytest.raises(UserError, match="site 1: its mask came out empty, or larger than .* in 4 draws"):
        made(Maker(0), wanted(8.0))


def test_a_shape_fits_what_is_painted_at_once():
    (shape,) = make_shapes([wanted(None)], Maker(9, 4), Lung(), (1, 1, 1), 2, (12, 12, 12))
    assert shape.diameter_mm < 12
    with pytest.raises(UserError, match=r"larger than the \(6, 12, 12\) voxels that are painted at once"):
        make_shapes([wanted(None)], Maker(9, 4), Lung(), (1, 1, 1), 2, (6, 12, 12))
