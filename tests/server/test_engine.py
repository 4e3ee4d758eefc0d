"""The networks behind the server: the bundled weights, in one step."""

import numpy as np
import pytest
from scipy import ndimage

from DiffMask.shapes.features import longest_axial_diameter_mm
from LeFusion.errors import UserError
from LeFusion.server.arrays import read_arrays, write_arrays
from LeFusion.server.jobs import Stopped

SPACING_MM = np.array([0.8, 0.8, 1.5])


@pytest.fixture(scope="module")
def engine():
    from LeFusion.server.serve import load_engine, parser

    loaded = load_engine(parser().parse_args(["--device", "cpu", "--num-steps", "1"]))
    loaded.maker.given = loaded.maker.given.model_copy(update={"num_steps": 5})  # fewer, for speed
    return loaded


@pytest.fixture
def region():
    """-> region(**other): lung with a vessel, (i, j, k)."""
    from LeFusion.server.engine import Region

    image = np.random.default_rng(0).normal(-850, 30, (40, 44, 26)).astype(np.int16)
    image[18:21, :, 8:10] = 40

    def make(**other):
        affine = np.diag([*(SPACING_MM * (-1, -1, 1)), 1.0])
        return Region(image, affine, **({"centre": (20.0, 21.0, 12.0), "diameter_mm": 10.0} | other))

    return make


def test_a_lesion_grows_around_the_point(engine, region):
    shares = []
    made = engine.paint(region(), "solid", 3, shares.append)
    changed = made["image"] != region().image
    assert made["image"].dtype == np.int16 and made["mask"].dtype == np.uint8
    middle = np.array(ndimage.center_of_mass(made["mask"]))
    assert (np.abs(middle - (20, 21, 12)) * SPACING_MM < 3).all()
    axial = longest_axial_diameter_mm(made["mask"].transpose(2, 1, 0), SPACING_MM[::-1])
    assert axial == pytest.approx(10, rel=0.15)
    assert changed[made["mask"] > 0].mean() > 0.5
    rim = ndimage.distance_transform_edt(made["mask"] == 0, sampling=SPACING_MM)
    assert not changed[rim > 5.5].any()  # 4 mm, and what an interpolation adds
    assert shares == sorted(shares) and len(shares) > 3 and 0 == shares[0] <= shares[-1] < 1


def test_the_same_request_gives_the_same_voxels_whatever_was_before(engine, region):
    first = engine.paint(region(), "solid", 3, lambda share: None)
    engine.paint(region(diameter_mm=None), "mixture", 4, lambda share: None)
    again = engine.paint(region(), "solid", 3, lambda share: None)
    other = engine.paint(region(), "solid", 5, lambda share: None)
    for name in ("image", "mask"):
        np.testing.assert_array_equal(first[name], again[name])
        assert (first[name] != other[name]).any()


def test_a_mask_of_the_client_is_painted_as_by_the_python_api(engine, region):
    mask = np.zeros(region().image.shape, np.uint8)
    mask[18:23, 18:24, 10:14] = 1
    made = engine.paint(region(mask=mask, centre=None, diameter_mm=None), "solid", 1, lambda share: None)
    direct = engine.painter.paint(region().image, mask, "solid", 1, affine=region().affine)
    np.testing.assert_array_equal(made["image"], direct)
    assert engine.textures == ("realistic", "mixture", "ground-glass", "part-solid", "solid")
    np.testing.assert_array_equal(made["mask"], mask)


def test_jumps_are_more_calls(engine, region):
    once, jumping = [], []
    engine.paint(region(), 1, 0, once.append)
    engine.paint(region(), 1, 0, jumping.append, jump=(1, 2))
    assert len(jumping) >= len(once)


def test_it_stops_where_it_is_told_to_and_leaves_no_hook(engine, region):
    def stop(share):
        if share > 0:
            raise Stopped("cancelled")

    with pytest.raises(Stopped):
        engine.paint(region(), "solid", 3, stop)
    calls = []
    engine.paint(region(), "solid", 3, calls.append)
    assert calls[0] == 0


def test_a_point_at_the_border_and_a_lesion_too_large(engine, region):
    made = engine.paint(region(centre=(0.0, 0.0, 0.0)), "solid", 0, lambda share: None)
    assert made["mask"].any()
    whole = np.ones(region().image.shape, np.uint8)
    with pytest.raises(UserError):
        engine.paint(region(mask=np.pad(whole, 0), centre=None), "solid", 0, lambda share: None)


def test_arrays_come_back_as_they_were():
    arrays = {
        "image": np.arange(24, dtype=">i2").reshape(2, 3, 4),
        "affine": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "mask": np.zeros((0, 3), bool),
    }
    back = read_arrays(write_arrays(arrays), tuple(arrays), 10_000)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype.newbyteorder("=") and back[name].flags.writeable


@pytest.mark.parametrize("diameter_mm", [3, 28])
def test_the_smallest_and_the_largest_on_thick_slices(engine, diameter_mm):
    from LeFusion.server.engine import Region

    image = np.random.default_rng(0).normal(-850, 30, (60, 60, 16)).astype(np.int16)
    region = Region(image, np.diag([-1.0, -1.0, 5.0, 1.0]), None, (30.0, 30.0, 8.0), diameter_mm)
    mask = engine.make_mask(region, 0)
    axial = longest_axial_diameter_mm(mask.transpose(2, 1, 0), (5, 1, 1))
    assert axial == pytest.approx(diameter_mm, rel=0.35 if diameter_mm < 5 else 0.15)
