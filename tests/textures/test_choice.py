"""Each kind of `condition` gives the histogram that it says, by hand; what cannot be meant is refused."""

import json
from collections import Counter

import nibabel
import numpy as np
import pytest
import torch
from chosen import (
    BINS,
    FIRST,
    FITTED,
    LAYOUT,
    LISTED,
    OWN,
    SECOND,
    THIRD,
    TWO_CLASSES,
    asked,
    choose,
    histogram,
    loaded,
)

from LeFusion.dataset.cases import Layout
from LeFusion.settings import InferenceSettings
from LeFusion.textures.choice import choose_conditions
from LeFusion.textures.histograms import lesion_histogram, shift_histogram


def test_textures_go_to_the_outputs_in_order():
    conditions = choose()
    for kind, expected in ((1, FIRST), (2, SECOND), (3, THIRD)):
        assert torch.allclose(asked(conditions, loaded(), kind), expected)
        assert conditions.name("A", kind) == conditions.name("B", kind) == f"type {kind}"


@pytest.mark.parametrize("condition", [2, "type 2"])
def test_one_texture_by_number_or_name_for_every_output(condition):
    conditions = choose(condition=condition, types=7)
    for kind in range(1, 8):
        assert torch.allclose(asked(conditions, loaded(), kind), SECOND)
        assert conditions.name("A", kind) == "type 2"


@pytest.mark.parametrize("condition", ["textures", "mixture"])
def test_cases_may_have_a_texture_of_their_own(condition):
    conditions = choose(condition=condition, textures_of={"A": 3, "B": "type 2"})
    assert [conditions.choose("A", kind) for kind in (1, 2, 3)] == [2, 2, 2]
    assert [conditions.name("B", kind) for kind in (1, 2)] == ["type 2"] * 2
    assert torch.equal(asked(conditions, loaded("A"), 1), THIRD)
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
        assert torch.allclose(asked(conditions, loaded(), kind), OWN)
        assert conditions.name("A", kind) == "own"
    donated = histogram({4: 1.0})
    assert torch.equal(asked(conditions, loaded(), 1, own=donated), donated)
    textures = choose(condition=2)
    assert torch.allclose(asked(textures, loaded(), 1, own=donated), SECOND)  # not asked for


def test_a_list_of_counts():
    conditions = choose(condition=[0, 1, 3] + [0] * 13, textures=None, types=2)
    for kind in (1, 2):
        assert torch.allclose(asked(conditions, loaded(), kind), histogram({1: 0.25, 2: 0.75}))
    assert conditions.name("A", 1) == "given"


def test_a_list_for_two_classes_is_normalised_by_class():
    counts = [4] + [0] * 15 + [0] * 15 + [9]
    conditions = choose(TWO_CLASSES, condition=counts, textures=None, cond_dim=32)
    found = asked(conditions, loaded(lesions=((100,), (50,))), 1)
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
        assert torch.equal(asked(conditions, loaded(), kind), histogram({8: 1.0}))
    assert conditions.name("A", 1) == "of look.nii.gz"


def test_a_reference_lesion_is_seen_relative_to_healthy_tissue(tmp_path):
    conditions = choose(TWO_CLASSES, **save_reference(tmp_path, healthy=45), cond_dim=32)
    brighter = loaded(
        lesions=((100,), ()), reference_mean=65 / 80 - 1
    )  # two bins above the reference's tissue
    assert torch.allclose(
        asked(conditions, brighter, 1), torch.cat([histogram({10: 1.0}), torch.zeros(16)]), atol=1e-5
    )
    with pytest.raises(ValueError, match=r"/labels/A\.nii\.gz.*class 2.*'of look\.nii\.gz'"):
        asked(conditions, loaded(lesions=((100,), (90,)), reference_mean=0.0), 1)


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
        assert torch.allclose(asked(conditions, case, 1), expected, atol=1e-5)
    absolute = loaded(lesions=((100,), (50,)))  # a case without reference: as the palette says
    assert torch.allclose(asked(conditions, absolute, 1), palette.histograms[0], atol=1e-6)
    still = loaded(reference_mean=0.5)  # and textures without reference stay for any case
    assert torch.allclose(asked(choose(condition=2), still, 1), SECOND)


def test_a_class_that_the_case_lacks_gets_zeros():
    conditions = choose(
        TWO_CLASSES, textures=str(FITTED / "emidec_fitted.json"), cond_dim=32, histogram_perturbation=0.1
    )
    for kind in (1, 2, 3):
        without = asked(conditions, loaded(lesions=((100,), ())), kind)
        both = asked(conditions, loaded(lesions=((100,), (50,))), kind)
        assert torch.equal(without[:16], both[:16]) and not bool(without[16:].any()) and bool(both[16:].any())
    own = choose(TWO_CLASSES, condition="own", cond_dim=32, textures=None)
    case = loaded(lesions=((), (50, 55)))
    assert torch.equal(asked(own, case, 1), torch.cat([torch.zeros(16), histogram({5: 1.0})]))
    assert torch.equal(asked(own, case, 1), lesion_histogram(case.image_dhw[None], case.lesions_dhw))


def test_a_class_without_histogram_is_refused_by_file():
    textures = [[1] + [0] * 31, [1] * 32]
    conditions = choose(TWO_CLASSES, textures=textures, types=2, cond_dim=32)
    case = loaded("P7", lesions=((100,), (50,)))
    assert bool(asked(conditions, case, 2)[16:].any())
    with pytest.raises(ValueError, match=r"/labels/P7\.nii\.gz.*class 2.*'type 1' has no histogram"):
        asked(conditions, case, 1)
    assert torch.equal(asked(conditions, loaded(lesions=((100,), ())), 1)[:16], histogram({0: 1.0}))
    with pytest.raises(ValueError, match=r"/labels/P7\.nii\.gz"):  # also where the lesion is another's
        asked(choose(TWO_CLASSES, condition="own", cond_dim=32, textures=None), case, 1, own=torch.eye(32)[3])


def test_perturbed_histograms_are_drawn_for_each_output():
    conditions = choose(condition=2, histogram_perturbation=0.2)
    addresses = [(name, kind) for name in "AB" for kind in (1, 2)]
    found = {address: asked(conditions, loaded(address[0]), address[1]) for address in addresses}
    assert len({tuple(h.tolist()) for h in found.values()}) == 4
    for (name, kind), drawn in found.items():
        assert float(drawn.sum()) == pytest.approx(1) and torch.equal(drawn > 0, SECOND > 0)
        assert 0 < float((drawn - SECOND).abs().max()) < 0.2
        again = asked(choose(condition=2, histogram_perturbation=0.2), loaded(name), kind)
        assert torch.equal(again, drawn)
    other = asked(choose(condition=2, histogram_perturbation=0.2, seed=1), loaded("A"), 1)
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
        assert torch.allclose(asked(conditions, loaded(name), 2), (FIRST, SECOND, THIRD)[number])


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
        asked(choose(histogram_perturbation=1.5), loaded(), 1)


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


def test_a_table_gives_single_images_their_texture(tmp_path):
    (tmp_path / "t.csv").write_text("name,texture,type\nA,3,\nB,type 2,1\n")
    conditions = choose(textures_of=str(tmp_path / "t.csv"))
    assert [conditions.choose("A", kind) for kind in (1, 2, 3)] == [2, 2, 2]
    assert [conditions.choose("B", kind) for kind in (1, 2, 3)] == [1, 1, 2]
