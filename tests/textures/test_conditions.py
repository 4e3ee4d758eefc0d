"""Each kind of `condition` gives the histogram that it says, by hand; what cannot be meant is refused."""

import json
from collections import Counter
from dataclasses import replace
from functools import lru_cache

import nibabel
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.loading import LoadedCase
from LeFusion.dataset.volume import Volume
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import PROJECT_ROOT, plain
from LeFusion.settings import InferenceSettings
from LeFusion.textures.conditions import choose_conditions, conditions_of
from LeFusion.textures.histograms import lesion_histogram, shift_histogram
from LeFusion.textures.palette import Palette, load_palette
from LeFusion.textures.realistic import LesionTable, read_lesion_table, write_lesion_table

FITTED = PROJECT_ROOT / "configs" / "fitted_textures"
BINS = 16
WINDOW = (0, 160)  # bin b is 10 b to 10 b + 10
LAYOUT = Layout()
TWO_CLASSES = Layout(lesion_labels=(3, 4), other_labels=(1, 2), reference_label=2)
LISTED = [[2] + [0] * 15, [0] * 8 + [1, 3] + [0] * 6, [0] * 14 + [5, 5]]


@lru_cache
def defaults(*overrides):
    with initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        return plain(compose("inference", overrides))


def loaded(name="A", lesions=((100, 110, 120),), reference_mean=None, mm=1.0):
    """A case whose lesion of class k has voxels of these intensities."""
    image = torch.full((2, 4, 8), -1.0)
    masks = torch.zeros(len(lesions), 2, 4, 8, dtype=torch.bool)
    for k, intensities in enumerate(lesions):
        masks[k, 0, k, : len(intensities)] = True
        image[0, k, : len(intensities)] = torch.tensor(intensities, dtype=torch.float32) / 80 - 1
    labels = sum(number * mask.numpy().astype(np.uint8) for number, mask in enumerate(masks, start=1))
    case = Case(name, f"/images/{name}.nii.gz", f"/labels/{name}.nii.gz")
    values, affine = IntensityMap(*WINDOW).to_source(image.numpy()), np.diag([mm, mm, mm, 1])
    volume = Volume(case.image_path, values, 1, 0, affine, None)
    return LoadedCase(
        case,
        Layout(lesion_labels=range(1, len(lesions) + 1)),
        volume,
        None,
        Axes((0, 1, 2)),
        labels,
        labels.shape,
        IntensityMap(*WINDOW),
        reference_mean,
    )


def histogram(shares):
    """{bin: share} -> (BINS,)."""
    values = torch.zeros(BINS)
    for number, share in shares.items():
        values[number] = share
    return values


def choose(layout=LAYOUT, know_sizes=False, **changes):
    """What the settings of inference give: where nothing else is said, three textures of one lesion class."""
    of_hearts = "emidec" in str(changes.get("textures"))  # a file says what it was fitted for
    ours = {"textures": LISTED, "histogram_perturbation": 0.0, "window": list(WINDOW), "cond_dim": None}
    ours |= {"diffusion_num_channels": None, "layout": layout}
    ours |= {"data_type": "emidec", "window": "minmax"} if of_hearts else {}
    return choose_conditions(InferenceSettings.of(defaults() | ours | changes), know_sizes)


FIRST, SECOND, THIRD = histogram({0: 1}), histogram({8: 0.25, 9: 0.75}), histogram({14: 0.5, 15: 0.5})
OWN = histogram({10: 1 / 3, 11: 1 / 3, 12: 1 / 3})


def test_a_palette_of_lists():
    palette = load_palette(LISTED, BINS, BINS)
    assert palette.names == ("type 1", "type 2", "type 3") and palette.shares == pytest.approx((1 / 3,) * 3)
    assert palette.reference_mean is None
    for found, expected in zip(palette.histograms, (FIRST, SECOND, THIRD), strict=True):
        assert torch.allclose(found, expected) and found.dtype == torch.float32


def test_no_palette():
    assert load_palette(None, BINS, BINS) == load_palette([], BINS, BINS) == Palette()


@pytest.mark.parametrize("name, classes", [("lidc_fitted", 1), ("emidec_fitted", 2)])
def test_a_palette_of_a_shipped_file(name, classes):
    path = FITTED / f"{name}.json"
    content = json.loads(path.read_text())
    palette = load_palette(str(path), classes * BINS, BINS)
    assert palette.names == tuple(kind["name"] for kind in content["types"])
    assert sum(palette.shares) == pytest.approx(1)
    assert palette.shares == pytest.approx([kind["share"] for kind in content["types"]], abs=1e-3)
    assert palette.reference_mean == content["reference_mean"]
    for found, kind in zip(palette.histograms, content["types"], strict=True):
        assert torch.allclose(found, torch.tensor(kind["histogram"]), atol=1e-3)
        assert torch.allclose(found.reshape(classes, BINS).sum(1), torch.ones(classes))


def test_palettes_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"emidec_fitted.json: holds 2 classes x 16 bins.* 1 x 16"):
        load_palette(str(FITTED / "emidec_fitted.json"), BINS, BINS)
    with pytest.raises(FileNotFoundError, match="nowhere.json"):
        load_palette(str(tmp_path / "nowhere.json"), BINS, BINS)
    with pytest.raises(ValueError, match="has 15 bins, the network takes 16"):
        load_palette([LISTED[0], LISTED[1][:15]], BINS, BINS)
    for wrong in ([0] * 16, [-1] + [1] * 15, [float("nan")] * 16):
        with pytest.raises(ValueError, match="finite numbers >= 0, not all zero"):
            load_palette([LISTED[0], wrong], BINS, BINS)


@pytest.mark.parametrize(
    "data_type, window, said",
    [
        ("lidc", [-100, 250], r"window=\[-1000.0, 400.0\], this run has window=\[-100.0, 250.0\]"),
        ("lidc", "minmax", "this run has window=minmax"),
        ("liver", [-1000, 400], "data_type=lidc, this run has data_type=liver"),
    ],
)
def test_textures_of_other_data_or_another_window_are_refused(data_type, window, said):
    """Every bin would mean another intensity."""
    path = str(FITTED / "lidc_fitted.json")
    with pytest.raises(UserError, match=said):
        load_palette(path, BINS, BINS, data_type, window)
    assert load_palette(path, BINS, BINS, "lidc", (-1000.0, 400.0)).names


def test_textures_go_to_the_outputs_in_order():
    conditions = choose()
    for kind, expected in ((1, FIRST), (2, SECOND), (3, THIRD)):
        assert torch.allclose(conditions.histogram(loaded(), kind), expected)
        assert conditions.name("A", kind) == conditions.name("B", kind) == f"type {kind}"


@pytest.mark.parametrize("condition", [2, "type 2"])
def test_one_texture_by_number_or_name_for_every_output(condition):
    conditions = choose(condition=condition, types=7)
    for kind in range(1, 8):
        assert torch.allclose(conditions.histogram(loaded(), kind), SECOND)
        assert conditions.name("A", kind) == "type 2"


@pytest.mark.parametrize("condition", ["textures", "mixture"])
def test_cases_may_have_a_texture_of_their_own(condition):
    conditions = choose(condition=condition, textures_of={"A": 3, "B": "type 2"})
    assert [conditions.choose("A", kind) for kind in (1, 2, 3)] == [2, 2, 2]
    assert [conditions.name("B", kind) for kind in (1, 2)] == ["type 2"] * 2
    assert torch.equal(conditions.histogram(loaded("A"), 1), THIRD)
    without = choose(condition=condition)
    assert [conditions.choose("C", kind) for kind in range(1, 9)] == [
        without.choose("C", kind) for kind in range(1, 9)
    ]


@pytest.mark.parametrize("name", [0, 4, "soft"])
def test_unknown_textures_of_cases_are_refused(name):
    with pytest.raises(ValueError, match=f"A: texture {name!r} is none of the types: 1 to 3, 'type 1'"):
        choose(textures_of={"A": name})
    with pytest.raises(ValueError, match="condition=own"):
        choose(textures_of={"A": 1}, condition="own")


def test_fitted_textures_are_chosen_by_name_and_keep_their_reference():
    changes = {"textures": str(FITTED / "emidec_fitted.json"), "cond_dim": 32}
    palette = choose(TWO_CLASSES, **changes).palette
    for number, name in enumerate(palette.names, start=1):
        for condition in (number, name):
            only = choose(TWO_CLASSES, condition=condition, **changes).palette
            assert only.names == (name,) and only.reference_mean == palette.reference_mean is not None
            assert torch.equal(only.histograms[0], palette.histograms[number - 1])


def test_own_is_the_histogram_of_the_lesion_unperturbed():
    conditions = choose(condition="own", textures=None, types=5, histogram_perturbation=0.5)
    for kind in (1, 5):
        assert torch.allclose(conditions.histogram(loaded(), kind), OWN)
        assert conditions.name("A", kind) == "own"
    donated = histogram({4: 1.0})
    assert torch.equal(conditions.histogram(loaded(), 1, own=donated), donated)
    textures = choose(condition=2)
    assert torch.allclose(textures.histogram(loaded(), 1, own=donated), SECOND)  # not asked for


def test_a_list_of_counts():
    conditions = choose(condition=[0, 1, 3] + [0] * 13, textures=None, types=2)
    for kind in (1, 2):
        assert torch.allclose(conditions.histogram(loaded(), kind), histogram({1: 0.25, 2: 0.75}))
    assert conditions.name("A", 1) == "given"


def test_a_list_for_two_classes_is_normalised_by_class():
    counts = [4] + [0] * 15 + [0] * 15 + [9]
    conditions = choose(TWO_CLASSES, condition=counts, textures=None, cond_dim=32)
    found = conditions.histogram(loaded(lesions=((100,), (50,))), 1)
    assert torch.allclose(found, torch.cat([histogram({0: 1}), histogram({15: 1})]))


def save_reference(folder, lesion=85, healthy=None):
    image, mask = np.full((4, 8, 8), 5, np.int16), np.zeros((4, 8, 8), np.uint8)
    mask[1, 2:4, 2:4] = 3 if healthy else 1
    image[1, 2:4, 2:4] = lesion
    if healthy:
        mask[2], image[2] = 2, healthy
    for name, array in (("look.nii.gz", image), ("where.nii.gz", mask)):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / name)
    return {
        "condition": "reference",
        "reference_image": str(folder / "look.nii.gz"),
        "reference_mask": str(folder / "where.nii.gz"),
        "textures": None,
    }


def test_the_histogram_of_a_reference_lesion(tmp_path):
    conditions = choose(**save_reference(tmp_path), types=4)
    for kind in (1, 4):
        assert torch.equal(conditions.histogram(loaded(), kind), histogram({8: 1.0}))
    assert conditions.name("A", 1) == "of look.nii.gz"


def test_a_reference_lesion_is_seen_relative_to_healthy_tissue(tmp_path):
    conditions = choose(TWO_CLASSES, **save_reference(tmp_path, healthy=45), cond_dim=32)
    brighter = loaded(
        lesions=((100,), ()), reference_mean=65 / 80 - 1
    )  # two bins above the reference's tissue
    assert torch.allclose(
        conditions.histogram(brighter, 1), torch.cat([histogram({10: 1.0}), torch.zeros(16)]), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"/labels/A\.nii\.gz.*class 2.*'of look\.nii\.gz'"):
        conditions.histogram(loaded(lesions=((100,), (90,)), reference_mean=0.0), 1)


def test_references_that_are_missing_are_named(tmp_path):
    given = save_reference(tmp_path)
    for key in ("reference_image", "reference_mask"):
        with pytest.raises(ValueError, match=f"condition=reference needs {key}"):
            choose(**(given | {key: None}))
    with pytest.raises((OSError, ValueError), match="gone.nii.gz"):
        choose(**(given | {"reference_image": str(tmp_path / "gone.nii.gz")}))
    with pytest.raises(ValueError, match="where.nii.gz.*no lesion voxel|where.nii.gz.*unknown values"):
        choose(TWO_CLASSES, **given, cond_dim=32)


def test_textures_move_with_the_healthy_tissue_of_the_case():
    changes = {"textures": str(FITTED / "emidec_fitted.json"), "cond_dim": 32, "condition": 2}
    conditions = choose(TWO_CLASSES, **changes)
    palette = conditions.palette
    for mean in (palette.reference_mean, -0.5, 0.1):
        case = loaded(lesions=((100,), (50,)), reference_mean=mean)
        expected = shift_histogram(palette.histograms[0], mean - palette.reference_mean, BINS)
        assert torch.allclose(conditions.histogram(case, 1), expected, atol=1e-5)
    absolute = loaded(lesions=((100,), (50,)))  # a case without reference: as the palette says
    assert torch.allclose(conditions.histogram(absolute, 1), palette.histograms[0], atol=1e-6)
    still = loaded(reference_mean=0.5)  # and textures without reference stay for any case
    assert torch.allclose(choose(condition=2).histogram(still, 1), SECOND)


def test_a_class_that_the_case_lacks_gets_zeros():
    conditions = choose(
        TWO_CLASSES, textures=str(FITTED / "emidec_fitted.json"), cond_dim=32, histogram_perturbation=0.1
    )
    for kind in (1, 2, 3):
        without = conditions.histogram(loaded(lesions=((100,), ())), kind)
        both = conditions.histogram(loaded(lesions=((100,), (50,))), kind)
        assert torch.equal(without[:16], both[:16]) and not bool(without[16:].any()) and bool(both[16:].any())
    own = choose(TWO_CLASSES, condition="own", cond_dim=32, textures=None)
    case = loaded(lesions=((), (50, 55)))
    assert torch.equal(own.histogram(case, 1), torch.cat([torch.zeros(16), histogram({5: 1.0})]))
    assert torch.equal(own.histogram(case, 1), lesion_histogram(case.image_dhw[None], case.lesions_dhw))


def test_a_class_without_histogram_is_refused_by_file():
    textures = [[1] + [0] * 31, [1] * 32]
    conditions = choose(TWO_CLASSES, textures=textures, types=2, cond_dim=32)
    case = loaded("P7", lesions=((100,), (50,)))
    assert bool(conditions.histogram(case, 2)[16:].any())
    with pytest.raises(ValueError, match=r"/labels/P7\.nii\.gz.*class 2.*'type 1' has no histogram"):
        conditions.histogram(case, 1)
    assert torch.equal(conditions.histogram(loaded(lesions=((100,), ())), 1)[:16], histogram({0: 1.0}))
    with pytest.raises(ValueError, match=r"/labels/P7\.nii\.gz"):  # also where the lesion is another's
        choose(TWO_CLASSES, condition="own", cond_dim=32, textures=None).histogram(
            case, 1, own=torch.eye(32)[3]
        )


def test_perturbed_histograms_are_drawn_for_each_output():
    conditions = choose(condition=2, histogram_perturbation=0.2)
    addresses = [(name, kind) for name in "AB" for kind in (1, 2)]
    found = {address: conditions.histogram(loaded(address[0]), address[1]) for address in addresses}
    assert len({tuple(h.tolist()) for h in found.values()}) == 4
    for (name, kind), drawn in found.items():
        assert float(drawn.sum()) == pytest.approx(1) and torch.equal(drawn > 0, SECOND > 0)
        assert 0 < float((drawn - SECOND).abs().max()) < 0.2
        again = choose(condition=2, histogram_perturbation=0.2).histogram(loaded(name), kind)
        assert torch.equal(again, drawn)
    other = choose(condition=2, histogram_perturbation=0.2, seed=1).histogram(loaded("A"), 1)
    assert not torch.equal(other, found["A", 1])


def drawn(conditions, names):
    return [conditions.choose(name, kind) for name in names for kind in (1, 2, 3)]


def test_a_mixture_is_addressed():
    conditions, names = choose(condition="mixture", types=9), [f"case {i}" for i in range(30)]
    first = drawn(conditions, names)
    again = choose(condition="mixture", types=1)  # of another run with fewer types
    assert drawn(again, names[::-1]) == [
        number for i in reversed(range(30)) for number in first[3 * i : 3 * i + 3]
    ]
    torch.manual_seed(5)
    assert drawn(conditions, names) == first
    assert drawn(choose(condition="mixture", seed=1), names) != first
    assert len(set(zip(first[::3], first[1::3], first[2::3], strict=True))) > 10  # by output, not by case
    for name in names[:5]:  # and the histogram is that of the name
        number = conditions.choose(name, 2)
        assert conditions.name(name, 2) == f"type {number + 1}"
        assert torch.allclose(conditions.histogram(loaded(name), 2), (FIRST, SECOND, THIRD)[number])


@pytest.mark.parametrize(
    "shares, textures, cond_dim, expected",
    [
        (None, LISTED, 16, (1 / 3, 1 / 3, 1 / 3)),
        ([1, 0, 3], LISTED, 16, (0.25, 0, 0.75)),
        (None, str(FITTED / "emidec_fitted.json"), 32, None),
        ([0.2, 0.2, 0.0], str(FITTED / "emidec_fitted.json"), 32, (0.5, 0.5, 0)),
    ],
    ids=["listed", "listed with shares", "fitted", "fitted with shares"],
)
def test_a_mixture_follows_its_shares(shares, textures, cond_dim, expected):
    if expected is None:
        expected = [
            kind["share"] for kind in json.loads((FITTED / "emidec_fitted.json").read_text())["types"]
        ]
    layout = TWO_CLASSES if cond_dim == 32 else LAYOUT
    conditions = choose(
        layout, condition="mixture", texture_shares=shares, textures=textures, cond_dim=cond_dim
    )
    count = 900
    found = Counter(conditions.choose(f"case {i}", 1) for i in range(count))
    for number, share in enumerate(expected):
        assert found[number] / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


@pytest.mark.parametrize(
    "shares",
    [[1, 1], [1, 1, 1, 1], [0, 0, 0], [1, -1, 1], [1, float("nan"), 1], [1, float("inf"), 1], ["a", 1, 1]],
)
def test_other_shares_are_refused(shares):
    allowed = "(3 numbers >= 0, not all 0|null or a list of numbers of at least 0)"
    with pytest.raises(ValueError, match=rf"texture_shares=\[.*must be {allowed}"):
        choose(condition="mixture", texture_shares=shares)


@pytest.mark.parametrize("shares", [0.5, "even"])
def test_shares_that_are_no_list_are_refused_as_the_users_mistake(shares):
    with pytest.raises(ValueError, match="texture_shares="):
        choose(condition="mixture", texture_shares=shares)


@pytest.mark.parametrize("condition", [0, 4, -1, "type 4", "Textures"])
def test_conditions_that_name_no_texture_are_refused(condition):
    with pytest.raises(ValueError) as caught:
        choose(condition=condition)
    message = str(caught.value)
    assert (
        message.startswith(f"condition={condition!r} must be")
        and "'type 3'" in message
        and "1 to 3" in message
    )


@pytest.mark.parametrize("condition", ["textures", "mixture", 1, "type 1"])
def test_conditions_that_need_textures_say_so(condition):
    with pytest.raises(ValueError, match=f"condition={condition} needs textures"):
        choose(condition=condition, textures=None)


def test_more_types_than_textures_are_refused():
    with pytest.raises(ValueError, match="types=4 but data_type=lidc has 3 textures"):
        choose(types=4)
    assert choose(types=4, condition="mixture").choose("A", 4) in (0, 1, 2)


@pytest.mark.parametrize("counts", [[1] * 15, [1] * 17, [0] * 16, [-1] + [1] * 15, [[1] * 16], []])
def test_lists_that_are_no_histogram_are_refused(counts):
    with pytest.raises(ValueError, match="texture histogram|condition="):
        choose(condition=counts)


def test_a_perturbation_beyond_1_is_refused():
    with pytest.raises(ValueError, match="histogram_perturbation=1.5"):
        choose(histogram_perturbation=1.5).histogram(loaded(), 1)


def test_the_shipped_configurations_give_conditions(composed):
    for data_type, layout in (("lidc", Layout()), ("emidec", TWO_CLASSES)):
        given = InferenceSettings.of(composed("inference", f"data_type={data_type}"))
        assert given.layout.lesion_labels == layout.lesion_labels
        assert given.condition == ("textures" if data_type == "lidc" else "realistic")
        conditions = choose_conditions(given.model_copy(update={"condition": "textures"}))
        assert [conditions.choose("A", kind) for kind in (1, 2, 3)] == [0, 1, 2] and not conditions.draw
        third = ["condition=mixture", "texture_shares=[0,0,1]"]
        conditions = choose_conditions(
            InferenceSettings.of(composed("inference", f"data_type={data_type}", *third))
        )
        assert {conditions.choose(f"{i}", 1) for i in range(9)} == {2}


def table_in(folder, window=(0.0, 160.0), depths=()):
    """Small lesions are dark and large ones bright, in the textures dim and vivid; each layer is a bin
    darker than the one around it."""
    volumes, texture = np.repeat(np.array([3.0, 3000.0]), 40), np.tile([0, 1], 40)
    bins = np.where(volumes < 100, 2, 6) + 8 * texture
    layers = np.stack([np.eye(BINS)[bins - n] for n in range(len(depths) + 1)], axis=1)
    names = ("dim", "vivid")
    table = LesionTable(
        "lidc", window, BINS, "1 mm", "drawn", "made up", names, texture, volumes, layers, depths
    )
    write_lesion_table(folder / "table.json", table)
    return str(folder / "table.json")


SAME = {"published_textures": LISTED}  # the textures of the settings are those of the data type


def test_weights_that_know_sizes_get_real_lesions_of_like_size(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), types=2, **SAME, know_sizes=True)
    assert conditions.palette.names == ("dim", "vivid")
    small, large = loaded(), loaded("B", lesions=(tuple(range(8)),), mm=7.1)
    found = [[int(conditions.histogram(one, kind).argmax()) for kind in (1, 2)] for one in (small, large)]
    assert found == [[2, 10], [6, 14]]
    assert torch.equal(conditions.histogram(small, 1), conditions.histogram(small, 1))


def test_layers_of_a_real_lesion_take_the_shares_of_the_lesion_to_paint(tmp_path):
    """Three voxels in a row at 1 mm are all in the layer at the border."""
    path = table_in(tmp_path, depths=(1.5,))
    conditions = choose(realistic_textures=path, **SAME, types=2, know_sizes=True)
    wanted = conditions.wanted(loaded(), 1)
    assert wanted.depths_mm == (1.5,) and wanted.layers.shape == (1, 2, BINS)
    assert torch.allclose(wanted.layers[0, 0], histogram({2: 1.0})) and not bool(wanted.layers[0, 1].any())
    assert torch.allclose(wanted.histogram, histogram({2: 1.0}))
    thick = conditions.wanted(loaded(mm=2.0), 1)  # deeper than 1.5 mm: all in the layer within
    assert torch.allclose(thick.layers[0, 1], histogram({1: 1.0})) and not bool(thick.layers[0, 0].any())


def test_perturbed_layers_sum_to_the_histogram_and_keep_their_shares(tmp_path):
    path = table_in(tmp_path, depths=(1.5,))
    for lesion in (loaded(), loaded(mm=2.0)):
        plain, moved = (
            choose(
                realistic_textures=path, **SAME, types=2, know_sizes=True, histogram_perturbation=v
            ).wanted(lesion, 2)
            for v in (0.0, 0.5)
        )
        assert torch.allclose(moved.layers.sum(dim=(0, 1)), moved.histogram)
        assert torch.allclose(moved.layers.sum(dim=2), plain.layers.sum(dim=2))


def test_a_lesion_s_own_layers_sum_to_its_histogram():
    wanted = choose(condition="own").wanted(loaded(), 1)
    assert torch.allclose(wanted.layers.sum(dim=1).flatten(), wanted.histogram)
    assert torch.allclose(wanted.histogram, OWN)
    donated = choose(condition="own").wanted(loaded(), 1, own=FIRST)
    assert donated.layers is None and torch.equal(donated.histogram, FIRST)


def far_apart():
    """A small dark lesion and a larger bright one, too far apart for one box of 4 voxels a side."""
    case = loaded(lesions=((20, 20, 130, 130, 130, 130),))
    labels = np.zeros((2, 4, 8), np.uint8)
    labels[0, 0, [0, 5, 6, 7]] = 1
    image = torch.full((2, 4, 8), 20.0)
    image[0, 0, 5:] = 130
    volume = replace(case.volume, raw=image.numpy())
    return replace(case, labels_dhw=labels, volume=volume)


def test_each_part_of_a_case_has_what_it_wants_and_the_case_their_mean():
    conditions, case, size = choose(condition="own"), far_apart(), (4, 4, 4)
    parts = case.parts(size)
    found = [conditions.wanted(case, 1, None, part, n).histogram for n, part in enumerate(parts)]
    assert [int(h.argmax()) for h in found] == [2, 13]
    assert torch.allclose(conditions.histogram(case, 1, size=size), histogram({2: 0.25, 13: 0.75}))


def test_parts_draw_apart_from_each_other(tmp_path):
    path = table_in(tmp_path)
    layers = np.eye(BINS)[np.arange(80) % BINS][:, None]
    write_lesion_table(path, replace(read_lesion_table(path), volume_mm3=np.full(80, 3.0), layers=layers))
    conditions = choose(condition="realistic", realistic_textures=path, types=8, **SAME)
    pairs = [[conditions.wanted(far_apart(), kind, number=n) for n in (0, 1, 1)] for kind in range(1, 9)]
    bins = [[int(wanted.histogram.argmax()) for wanted in each] for each in pairs]
    assert all(second == again for _, second, again in bins)
    assert any(first != second for first, second, _ in bins)


def test_other_weights_and_published_get_the_published_textures(tmp_path):
    path = table_in(tmp_path)
    for options in ({}, {"condition": "published", "know_sizes": True}):
        conditions = choose(realistic_textures=path, **SAME, **options)
        assert conditions.palette.table is None and len(conditions.palette.histograms) == 3
        assert torch.equal(conditions.histogram(loaded(), 2), histogram({8: 0.25, 9: 0.75}))


def test_textures_of_one_s_own_come_before_the_table(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), published_textures=None, know_sizes=True)
    assert conditions.palette.table is None and conditions.name("A", 1) == "type 1"


def test_realistic_draws_textures_as_common_as_they_are(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), condition="realistic", types=1, **SAME)
    names = Counter(conditions.name(f"case {number}", 1) for number in range(100))
    assert set(names) == {"dim", "vivid"} and min(names.values()) > 25
    only = choose(realistic_textures=table_in(tmp_path), condition="vivid", **SAME, know_sizes=True)
    assert {only.name(f"case {number}", 1) for number in range(5)} == {"vivid"}
    assert int(only.histogram(loaded(), 1).argmax()) == 10


def test_realistic_without_a_table_or_with_another_window_is_refused(tmp_path):
    with pytest.raises(UserError, match="condition=realistic needs realistic_textures"):
        choose(condition="realistic", realistic_textures=None)
    with pytest.raises(UserError, match=r"table.json: is for window=\[0.0, 99.0\]"):
        choose(condition="realistic", realistic_textures=table_in(tmp_path, (0.0, 99.0)), **SAME)
    with pytest.raises(UserError, match="would not look at textures"):
        choose(condition="realistic", realistic_textures=table_in(tmp_path), published_textures=[[1] * BINS])


def scored_in(folder):
    """The dim lesions of table_in have the texture scores 1 and 2, the vivid ones 5; large vivid ones are
    calcified."""
    path = table_in(folder)
    table = read_lesion_table(path)
    large = table.volume_mm3 > 100
    score = np.where(table.texture == 1, 5, 1 + large)
    scores = {"texture_score": score, "calcification": np.where(large & (score == 5), 3, 0)}
    write_lesion_table(path, replace(table, scores=scores))
    return path


def test_scores_restrict_the_real_lesions_drawn_from(tmp_path):
    path = scored_in(tmp_path)
    given = {"realistic_textures": path, **SAME, "condition": None}
    conditions = choose(**given, texture_score=5)
    assert conditions.draw and {conditions.name(f"case {n}", 1) for n in range(20)} == {"vivid"}
    look = conditions.wanted(loaded(), 1)
    assert int(look.histogram.argmax()) == 10 and conditions.scores(look) == "texture_score=5"
    look = choose(**given, texture_score=[2, 5], calcification=3).wanted(loaded(), 1)  # large ones, as asked
    assert int(look.histogram.argmax()) == 14
    of_type = {**given, "condition": "textures", "types": 2, "know_sizes": True}
    looks = [choose(**of_type, texture_score=[2, 5]).wanted(loaded(), kind) for kind in (1, 2)]
    assert [int(look.histogram.argmax()) for look in looks] == [6, 10]


def test_nothing_is_said_about_scores_where_no_real_lesion_is_drawn(tmp_path):
    assert choose().scores(choose().wanted(loaded(), 1)) == ""
    conditions = choose(realistic_textures=table_in(tmp_path), condition="realistic", **SAME)
    assert conditions.scores(conditions.wanted(loaded(), 1)) == ""


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"texture_score": 4}, ["table.json: texture_score=4", "none of its lesions"]),
        ({"margin_score": [4, 5]}, ["table.json: margin_score=[4, 5]", "no scores of margin_score"]),
        ({"texture_score": 5, "condition": "textures"}, ["texture_score=5 leaves no dim lesion"]),
        ({"texture_score": 5, "condition": "dim"}, ["texture_score=5 leaves no dim lesion"]),
        ({"texture_score": 5, "textures_of": {"A": 1}}, ["texture_score=5 leaves no dim lesion"]),
        ({"texture_score": 5, "texture_shares": [1, 1]}, ["texture_score=5 leaves no dim lesion"]),
        ({"texture_score": 5, "condition": "published"}, ["texture_score=5", "give condition=realistic"]),
        ({"texture_score": 5, "condition": "own"}, ["texture_score=5", "condition=own"]),
        ({"texture_score": 5, "condition": [1] * 16}, ["texture_score=5", "give condition=realistic"]),
        ({"texture_score": 5, "know_sizes": False, "condition": "textures"}, ["give condition=realistic"]),
        ({"texture_score": 5, "realistic_textures": None}, ["needs realistic_textures"]),
        ({"texture_score": 6}, ["texture_score=6 must be"]),
        ({"calcification": []}, ["calcification=[] must be"]),
    ],
)
def test_scores_that_cannot_be_met_are_refused(tmp_path, changes, words):
    given = {"realistic_textures": scored_in(tmp_path), **SAME, "condition": None, "types": 2}
    with pytest.raises(UserError) as refused:
        choose(**given | {"know_sizes": True} | changes)
    assert all(word in str(refused.value) for word in words), refused.value


def test_scores_of_hearts_are_refused():
    of_hearts = InferenceSettings.of(
        defaults("data_type=emidec") | {"texture_score": 5, "condition": "realistic"}
    )
    with pytest.raises(UserError, match="emidec.json: texture_score=5: .* they have none"):
        choose_conditions(of_hearts)


def test_a_texture_may_be_scores(tmp_path):
    given = InferenceSettings.of(defaults() | SAME | {"textures": LISTED, "window": list(WINDOW)})
    given = given.model_copy(update={"realistic_textures": scored_in(tmp_path)})
    conditions = conditions_of(given, {"texture_score": [1, 2]}, 1, True)
    assert conditions.name("A", 1) == "dim"
    for texture, words in (({"size": 1}, "size is no score"), ({"texture_score": 9}, "texture_score=9 must")):
        with pytest.raises(UserError, match=r"texture=\{.*" + words):
            conditions_of(given, texture, 1, True)


def test_a_table_gives_single_images_their_texture(tmp_path):
    (tmp_path / "t.csv").write_text("name,texture,type\nA,3,\nB,type 2,1\n")
    conditions = choose(textures_of=str(tmp_path / "t.csv"))
    assert [conditions.choose("A", kind) for kind in (1, 2, 3)] == [2, 2, 2]
    assert [conditions.choose("B", kind) for kind in (1, 2, 3)] == [1, 1, 2]
