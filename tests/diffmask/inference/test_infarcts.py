"""Infarcts in the walls of hearts."""

import nibabel
import numpy as np
import pytest
from planned import refused, save

from LeFusion.dataset.cases import Layout
from LeFusion.hearts.transfer import Anatomy, wall_coordinates
from LeFusion.runtime.commandline import PROJECT_ROOT

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
