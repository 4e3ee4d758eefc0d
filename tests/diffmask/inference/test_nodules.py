"""Spheres that are placed in a lung, or taken from the lesions of a mask."""

import itertools

import numpy as np
import pytest
from planned import CT, FLIPPED, ONE_MM, SHAPE, SIZE, lung_hu, refused, save

from LeFusion.dataset.cases import Layout


def ball(centre, radius_mm, spacing=ONE_MM):
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(SHAPE, centre, spacing, strict=True)]
    return sum(part**2 for part in np.meshgrid(*offsets, indexing="ij")) <= radius_mm**2


def test_placed_spheres_have_the_size_and_depth_asked_for_on_any_voxels(tmp_path, plan):
    root = save(tmp_path / "scan.nii.gz", lung_hu(), FLIPPED, 2)
    drafts = plan(root, CT, masks_per_scan=4, diameter_mm=9, border_mm=[1, 6])
    assert [draft.name for draft in drafts] == [f"scan_GenMask_{n}" for n in (1, 2, 3, 4)]
    for draft in drafts:
        assert (
            draft.spacing_mm == pytest.approx((2.0, 0.8, 1.1))
            and draft.grid.scan_spacing_mm == draft.spacing_mm
        )
        centre = draft.placement.centre_dhw
        # The wall ends at column 9.5, but for the lung's own segmentation
        assert 0 <= (centre[2] - 9.5) * 1.1 - 4.5 <= 7.5
        assert draft.placement.diameter_mm == 9 and draft.placement.inside_share >= 0.9
        assert draft.grid.centre == centre and draft.grid.size == SIZE and draft.grid.spacing_mm == ONE_MM
        assert draft.box == draft.grid.box(SHAPE)
        columns = np.arange(SHAPE[2])[draft.box[2]]
        assert draft.organ.shape == tuple(part.stop - part.start for part in draft.box)
        assert draft.organ[..., columns > 11].all() and not draft.organ[..., columns < 8].any()


def test_in_scans_larger_than_what_paints_no_lesion_is_too_large_for_it(scans, plan):
    options = {"masks_per_scan": 12, "separate": False, "border_mm": [-20, 20], "inside_share": 0.3}
    region = {"diffusion_depth_size": 12, "diffusion_img_size": 16}

    def largest(**changes):
        return max(draft.placement.diameter_mm for draft in plan(scans / "A.nii.gz", **options, **changes))

    assert largest() > 12 and largest(**region) <= 10  # 24 slices of 1 mm, of which 12 are painted at once
    assert largest(**region, spacing_mm=[2, 2, 2]) > 12  # which are the whole depth on voxels of 2 mm
    assert largest(**region, diameter_mm=14) == 14  # as asked for


def test_the_first_spheres_depend_on_seed_and_scan_only(scans, plan):
    options = {"diameter_mm": [5, 9], "border_mm": [0, 9]}
    many, two = (plan(scans, masks_per_scan=count, **options) for count in (5, 2))
    assert len(many) == 10 and len(two) == 4
    assert [draft.placement for draft in two] == [many[i].placement for i in (0, 1, 5, 6)]
    alone = plan(scans / "sub" / "B.nii.gz", masks_per_scan=2, **options)
    assert [draft.placement for draft in alone] == [draft.placement for draft in two[2:]]
    other = plan(scans, masks_per_scan=2, seed=1, **options)
    assert len({draft.placement for draft in (*many, *other)}) == 14


def test_spheres_of_a_scan_keep_apart_unless_told(scans, plan):
    def closest(separate):
        drafts = plan(
            scans / "A.nii.gz", masks_per_scan=8, diameter_mm=8, border_mm=[0, 20], separate=separate
        )
        pairs = itertools.combinations([np.array(d.placement.centre_dhw) for d in drafts], 2)
        return min(np.linalg.norm(a - b) for a, b in pairs)

    assert closest(True) >= 10 > closest(False)


def test_spheres_keep_clear_of_lesions_that_are_there(scans, tmp_path, plan):
    lesion = ball((12, 20, 27), 9)
    for name in ("A", "B"):
        save(tmp_path / "lesions" / f"{name}.nii.gz", lesion.astype(np.uint8))

    def gaps(**changes):
        drafts = plan(
            scans, masks_per_scan=5, diameter_mm=6, border_mm=[0, 20], separate=False, seed=3, **changes
        )
        return [
            np.linalg.norm(np.subtract(draft.placement.centre_dhw, (12, 20, 27))) - 9 - 3 for draft in drafts
        ]

    assert min(gaps()) < 0
    assert min(gaps(lesion_masks=tmp_path / "lesions")) > 1


def test_a_given_organ_takes_the_place_of_the_lung(scans, tmp_path, plan):
    organ = np.zeros(SHAPE, np.uint8)
    organ[4:20, 8:30, :8] = 3  # any label above 0; all of it in the chest wall
    masks = tmp_path / "organs"
    for name in ("deep/A", "B"):
        save(masks / f"{name}.nii.gz", organ)
    options = {"masks_per_scan": 3, "diameter_mm": 5, "border_mm": [0, 4], "vessel_share": 1}
    for draft in plan(scans, organ_masks=masks, **options):
        inside = draft.placement.mask(SHAPE, ONE_MM)
        assert (organ[inside] > 0).mean() >= 0.9
        assert np.array_equal(draft.organ, organ[draft.box] > 0)
    one = plan(scans / "A.nii.gz", organ_masks=masks / "B.nii.gz", **options)  # whatever its name
    assert len(one) == 3 and all(draft.placement.centre_dhw[2] < 8 for draft in one)


def test_masks_beside_the_scans_must_be_there_and_fit(scans, tmp_path, plan):
    masks = tmp_path / "organs"
    organ = save(masks / "A.nii.gz", ball((12, 20, 25), 12).astype(np.uint8))
    options = {"diameter_mm": 6, "border_mm": [0, 9]}
    with refused(FileNotFoundError, masks, "B.nii.gz", scans / "sub" / "B.nii.gz"):
        plan(scans, organ_masks=masks, **options)
    with refused(ValueError, f"organ_masks={organ}", "one file", "2 scans"):
        plan(scans, organ_masks=organ, **options)
    with refused(ValueError, f"lesion_masks={organ}", "one file", "2 scans"):
        plan(scans, lesion_masks=organ, **options)
    save(masks / "B.nii.gz", np.ones(SHAPE, np.uint8)[1:])
    with refused(ValueError, masks / "B.nii.gz", "shape", r"\(23, 40, 44\)", scans / "sub" / "B.nii.gz"):
        plan(scans, organ_masks=masks, **options)
    save(masks / "B.nii.gz", np.zeros(SHAPE, np.uint8))
    with refused(ValueError, scans / "sub" / "B.nii.gz", "mask is empty"):
        plan(scans, organ_masks=masks, **options)


@pytest.mark.parametrize("key", ["organ_masks", "lesion_masks"])
def test_a_missing_folder_of_masks_is_named_with_its_key(scans, tmp_path, plan, key):
    with pytest.raises((FileNotFoundError, ValueError), match="nowhere") as caught:
        plan(scans, **{key: tmp_path / "nowhere"})
    assert key in str(caught.value), caught.value


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"diameter_mm": 60}, "larger than the volume of 24 x 40 x 44 mm"),
        ({"diameter_mm": 6, "border_mm": 50}, "no centre 52.0 to 54.0 mm from the border"),
        ({"diameter_mm": -1}, "diameter_mm -1 must be above 0"),
    ],
)
def test_spheres_without_a_place_are_refused_with_the_scan(scans, plan, changes, text):
    with refused(ValueError, scans / "A.nii.gz", text):
        plan(scans, **changes)


@pytest.mark.parametrize("spheres", ["placed", "masks"])
def test_a_scan_without_lung_is_refused(scans, tmp_path, plan, spheres):
    path = save(scans / "sub" / "B.nii.gz", lung_hu(SHAPE[2]))
    for name in ("A", "B"):
        save(tmp_path / "own" / f"{name}.nii.gz", ball((12, 20, 27), 4).astype(np.uint8))
    with refused(ValueError, path, "nothing is as dark as air"):
        plan(
            scans,
            Layout(mask_names=()),
            spheres=spheres,
            masks_from=tmp_path / "own",
            diameter_mm=6,
            border_mm=[0, 9],
        )


def test_a_sphere_around_the_lesion_of_the_own_mask(tmp_path, plan):
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[12, 15:24, 25] = 1  # 9 voxels of 1.1 mm
    save(tmp_path / "Image" / "A_Vol_1.nii.gz", lung_hu(), np.diag([2, 1.1, 0.8, 1]))
    save(tmp_path / "Mask" / "A_Mask_1.nii.gz", lesion, np.diag([2, 1.1, 0.8, 1]))
    for root in (tmp_path, tmp_path / "Image"):
        drafts = plan(root, spheres="masks")
        assert [draft.name for draft in drafts] == ["A_Vol_1_GenMask_1"]
        for draft in drafts:
            assert draft.placement.centre_dhw == (12, 19, 25)
            assert draft.placement.diameter_mm == pytest.approx(8 * 1.1)
            assert draft.placement.inside_share == 1
            assert draft.placement.distance_to_border_mm == pytest.approx(15.5 * 0.8 - 4.4, abs=1.7)
    (tmp_path / "Mask").rename(tmp_path / "elsewhere")
    (draft,) = plan(tmp_path / "Image", spheres="masks", masks_from=tmp_path / "elsewhere")
    assert draft.placement == drafts[0].placement


def test_the_sphere_of_one_voxel_is_two_voxels_wide(tmp_path, plan):
    save(tmp_path / "Image" / "A_Vol_1.nii.gz", lung_hu(), np.diag([2, 1.1, 0.8, 1]))
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[12, 15, 25] = 1
    save(tmp_path / "Mask" / "A_Mask_1.nii.gz", lesion, np.diag([2, 1.1, 0.8, 1]))
    (draft,) = plan(tmp_path, spheres="masks")
    assert draft.placement.centre_dhw == (12, 15, 25) and draft.placement.diameter_mm == pytest.approx(1.6)


def test_own_masks_must_hold_a_lesion_and_fit(tmp_path, plan):
    image = save(tmp_path / "Image" / "A_Vol_1.nii.gz", lung_hu())
    mask = save(tmp_path / "Mask" / "A_Mask_1.nii.gz", np.zeros(SHAPE, np.uint8))
    with refused(ValueError, image, mask, "no lesion"):
        plan(tmp_path, spheres="masks")
    save(mask, np.full(SHAPE, 2, np.uint8))  # another label
    with refused(ValueError, image, mask, "no lesion"):
        plan(tmp_path, spheres="masks")
    save(mask, np.ones(SHAPE, np.uint8)[:, 2:])
    with refused(ValueError, mask, "shape", image):
        plan(tmp_path, spheres="masks")
    mask.unlink()
    with refused(FileNotFoundError, image, mask, "missing"):
        plan(tmp_path, spheres="masks")


def test_a_lesion_on_the_pleura_stays_in_the_organ_and_may_be_cut_by_the_volume(tmp_path, plan):
    # Dense, half in the lung's place, and reaching out of the first slices
    lesion = ball((2, 20, 12), 6)
    image = lung_hu()
    image[lesion] = 40
    save(tmp_path / "Image" / "A_Vol_1.nii.gz", image)
    save(tmp_path / "Mask" / "A_Mask_1.nii.gz", lesion.astype(np.uint8))
    (draft,) = plan(tmp_path, spheres="masks")
    whole = np.zeros(SHAPE, bool)
    whole[draft.box] = draft.organ
    assert whole[lesion].all()


def test_every_lesion_of_a_mask_has_its_sphere(tmp_path, plan):
    lesions = ball((8, 12, 24), 3) | ball((15, 30, 34), 4)
    save(tmp_path / "Image" / "A_Vol_1.nii.gz", lung_hu())
    save(tmp_path / "Mask" / "A_Mask_1.nii.gz", lesions.astype(np.uint8))
    drafts = plan(tmp_path, spheres="masks")
    assert [draft.number for draft in drafts] == [1, 2]
    assert [draft.placement.centre_dhw for draft in drafts] == [(8, 12, 24), (15, 30, 34)]
    assert [draft.placement.diameter_mm for draft in drafts] == pytest.approx([6, 8])
