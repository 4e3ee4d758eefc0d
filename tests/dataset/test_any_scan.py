"""Whatever a NIfTI file holds: the right values at the right place in the world, or one line."""

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from properties import drawn

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.loading import load_case
from LeFusion.dataset.scans import ENDINGS, read_volume, write_label_like, write_volume, write_volume_like
from LeFusion.dataset.volume import Volume, on_grid_of
from LeFusion.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")
ORDERS = [
    np.array([*zip(p, s, strict=True)])
    for p in itertools.permutations(range(3))
    for s in itertools.product((1, -1), repeat=3)
]
SIDES = st.integers(1, 5)
SHAPES = st.tuples(SIDES, SIDES, SIDES)
ODD = st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf"), 1e-40, 1e300])
SLOPES = st.one_of(ODD, st.floats(-50, 50, width=32))


@st.composite
def geometries(draw):
    """(4, 4): voxels of 0.3 to 5 mm, turned any way, maybe sheared a little, in any order and direction."""
    turn, _ = np.linalg.qr(
        np.reshape(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9)), (3, 3)) + 2 * np.eye(3)
    )
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(draw(st.tuples(*[st.floats(0.3, 5)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    affine[0, 1] += draw(st.floats(-0.02, 0.02))
    return affine @ inv_ornt_aff(draw(st.sampled_from(ORDERS)), (1, 1, 1))


AFFINES = st.one_of(
    geometries(),
    st.lists(st.one_of(ODD, st.floats(-10, 10)), min_size=12, max_size=12).map(
        lambda values: np.vstack([np.reshape(values, (3, 4)), [0, 0, 0, 1]])
    ),
)


def numbers(dtype, shape, seed):
    """Any numbers that the type can hold; of floats seldom infinite ones."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        values = rng.normal(0, 10.0 ** rng.integers(-3, 5), shape).astype(dtype)
        if seed % 5 == 0:
            values.flat[0] = rng.choice([np.nan, np.inf, -np.inf])
        return values
    limits = np.iinfo(dtype)
    if seed % 2:
        return rng.integers(limits.min, limits.max, shape, dtype.newbyteorder("="), endpoint=True).astype(
            dtype
        )
    return rng.integers(max(-5, limits.min), 6, shape).astype(dtype)


def save(path, raw, affine, slope=1.0, inter=0.0, codes=(1, 0)):
    """A file of just these bytes; nibabel's own writer would refuse or mend some."""
    header = nibabel.Nifti1Header(
        endianness="<" if raw.dtype.newbyteorder("=").str[0] in "<|" and raw.dtype.byteorder != ">" else ">"
    )
    header.set_data_dtype(raw.dtype)
    header.set_data_shape(raw.shape)
    with np.errstate(all="ignore"):
        header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3].astype(np.float32)
        header["scl_slope"], header["scl_inter"] = slope, inter
    header["sform_code"], header["qform_code"] = codes
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + raw.tobytes(order="F"))
    return path


def one_line(path, error):
    line = str(error)
    return str(path) in line and "\n" not in line and len(line) < 700


@drawn(150)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from("<>"),
    st.lists(SIDES, min_size=2, max_size=4),
    AFFINES,
    SLOPES,
    SLOPES,
    st.integers(0, 2**31),
    st.sampled_from([(1, 0), (2, 1), (0, 1), (0, 0)]),
)
def test_a_file_is_read_as_nibabel_reads_it_or_refused(
    tmp_path, dtype, order, shape, affine, slope, inter, seed, codes
):
    raw = numbers(order + dtype, shape, seed)
    path = save(tmp_path / "any.nii", raw, affine, slope, inter, codes)
    try:
        volume = read_volume(path)
    except UserError as error:
        assert one_line(path, error)
        well = (
            len(shape) == 3
            and codes[0]
            and np.isfinite([slope, inter]).all()
            and 1e-3 < abs(slope) <= 50
            and abs(inter) <= 50
        )
        stored = affine.astype(np.float32)
        if well and np.isfinite(raw.astype(float)).all() and np.isfinite(stored).all():
            sides = stored[:3, :3] / np.linalg.norm(stored[:3, :3].astype(float), axis=0)
            assert not abs(np.linalg.det(sides)) > 0.01, error  # there was nothing to refuse
        return
    with np.errstate(all="ignore"):
        theirs = nibabel.load(path)
        values = theirs.get_fdata()
    assert np.array_equal(volume.affine, theirs.affine) and np.isfinite(values).all()
    assert volume.raw.shape == tuple(shape[:3]) and theirs.shape == tuple(shape)
    assert np.array_equal(volume.raw, raw.reshape(volume.raw.shape))  # a series of one volume is that volume
    values = values.reshape(volume.raw.shape)
    np.testing.assert_allclose(volume.values, values, rtol=1e-6, atol=1e-6 * np.abs(values).max())


@drawn()
@given(SHAPES, geometries(), st.sampled_from(ORDERS), st.integers(0, 2**31))
def test_a_mask_in_another_order_lies_at_the_same_places(shape, affine, order, seed):
    labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    image = Volume("image", np.zeros(shape, np.int16), 1.0, 0.0, affine)
    turned = apply_orientation(labels, order)
    mask = Volume("mask", turned, 1.0, 0.0, affine @ inv_ornt_aff(order, shape))
    brought = on_grid_of(mask, image)
    assert brought.raw.shape == image.raw.shape
    for voxel in itertools.product(*((0, n - 1) for n in shape)):
        places = (volume.affine @ (*voxel, 1) for volume in (brought, image))
        np.testing.assert_allclose(*places, atol=1e-6 * np.abs(affine).max())
    assert np.array_equal(brought.raw, labels)  # each label again on the voxel that it was drawn on


@drawn()
@given(SHAPES, geometries(), st.tuples(*[st.floats(-2, 2)] * 3))
def test_a_mask_beside_the_voxels_is_refused(shape, affine, shift):
    """To a tenth of a voxel it is taken, beyond that it is not, however it is turned."""
    most = max(abs(s) for s in shift)
    assume(abs(most - 0.1) > 1e-3)
    image = Volume("image", np.zeros(shape, np.int16), 1.0, 0.0, affine)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ shift
    mask = Volume("mask", np.ones(shape, np.uint8), 1.0, 0.0, moved)
    if most < 0.1:
        assert np.array_equal(on_grid_of(mask, image).raw, mask.raw)
        return
    try:
        brought = on_grid_of(mask, image)
    except UserError as error:
        assert "mask" in str(error) and "image" in str(error) and "\n" not in str(error)
    else:
        pytest.fail(f"taken {shift} voxels off: {brought.affine}")


LAYOUTS = st.one_of(
    st.sampled_from(["SPL", "SAR", "LPS", "RAI", "PIL"]).map(
        lambda codes: Layout(depth_axis=None, orientation=codes)
    ),
    st.integers(0, 2).map(lambda axis: Layout(depth_axis=axis)),
    st.integers(0, 2).map(
        lambda axis: Layout(
            lesion_labels=(3,), other_labels=(1, 2), cavity_label=1, myocardium_label=2, depth_axis=axis
        )
    ),
)


@drawn()
@given(SHAPES, geometries(), st.sampled_from(ORDERS), LAYOUTS, st.integers(0, 2**31))
def test_depth_first_and_back(shape, affine, order, layout, seed):
    stored = np.random.default_rng(seed).integers(0, 1000, shape)
    volume = Volume("a", stored, 1.0, 0.0, affine)
    axes = Axes.of(volume, layout)
    dhw = axes.to_dhw(stored)
    assert np.array_equal(axes.to_stored(dhw), stored)
    for place in itertools.product(*((0, n - 1) for n in dhw.shape)):
        index = axes.stored_index(place, dhw.shape)
        assert stored[index] == dhw[place] and axes.dhw_index(index, dhw.shape) == place
    if layout.orientation is None:
        return
    # The same scan stored in another order is the same array, unless two orders are equally near
    towards = np.sort(np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)), axis=0)
    assume((towards[2] - towards[1] > 0.05).all())
    turned = Volume("b", apply_orientation(stored, order), 1.0, 0.0, affine @ inv_ornt_aff(order, shape))
    again = Axes.of(turned, layout)
    assert np.array_equal(again.to_dhw(turned.raw), dhw) and again.spacing_mm(turned) == axes.spacing_mm(
        volume
    )


@drawn()
@given(st.sampled_from(ENDINGS), st.sampled_from(DTYPES), SHAPES, geometries(), st.integers(0, 2**31))
def test_a_volume_is_the_same_in_every_format(tmp_path, ending, dtype, shape, affine, seed):
    raw = np.nan_to_num(numbers(dtype, shape, seed), posinf=0, neginf=0)
    write_volume(Volume(tmp_path / f"a{ending}", raw, 1.0, 0.0, affine))
    again = read_volume(tmp_path / f"a{ending}")
    assert again.raw.dtype == raw.dtype and np.array_equal(again.raw, raw)
    np.testing.assert_allclose(again.affine, affine, rtol=1e-5, atol=1e-3)


@drawn()
@given(st.sampled_from(DTYPES), SHAPES, SLOPES, st.floats(-100, 100, width=32), st.integers(0, 2**31))
def test_what_is_painted_is_there_to_half_a_step_and_nothing_else_changes(
    tmp_path, dtype, shape, slope, inter, seed
):
    source_path = save(tmp_path / "source.nii", numbers(dtype, shape, seed), np.eye(4), slope, inter)
    try:
        source = read_volume(source_path)
    except UserError as error:
        assert one_line(source_path, error)
        return
    rng, target = np.random.default_rng(seed + 1), tmp_path / "out.nii"
    values, mask = rng.normal(inter, 1000 * rng.random(), shape), rng.random(shape) < 0.5
    target.unlink(missing_ok=True)
    try:
        write_volume_like(source, values, mask, target)
    except UserError as error:
        assert one_line(target, error) and not target.exists()
        return
    written = read_volume(target)
    assert written.raw.dtype == source.raw.dtype
    assert np.array_equal(written.raw[~mask].view(np.uint8), source.raw[~mask].view(np.uint8))
    step = abs(source.slope) if source.raw.dtype.kind != "f" else 1e-6 * np.abs(values).max()
    assert np.all(
        np.abs(written.raw * written.slope + written.inter - values)[mask]
        <= 0.52 * step + 1e-4 * np.abs(values[mask])
    )


@drawn()
@given(
    st.sets(st.integers(-3, 70_000), min_size=1, max_size=3),
    st.sets(st.integers(0, 300), max_size=2),
    st.sampled_from(DTYPES),
    st.sampled_from([1.0, 1.0, 1 / 255, 0.5, 2.0]),
    st.data(),
)
def test_labels_are_what_was_drawn_or_refused(tmp_path, lesions, others, dtype, slope, data):
    """Any labels of the layout, in a mask of any type and scale."""
    try:
        layout = Layout(lesion_labels=tuple(sorted(lesions)), other_labels=tuple(sorted(others)))
    except UserError as error:
        assert "\n" not in str(error)
        wrong = lesions & others or min(lesions | others) < 1 or max(lesions | others) > 65535
        assert wrong, error
        return
    known = [0, *lesions, *others]
    wanted = np.array(
        data.draw(st.lists(st.sampled_from([*known, *known, 7, 250]), min_size=24, max_size=24))
    )
    limits = np.iinfo(dtype) if dtype[0] != "f" else np.finfo(dtype)
    raw = np.rint(wanted / np.float32(slope)).astype(float)
    assume(limits.min <= raw.min() and raw.max() <= limits.max)
    drawn_there = raw * float(np.float32(slope))
    whole = np.where(np.abs(drawn_there - np.rint(drawn_there)) <= 1e-3, np.rint(drawn_there), drawn_there)
    image = save(tmp_path / "a_Vol_1.nii", np.arange(24, dtype="i2").reshape(2, 3, 4), np.eye(4))
    mask = save(tmp_path / "a_Mask_1.nii", raw.astype(dtype).reshape(2, 3, 4), np.eye(4), slope)
    try:
        loaded = load_case(Case("a", image, mask), layout, "minmax")
    except UserError as error:
        assert one_line(mask, error)
        assert not set(whole) <= set(known) or not set(whole) & lesions, error  # there was something wrong
        return
    assert np.array_equal(loaded.labels_dhw.ravel(), whole) and set(whole) <= set(known)
    for number, label in enumerate(layout.lesion_labels):
        assert np.array_equal(loaded.lesions_dhw[number].numpy().ravel(), whole == label)
    write_label_like(loaded.mask_volume, loaded.axes.to_stored(loaded.labels_dhw), tmp_path / "out.nii")
    assert np.array_equal(read_volume(tmp_path / "out.nii").labels.ravel(), whole)
