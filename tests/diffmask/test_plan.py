"""Where masks go: scans are found, spheres are drawn or read in mm, and what cannot be is refused early."""

import itertools

import nibabel
import numpy as np
import pytest

from DiffMask.inference.infarcts import SectorDrafts
from DiffMask.inference.nodules import Site, SphereDrafts, read_spheres
from DiffMask.inference.plan import find_scans
from DiffMask.settings import MaskInferenceSettings
from LeFusion.dataset.cases import Layout
from LeFusion.hearts.transfer import Anatomy, wall_coordinates
from LeFusion.runtime.commandline import PROJECT_ROOT

LIDC = Layout()
CT = Layout(mask_names=(), output_mask_infix="", depth_axis=2)
HEART = Layout(
    image_folder="images",
    mask_folder="labels",
    mask_names=(),
    lesion_labels=(3, 4),
    other_labels=(1, 2),
    cavity_label=1,
    myocardium_label=2,
    depth_axis=2,
)
ANATOMY = Anatomy(cavity=1, myocardium=2)
DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
SHAPE = (24, 40, 44)
SIZE, ONE_MM = (16, 16, 16), (1.0, 1.0, 1.0)
# Stored (x, y, z): x and y flipped, z first slice at the feet, all shifted
OBLIQUE_LAST = np.array([[0.7, 0.2, 0.1, -9], [-0.2, 0.7, 0.1, 3], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])
FLIPPED = np.array([[-0.8, 0, 0, 50.5], [0, -1.1, 0, 41.0], [0, 0, 2.0, -310.0], [0, 0, 0, 1]])


def lung_hu(lung_from=10):
    """(D, H, W): soft tissue, and lung from a column on."""
    hu = np.random.default_rng(0).normal(40, 20, SHAPE)
    hu[:, :, lung_from:] -= 890
    return hu.astype(np.int16)


def save(path, array_dhw, affine=None, depth_axis=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.moveaxis(array_dhw, 0, depth_axis)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4) if affine is None else affine), path)
    return path


def ball(centre, radius_mm, spacing=ONE_MM):
    offsets = [(np.arange(n) - c) * s for n, c, s in zip(SHAPE, centre, spacing, strict=True)]
    return sum(part**2 for part in np.meshgrid(*offsets, indexing="ij")) <= radius_mm**2


@pytest.fixture
def scans(tmp_path):
    """A folder with two scans, B below a folder of its own."""
    for name in ("A", "sub/B"):
        save(tmp_path / "scans" / f"{name}.nii.gz", lung_hu())
    return tmp_path / "scans"


@pytest.fixture
def settings(composed):
    """-> settings(root, layout, **changes): what the command is told."""
    config = composed("diffmask_inference")

    def changed(root, layout=LIDC, **changes):
        assert set(changes) <= set(config)
        return MaskInferenceSettings.of(config | {"dataset_root_dir": str(root), "layout": layout} | changes)

    return changed


@pytest.fixture
def plan(settings):
    """-> plan(root, layout, size, **changes): all drafts of all scans below it."""

    def drafts(root, layout=LIDC, size=SIZE, **changes):
        given = settings(root, layout, **{key: _plain(value) for key, value in changes.items()})
        found = find_scans(given)
        drafts_of = SectorDrafts(given) if given.hearts else SphereDrafts(given, found, size, ONE_MM)
        return [draft for scan in found for draft in drafts_of(scan)]

    return drafts


def _plain(value):
    """As YAML gives it."""
    return str(value) if hasattr(value, "parts") else list(value) if isinstance(value, tuple) else value


def table(path, *rows, columns="case,x_mm,y_mm,z_mm,diameter_mm"):
    path.write_text("\n".join([columns, *rows]) + "\n")
    return path


def refused(kind, *parts):
    """pytest.raises for an error of one line with these parts in their order."""
    return pytest.raises(kind, match="(?s)^[^\\n]*" + "[^\\n]*".join(map(str, parts)) + "[^\\n]*$")


# --- scans ----------------------------------------------------------------------


def test_scans_are_a_folder_one_that_holds_images_or_one_file(scans, settings):
    found = find_scans(settings(scans))
    assert [(scan.name, scan.path, scan.mask_path) for scan in found] == [
        ("A", scans / "A.nii.gz", None),
        ("B", scans / "sub" / "B.nii.gz", None),
    ]
    assert find_scans(settings(scans / "sub" / "B.nii.gz")) == found[1:]
    images = scans.parent / "Image"
    scans.rename(images)
    save(images.parent / "Mask" / "A.nii.gz", lung_hu())  # no scan
    assert [scan.path for scan in find_scans(settings(images.parent))] == [
        images / "A.nii.gz",
        images / "sub" / "B.nii.gz",
    ]


def test_no_scans_are_refused(tmp_path, settings, scans):
    with refused(FileNotFoundError, tmp_path / "nowhere", "dataset_root_dir"):
        find_scans(settings(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with refused(FileNotFoundError, tmp_path / "empty"):
        find_scans(settings(tmp_path / "empty"))
    save(scans / "other" / "A.nii.gz", lung_hu())
    with refused(ValueError, "'A'"):
        find_scans(settings(scans))


@pytest.mark.parametrize(
    "shape, affine, fits",
    [
        ((100, 90, 60), np.diag([-1.0, -1, 1, 1]), False),  # a whole CT, slices last
        ((100, 90, 60), OBLIQUE_LAST, False),
        ((100, 90, 60), np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]]), True),
        ((32, 64, 64), np.diag([-1.0, -1, 1, 1]), True),  # a region of LIDC, whose affine is no help
        ((48, 80, 70), np.diag([-1.0, -1, 1, 1]), True),
        ((100, 80, 80), np.diag([-1.0, -1, 1, 1]), True),  # depth first with such an affine
    ],
)
def test_a_whole_ct_with_the_data_type_of_regions_is_refused(tmp_path, plan, shape, affine, fits):
    hu = np.full(shape, 40, np.int16)
    hu[3:-3, 8:-8, 8:-8] = -850
    path = save(tmp_path / "ct.nii.gz", hu, affine)
    if fits:
        assert plan(path, diameter_mm=6, border_mm=[0, 30])
    else:
        with refused(ValueError, path, "lie along axis 2", "data_type=lidc", "data_type=chest_ct"):
            plan(path)
        assert plan(path, CT, diameter_mm=6, border_mm=[0, 30])


# --- spheres that are drawn -----------------------------------------------------


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


# --- spheres of masks -----------------------------------------------------------


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


# --- spheres of a table ---------------------------------------------------------


@pytest.mark.parametrize(
    "affine",
    [
        FLIPPED,
        np.array([[0.7, 0.2, 0.1, -12.5], [-0.2, 0.7, 0.05, 31.0], [0.0, -0.1, 2.5, 7.25], [0, 0, 0, 1]]),
        np.array([[0, 0.9, 0, 5], [-0.8, 0, 0, -3], [0, 0, -1.5, 70], [0, 0, 0, 1.0]]),  # x and y exchanged
    ],
)
def test_world_coordinates_land_on_their_voxel(tmp_path, plan, affine):
    root = save(tmp_path / "scan.nii.gz", lung_hu(), affine, 2)
    stored = np.array([[20, 27, 12], [30.25, 20.5, 10.75]])  # voxels (x, y, z) as stored
    world = nibabel.affines.apply_affine(affine, stored)
    rows = [f"scan,{x:.6f},{y:.6f},{z:.6f},{d}" for (x, y, z), d in zip(world, (6, 9.5), strict=True)]
    spheres = table(tmp_path / "spheres.csv", *rows)
    drafts = plan(root, CT, spheres=spheres)
    assert [draft.placement.centre_dhw for draft in drafts] == [
        pytest.approx((12, 20, 27)),
        pytest.approx((10.75, 30.25, 20.5)),
    ]
    assert [draft.placement.diameter_mm for draft in drafts] == [6, 9.5]
    assert drafts[0].spacing_mm == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0)[[2, 0, 1]])


def test_a_table_is_read_in_both_spellings(tmp_path):
    expected = {"": [Site(1.0, -2.5, 30.0, 8.0)]}
    assert read_spheres(table(tmp_path / "a.csv", "1,-2.5,3e1,8", columns="x,y,z,diameter_mm"), 1) == expected
    path = tmp_path / "b.csv"
    path.write_bytes(
        "\ufeffdiameter_mm,z_mm,y_mm,x_mm\r\n8,30,-2.5,1\r\n".encode()  # of a spreadsheet
    )
    assert read_spheres(path, 1) == expected
    several = table(tmp_path / "c.csv", "A,1,2,3,4", "B,5,6,7,8", "A,9,10,11,12")
    assert read_spheres(several, 2) == {
        "A": [Site(1, 2, 3, 4), Site(9, 10, 11, 12)],
        "B": [Site(5, 6, 7, 8)],
    }
    typed = table(tmp_path / "d.csv", "1,2,3,4,2", "5,6,7,8,solid", columns="x,y,z,diameter_mm,type")
    assert read_spheres(typed, 1) == {"": [Site(1, 2, 3, 4, 2), Site(5, 6, 7, 8, "solid")]}


def test_rows_go_to_their_scan(scans, tmp_path, plan):
    rows = ("B,12,20,25,6", "A,10,15,30,7", "B,14,30,20,8")
    drafts = plan(scans, spheres=table(tmp_path / "s.csv", *rows))
    assert [(d.name, d.placement.centre_dhw, d.placement.diameter_mm) for d in drafts] == [
        ("A_GenMask_1", (10, 15, 30), 7),
        ("B_GenMask_1", (12, 20, 25), 6),
        ("B_GenMask_2", (14, 30, 20), 8),
    ]
    with refused(ValueError, scans / "sub" / "B.nii.gz", "s.csv has no sphere for it"):
        plan(scans, spheres=table(tmp_path / "s.csv", rows[1]))


@pytest.mark.parametrize(
    "row, texts",
    [
        ("A,12,20,27", ["line 3", "numbers", "diameter_mm"]),
        ("A,12,20,wide,6", ["line 3", "numbers"]),
        ("A,12,20,nan,6", ["line 3", "finite"]),
        ("A,12,20,27,0", ["line 3", "above 0"]),
        (",12,20,27,6", ["line 3", "no case", "2 scans"]),
        ("A,12,20,27,60", ["A.nii.gz", "60 mm", "not larger than the volume of 24 x 40 x 44 mm"]),
        ("A,12,20,43,6", ["A.nii.gz", "outside the volume by 2.5 mm"]),
        ("A,12,-90,20,6", ["A.nii.gz", "outside the volume"]),
        ("A,12,20,4,6", ["A.nii.gz", "6.0 mm", "not in the organ"]),  # in the chest wall, lung in the box
    ],
)
def test_a_bad_row_is_refused(scans, tmp_path, plan, row, texts):
    spheres = table(tmp_path / "s.csv", "B,12,20,27,6", row)
    with refused(ValueError, *texts):
        plan(scans, spheres=spheres)


def test_a_sphere_far_from_the_organ_is_refused(scans, tmp_path, plan):
    spheres = table(tmp_path / "s.csv", "A,12,20,4,6", "B,12,20,27,6")
    with refused(ValueError, "A.nii.gz", "6.0 mm", "not in the organ"):
        plan(scans, spheres=spheres, size=(8, 8, 8))


def test_a_bad_table_is_refused(scans, tmp_path, plan):
    with refused(FileNotFoundError, "spheres=.*nowhere.csv", "placed, masks"):
        plan(scans, spheres=tmp_path / "nowhere.csv")
    with refused(ValueError, "s.csv", "holds no sphere"):
        plan(scans, spheres=table(tmp_path / "s.csv"))
    with refused(ValueError, "s.csv, line 2", "diameter_mm"):
        plan(scans, spheres=table(tmp_path / "s.csv", "A,1,2,3", columns="case,x_mm,y_mm,z_mm"))
    for columns, column in (("case,x,y,z,size", "size"), ("x,y,z,diameter_mm,x_mm", "x_mm")):
        with refused(ValueError, "s.csv", f"column '{column}' is unknown or there twice"):
            plan(scans, spheres=table(tmp_path / "s.csv", "A,1,2,3,4", columns=columns))
    untyped = table(tmp_path / "s.csv", "A,1,2,3,4,2", "A,1,2,3,4,", columns="case,x,y,z,diameter_mm,type")
    with refused(ValueError, "s.csv, line 3", "no type"):
        plan(scans, spheres=untyped)


# --- hearts ---------------------------------------------------------------------


def rings(slices=6, inner=12.0, outer=20.0):
    """(D, H, W): concentric rings, the apex first and smaller."""
    y, x = np.mgrid[:64, :60] - 30.0
    labels = np.zeros((slices, 64, 60), np.uint8)
    for z in range(slices):
        size = 0.6 + 0.4 * (z + 0.5) / slices
        labels[z][np.hypot(y, x) < outer * size] = 2
        labels[z][np.hypot(y, x) < inner * size] = 1
    return labels


@pytest.fixture
def demo(tmp_path):
    """A folder with the two smallest demo hearts."""
    for name in ("Case_DEMO-N01", "Case_DEMO-N03"):
        for kind in ("images", "labels"):
            (tmp_path / "demo" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "demo" / kind / f"{name}.nii.gz").symlink_to(DEMO / kind / f"{name}.nii.gz")
    return tmp_path / "demo"


@pytest.fixture
def heart(tmp_path):
    """-> heart(labels, image): a folder with one heart (D, H, W); without image its septum cannot be seen."""

    def write(labels, image=None):
        image = np.full(labels.shape, 100, np.int16) if image is None else image
        for kind, array in (("images", image), ("labels", labels)):
            save(tmp_path / "H" / kind / "heart.nii.gz", array, np.diag([-1.5, -1.5, 8, 1]), 2)
        return tmp_path / "H"

    return write


def turned(angle):
    return np.angle(np.exp(1j * np.asarray(angle)))


def measured(draft):
    """Of a draft's infarct: angles, depths and heights of its voxels, as stored."""
    healthy = np.where(np.isin(draft.labels, (3, 4)), 2, draft.labels)
    wall = wall_coordinates(healthy, ANATOMY, ())
    lesion = np.isin(draft.labels, (3, 4))
    return (values[lesion] for values in wall)


def test_a_heart_gets_an_infarct_with_no_reflow_within(demo, plan):
    drafts = plan(demo, HEART, masks_per_scan=2)
    assert [draft.name for draft in drafts[:3]] == [
        "Case_DEMO-N01_GenMask_1",
        "Case_DEMO-N01_GenMask_2",
        "Case_DEMO-N03_GenMask_1",
    ]
    for draft in drafts:
        stored = np.asanyarray(nibabel.load(draft.scan.mask_path).dataobj)
        labels = np.moveaxis(stored, 2, 0)
        lesion = np.isin(draft.labels, (3, 4))
        assert draft.labels.dtype == np.uint8 and np.array_equal(draft.labels[~lesion], labels[~lesion])
        assert lesion.any() and (labels[lesion] == 2).all()
        assert draft.facts["septal_angle"] is not None
        assert draft.placement.mask(lesion.shape, draft.spacing_mm)[lesion].mean() > 0.97
    assert any((draft.labels == 4).any() for draft in drafts)
    assert len({draft.sector for draft in drafts}) == len(drafts)


def test_the_numbers_given_are_obeyed(demo, plan):
    given = {"half_angle_deg": 45, "transmurality": 0.5, "heights": [0.3, 0.9], "no_reflow_share": 0.2}
    for angle in (-60, 100):
        for draft in plan(demo, HEART, angle_deg=angle, **given):
            sector = draft.sector
            septum = draft.facts["septal_angle"]
            assert turned(sector.angle - septum) == pytest.approx(np.radians(angle))
            assert (sector.half_angle, sector.transmurality) == (pytest.approx(np.pi / 4), 0.5)
            assert (sector.heights, sector.no_reflow_share) == ((0.3, 0.9), 0.2)
            angles, depths, heights = measured(draft)
            middle = np.angle(np.exp(1j * angles).mean())
            assert abs(turned(middle - septum - np.radians(angle))) < 0.4  # its border is rough
            assert abs(turned(angles - sector.angle)).max() < 1.4 and np.quantile(depths, 0.95) < 0.75
            assert heights.min() > 0.2 and heights.max() < 1
            core = (draft.labels == 4).sum() / len(angles)
            assert 0.05 < core <= 0.2 + 1 / len(angles)


def test_ranges_and_zero_are_obeyed(heart, plan):
    root = heart(rings())
    drafts = plan(root, HEART, masks_per_scan=5, transmurality=[0.7, 0.8], no_reflow_share=0)
    shares = [draft.sector.transmurality for draft in drafts]
    assert all(0.7 <= share <= 0.8 for share in shares) and len(set(shares)) == 5
    assert not any((draft.labels == 4).any() for draft in drafts)


def test_without_a_septum_angles_are_as_stored(heart, plan):
    (draft,) = plan(heart(rings()), HEART, angle_deg=120, half_angle_deg=40, heights=[0, 1])
    assert draft.facts["septal_angle"] is None
    assert np.degrees(draft.sector.angle) == pytest.approx(120)
    angles, _, _ = measured(draft)
    assert np.degrees(np.angle(np.exp(1j * angles).mean())) == pytest.approx(120, abs=12)


def test_the_first_infarcts_depend_on_seed_and_scan_only(demo, plan):
    one, two = (plan(demo / "images", HEART, masks_per_scan=count) for count in (1, 2))
    for first, same in zip(one, two[::2], strict=True):
        assert np.array_equal(first.labels, same.labels) and first.sector == same.sector
    other = plan(demo, HEART, seed=1)
    assert len({draft.sector for draft in (*two, *other)}) == 6


def lesioned(labels):
    labels[3][labels[3] == 2] = 3
    return labels


@pytest.mark.parametrize(
    "change, texts",
    [
        (lambda a: np.where(a == 1, 0, a), ["no cavity found", "label 1"]),
        (lambda a: np.where(a == 2, 0, a), ["no myocardium found", "label 2"]),
        (lesioned, ["lesions already"]),
        (lambda a: np.where(a == 1, 7, a), ["unknown labels", "7"]),
        (lambda a: np.where(a == 1, np.int16(257), a), ["unknown labels", "257"]),
        (lambda a: np.where(a == 1, np.float32(1.5), a), ["unknown labels", "1.5"]),
    ],
)
def test_a_bad_label_map_is_refused(heart, plan, change, texts):
    root = heart(change(rings()), np.full(rings().shape, 100, np.int16))
    with refused(ValueError, root / "labels" / "heart.nii.gz", *texts):
        plan(root, HEART)


def test_a_label_map_must_fit_and_be_there(heart, plan, tmp_path):
    root = heart(rings(), np.full((5, 64, 60), 100, np.int16))
    with refused(ValueError, root / "labels", "shape", root / "images"):
        plan(root, HEART)
    (root / "labels").rename(root / "elsewhere")
    with refused(FileNotFoundError, root / "labels"):
        plan(root, HEART)
    root = heart(rings())
    (root / "labels").rename(tmp_path / "labels of mine")
    assert len(plan(root / "images", HEART, masks_from=tmp_path / "labels of mine")) == 1


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"transmurality": 0}, "transmurality 0"),
        ({"half_angle_deg": 270}, "half_angle"),
        ({"no_reflow_share": 1.2}, "no_reflow_share 1.2"),
    ],
)
def test_an_infarct_out_of_range_is_refused(heart, plan, changes, text):
    root = heart(rings())
    with refused(ValueError, "heart.nii.gz", text):
        plan(root, HEART, **changes)


def test_an_infarct_without_a_place_is_an_error_with_draws_and_seed(heart, plan):
    labels = rings()
    labels[:, :, 30:][labels[:, :, 30:] == 2] = 0  # no wall on the right
    with refused(ValueError, "heart.nii.gz", "3 draws", "mask 1, seed 5", "no wall"):
        plan(heart(labels), HEART, angle_deg=0, half_angle_deg=20, max_redraws=2, seed=5)
    drafts = plan(heart(labels), HEART, half_angle_deg=20, masks_per_scan=6, max_redraws=20)
    assert any(draft.facts["attempt"] > 0 for draft in drafts) and len(drafts) == 6


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


def test_spheres_of_no_scan_are_refused(tmp_path, scans, plan):
    rows = ("A,12,20,27,6", "C,12,20,27,6")
    with pytest.raises(ValueError, match="places.csv.*no scan C"):
        plan(scans, spheres=table(tmp_path / "places.csv", *rows))
