"""A case as it is read: resampled, relabelled, in any order and type."""

import gzip

import nibabel
import numpy as np
import pytest
import torch
from lesion_cases import TWO_CLASSES, make_case, save_case

from LeFusion.dataset.boxes import Box, crop
from LeFusion.dataset.cases import Layout
from LeFusion.dataset.loading import load_case
from LeFusion.errors import UserError


def test_resampled_to_a_spacing_and_back(tmp_path):
    case = make_case(tmp_path)  # 1.5 x 1.5 x 2 mm
    loaded, stored = (load_case(case, Layout(), (-1000, 400), spacing_mm=mm) for mm in ((3, 1, 4), None))
    assert loaded.image_dhw.shape == (6, 30, 12) and loaded.lesions_dhw.shape == (1, 6, 30, 12)
    assert loaded.lesions_dhw.dtype == torch.bool and loaded.image_dhw.dtype == torch.float32
    assert loaded.labels_dhw.shape == (12, 20, 24)
    np.testing.assert_array_equal(loaded.labels_dhw, stored.labels_dhw)
    np.testing.assert_array_equal(loaded.stored_lesion(), stored.lesions_dhw[0])
    lesion_mm3 = [float(v.lesions_dhw.sum()) * mm3 for v, mm3 in ((loaded, 12), (stored, 4.5))]
    assert lesion_mm3[0] == pytest.approx(lesion_mm3[1], rel=0.4)
    for box in (Box((1, 4, 2), (3, 20, 8)), Box((-2, 3, 5), (5, 8, 16)), loaded.whole):  # overhanging, too
        assert torch.allclose(loaded.image(box)[0], crop(loaded.image_dhw, box, -1.0), atol=1e-6)
        assert torch.equal(loaded.lesions(box), crop(loaded.lesions_dhw, box, False))

    place = loaded.stored_place
    brighter = loaded.image_dhw[None] + 0.1  # by 70 HU; the detail that the network's grid lacks stays
    back, new = loaded.painted([(brighter, loaded.whole)], place)
    assert back.shape == new.shape == loaded.stored_place.size and back.dtype == np.float64
    source = loaded.axes.to_dhw(loaded.volume.values)[place.slices]
    assert new.all()
    np.testing.assert_allclose(back, np.clip(np.clip(source, -1000, 400) + 70, -1000, 400), atol=1e-2)
    # What is not in the patch is the image: painting a part of itself changes nothing
    part = loaded.all_lesions.place
    for patches in ([(loaded.image_dhw[None], loaded.whole)], [(loaded.image(part), part)], []):
        assert not loaded.painted(patches, place)[1].any()


def test_without_another_spacing_the_way_back_is_exact(tmp_path):
    case = make_case(tmp_path)
    as_stored = load_case(case, Layout(), (-1000, 400), spacing_mm=(1.5, 1.5, 2))
    native = load_case(case, Layout(), (-1000, 400))
    for loaded in (as_stored, native):
        assert torch.equal(loaded.image_dhw, native.image_dhw)
        assert torch.equal(loaded.lesions_dhw, native.lesions_dhw)
        (part,) = loaded.parts((32, 64, 64))
        expected = np.clip(loaded.values_of(part), -1000, 400)
        back, new = loaded.painted([(loaded.image_dhw[None], loaded.whole)], part.stored_place)
        assert np.array_equal(new, part.stored)  # a lesion is new all over
        np.testing.assert_allclose(back[part.stored], expected, atol=1e-3)


def test_relabelled_lesions_stand_in_for_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 200, (2, 20, 24, 7))  # depth last
    case = save_case(tmp_path, "N1", image.astype(np.int16), (mask % 3).astype(np.uint8))
    seen = []

    def relabel(values, labels):
        seen.append((values, labels))
        moved = labels.copy()
        moved[2, 5:8, 9] = 4
        return moved

    with pytest.raises(ValueError, match="no lesion voxel"):
        load_case(case, TWO_CLASSES, "minmax")
    loaded = load_case(case, TWO_CLASSES, "minmax", relabel=relabel)
    values, labels = seen[0]
    np.testing.assert_array_equal(values, image.transpose(2, 0, 1))
    np.testing.assert_array_equal(labels, (mask % 3).transpose(2, 0, 1))
    assert loaded.lesions_dhw.flatten(1).sum(1).tolist() == [0, 3]
    np.testing.assert_array_equal(np.argwhere(loaded.stored_lesion()), [[2, r, 9] for r in (5, 6, 7)])
    np.testing.assert_array_equal(loaded.labels_dhw != labels, loaded.stored_lesion())

    def hopeless(values, labels):
        raise UserError("the heart's labels hold no cavity")

    with pytest.raises(ValueError) as caught:
        load_case(case, TWO_CLASSES, "minmax", relabel=hopeless)
    assert str(case.mask_path) in str(caught.value) and "no cavity" in str(caught.value)


@pytest.mark.parametrize("label", [255, 256, 257, 65535])
def test_labels_do_not_wrap(tmp_path, label):
    case = make_case(tmp_path)
    mask = nibabel.load(case.mask_path)
    labels = np.asarray(mask.dataobj).astype(np.int32)
    lesion = labels == 1
    labels[:, 12:18, 12:20] = label
    nibabel.save(nibabel.Nifti1Image(labels, mask.affine), case.mask_path)
    loaded = load_case(case, Layout(other_labels=(label,)), (-1000, 400))
    assert np.array_equal(loaded.stored_lesion(), lesion) and loaded.labels_dhw[0, 13, 14] == label
    loaded = load_case(case, Layout(lesion_labels=(label,), other_labels=(1,)), (-1000, 400))
    assert loaded.stored_lesion().sum() == (labels == label).sum()


def test_a_mask_with_a_scale_factor_is_read_as_any_other(tmp_path):
    case = make_case(tmp_path)
    plain = load_case(case, Layout(), (-1000, 400))
    mask = nibabel.load(case.mask_path)
    mask.header.set_slope_inter(None, None)
    nibabel.save(nibabel.Nifti1Image(mask.get_fdata(), mask.affine, mask.header), case.mask_path)
    assert nibabel.load(case.mask_path).dataobj.slope == pytest.approx(1 / 255)
    assert np.array_equal(load_case(case, Layout(), (-1000, 400)).labels_dhw, plain.labels_dhw)


def test_a_mask_in_another_order_lies_where_it_lies_in_the_world(tmp_path):
    case = make_case(tmp_path)
    plain = load_case(case, Layout(), (-1000, 400))
    mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(case.mask_path.read_bytes()))
    for turn in ([[0, -1], [1, -1], [2, 1]], [[2, 1], [0, -1], [1, 1]]):
        nibabel.save(mask.as_reoriented(np.array(turn)), case.mask_path)
        assert np.array_equal(load_case(case, Layout(), (-1000, 400)).labels_dhw, plain.labels_dhw)
