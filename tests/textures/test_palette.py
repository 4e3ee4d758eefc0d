"""Palettes of lists and files, and the real lesions that a palette draws from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from chosen import (
    BINS,
    FIRST,
    FITTED,
    LISTED,
    SAME,
    SECOND,
    THIRD,
    WINDOW,
    choose,
    defaults,
    loaded,
    table_in,
)

from LeFusion.errors import UserError
from LeFusion.settings import InferenceSettings
from LeFusion.textures.choice import choose_conditions, conditions_of
from LeFusion.textures.palette import Palette, load_palette
from LeFusion.textures.table_files import read_lesion_table, write_lesion_table


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


def test_realistic_without_a_table_or_with_another_window_is_refused(tmp_path):
    with pytest.raises(UserError, match="realistic lesions need realistic_textures"):
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
    look = conditions.look(loaded(), 1)
    assert conditions.draw and conditions.name("A", 1, [look]) == "vivid"
    assert int(look.histogram.argmax()) == 10 and conditions.scores(look) == "texture_score=5"
    look = choose(**given, texture_score=[2, 5], calcification=3).look(loaded(), 1)  # large ones, as asked
    assert int(look.histogram.argmax()) == 14
    of_type = {**given, "condition": "textures", "types": 2, "know_sizes": True}
    looks = [choose(**of_type, texture_score=[2, 5]).look(loaded(), kind) for kind in (1, 2)]
    assert [int(look.histogram.argmax()) for look in looks] == [6, 10]


def test_nothing_is_said_about_scores_where_no_real_lesion_is_drawn(tmp_path):
    assert choose().scores(choose().look(loaded(), 1)) == ""
    conditions = choose(realistic_textures=table_in(tmp_path), condition="realistic", **SAME)
    assert conditions.scores(conditions.look(loaded(), 1)) == ""


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
        ({"texture_score": 5, "realistic_textures": None}, ["need realistic_textures"]),
        ({"texture_score": 6}, ["texture_score=6 must be"]),
        ({"calcification": []}, ["calcification=[] must be"]),
    ],
)
def test_scores_that_cannot_be_met_are_refused(tmp_path, changes, words):
    given = {"realistic_textures": scored_in(tmp_path), **SAME, "condition": None, "types": 2}
    with pytest.raises(UserError) as refused:
        choose(**given | {"know_sizes": True} | changes)
    assert all(word in str(refused.value) for word in words), refused.value


def test_another_table_with_the_scores_is_named(tmp_path):
    path = scored_in(tmp_path)
    table = replace(read_lesion_table(path), scores={"calcification": np.full(80, 2)})
    write_lesion_table(tmp_path / "more.json", table)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"such scores; those of realistic_textures=.*more.json have$"):
        choose(realistic_textures=path, **SAME, condition=None, calcification=2)
    with pytest.raises(UserError, match="such scores$"):
        choose(realistic_textures=path, **SAME, condition=None, calcification=1)


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
    assert conditions.name("A", 1, [conditions.look(loaded(), 1)]) == "dim"
    for texture, words in (({"size": 1}, "size is no score"), ({"texture_score": 9}, "texture_score=9 must")):
        with pytest.raises(UserError, match=r"texture=\{.*" + words):
            conditions_of(given, texture, 1, True)
