"""Histograms of real lesions of like size: drawn from the neighbours, written and read as they are."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from LeFusion.errors import UserError
from LeFusion.textures.histograms import mean_bin
from LeFusion.textures.noise import under_lung, under_noise
from LeFusion.textures.realistic import (
    NEIGHBOURS,
    LesionTable,
    load_lesion_table,
    read_lesion_table,
    write_lesion_table,
)
from LeFusion.textures.surroundings import Around

ROOT = Path(__file__).resolve().parents[2]


def table_of(count=60, bins=16) -> LesionTable:
    """Two textures; the bin of a lesion tells its texture and its size."""
    kind = np.arange(count) % 2
    histograms = np.zeros((count, bins))
    histograms[np.arange(count), 8 * kind + np.arange(count) * 8 // count] = 1
    return LesionTable(
        "lidc", (-1000.0, 400.0), bins, "1 mm", "one reader", "made up", ("dark", "bright"), kind,
        np.exp(np.linspace(2, 8, count)), histograms[:, None],
    )  # fmt: skip


def draw(table, *wanted, around=None):
    """The look of a lesion that `pick` chooses."""
    return table.layers_in(table.pick(*wanted), around)


def around(noise=0.1, lung=-0.8) -> Around:
    return Around(noise, -0.9, (0, 0, 0), lung)


def test_a_drawn_histogram_is_of_a_lesion_of_like_size_and_texture():
    table, generator = table_of(), torch.Generator().manual_seed(0)
    for kind in (0, 1):
        for number in (0, 20, 59):
            seen = set()
            for _ in range(30):
                histogram = draw(table, table.volume_mm3[number], generator, kind)
                assert float(histogram.sum()) == pytest.approx(1)
                seen |= set(histogram[0].nonzero().flatten().tolist())
            near = np.argsort(np.abs(np.log(table.volume_mm3[kind::2] / table.volume_mm3[number])))
            bins = table.histograms[kind::2][near[:NEIGHBOURS]].argmax(axis=1)
            assert seen <= set(bins.tolist()) and len(seen) > 1


def test_without_texture_any_lesion_of_like_size_is_drawn():
    table, generator = table_of(), torch.Generator().manual_seed(0)
    drawn = torch.stack([table.draw_whole(50.0, generator) for _ in range(60)]).argmax(dim=1)
    assert 0.2 < float((drawn < 8).float().mean()) < 0.8


def test_the_same_generator_draws_the_same():
    table = table_of()
    first, second = (draw(table, 99.0, torch.Generator().manual_seed(7), 1) for _ in range(2))
    assert torch.equal(first, second)


def test_shares_count_the_lesions():
    assert table_of(61).shares == pytest.approx((31 / 61, 30 / 61))


def test_a_table_is_read_as_it_was_written(tmp_path):
    table = table_of()
    write_lesion_table(tmp_path / "t.json", table)
    back = read_lesion_table(tmp_path / "t.json")
    assert (back.textures, back.window, back.bins, back.voxels) == (
        table.textures, table.window, table.bins, table.voxels
    )  # fmt: skip
    assert np.array_equal(back.texture, table.texture)
    assert back.volume_mm3 == pytest.approx(table.volume_mm3, abs=0.06)
    assert back.layers == pytest.approx(table.layers) and back.depths_mm == ()


def test_layers_are_read_as_they_were_written(tmp_path):
    table = table_of()
    layers = np.stack([0.25 * table.histograms, 0.75 * table.histograms[:, ::-1]], axis=1)
    layered = replace(table, layers=layers, depths_mm=(1.5,))
    write_lesion_table(tmp_path / "t.json", layered)
    back = read_lesion_table(tmp_path / "t.json")
    assert back.depths_mm == (1.5,) and back.layers == pytest.approx(layers)
    assert back.histograms == pytest.approx(layers.sum(axis=1))
    assert draw(back, 50.0, torch.Generator().manual_seed(0)).shape == (2, 16)


def of_hearts() -> LesionTable:
    """Two labels; every second lesion has the second. The bin tells the lesion."""
    layers = np.zeros((8, 2, 10))
    layers[np.arange(8), 0, np.arange(8)] = 0.75
    layers[np.arange(0, 8, 2), 1, np.arange(1, 9, 2)] = 0.25
    layers[1::2, 0] *= 4 / 3
    return LesionTable(
        "emidec", (-4.0, 8.0), 10, "native", "of the cases", "made up", ("infarct",), np.zeros(8, int),
        np.exp(np.linspace(2, 8, 8)), layers, (), 2,
    )  # fmt: skip


def test_labels_come_together_and_from_a_lesion_that_has_them():
    table, generator = of_hearts(), torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(40):
        first, second = draw(table, 99.0, generator, 0, [True, True])
        assert second.argmax() == first.argmax() + 1 and float(second.sum()) == 0.25
        seen.add(int(first.argmax()))
    assert seen == {0, 2, 4, 6}
    assert len({int(draw(table, 99.0, generator, 0, [True, False])[0].argmax()) for _ in range(60)}) == 8
    lacking = replace(table, layers=table.layers * np.array([1, 0])[:, None])
    with pytest.raises(UserError, match="no real lesion"):
        draw(lacking, 99.0, generator, 0, [True, True])


def test_a_table_of_hearts_is_read_as_it_was_written(tmp_path):
    table, path = of_hearts(), tmp_path / "t.json"
    write_lesion_table(path, table)
    back = load_lesion_table(path, "emidec", "minmax", 16, 2)  # of any window and bins
    assert back.classes == 2 and back.layers == pytest.approx(table.layers)
    with pytest.raises(UserError, match="lesion labels=2, this run has lesion labels=1"):
        load_lesion_table(path, "emidec", "minmax", 16, 1)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"depths_mm": [1.0]}))
    with pytest.raises(UserError, match="classes=2"):
        read_lesion_table(path)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"lesions": [[0, 5.0, 1]]}, "16 bins"),
        ({"lesions": [[0, -5.0, *[1] * 16], [1, 5.0, *[1] * 16]]}, "volumes"),
        ({"lesions": [[0, 5.0, *[0] * 16], [1, 5.0, *[1] * 16]]}, "not all 0"),
        ({"lesions": [[0, 5.0, *[1] * 16]]}, "have no lesion"),
        ({"lesions": [["a"]]}, "numbers"),
        ({"more": 1}, "keys"),
        ({"depths_mm": [2, 1]}, "must rise"),
        ({"depths_mm": [1, 2], "smooth_mm": [1.5, 1.0, 1.0]}, "3 x 16 bins"),
        (
            {"depths_mm": [1, 2]},
            r"smoothed by 0 mm, this version takes \[1.5, 1.0, 1.0\]; make the table again",
        ),
        ({"depths_mm": ["deep"]}, "numbers"),
    ],
)
def test_a_broken_table_is_refused_in_one_line(tmp_path, change, words):
    path = tmp_path / "t.json"
    write_lesion_table(path, table_of())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words) as refused:
        read_lesion_table(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_table_and_one_that_is_no_json(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_lesion_table(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_lesion_table(tmp_path / "t.json")


@pytest.mark.parametrize("name", ["lidc", "lidc_nodules"])
def test_the_bundled_tables_get_brighter_with_size(name):
    table = read_lesion_table(ROOT / "configs" / "lesion_textures" / f"{name}.json")
    assert table.textures == ("ground-glass", "part-solid", "solid") and table.shares[2] > 0.5
    centres = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    means = table.histograms @ centres
    assert means[table.volume_mm3 < 268].mean() < means[table.volume_mm3 > 1437].mean() - 100  # 8 and 14 mm
    by_texture = [means[table.texture == kind].mean() for kind in range(3)]
    assert by_texture == sorted(by_texture)


def test_fine_layers_and_what_is_known_of_scans_are_read_as_they_were_written(tmp_path):
    table = table_of()
    fine = np.repeat(table.layers, 4, axis=2) / 4
    noise, lung = np.round(np.linspace(5, 80, 60), 1), np.round(np.linspace(-900, -600, 60), 1)
    write_lesion_table(tmp_path / "t.json", replace(table, layers=fine, noise=noise, lung=lung))
    back = read_lesion_table(tmp_path / "t.json")
    assert back.layer_bins == 64 and back.layers == pytest.approx(fine)
    assert back.histograms == pytest.approx(table.histograms)
    for found, values in ((back.noise, noise), (back.lung, lung)):
        assert found.tolist() == values.tolist()
    assert back.only(1).noise.tolist() == noise[1::2].tolist()
    assert back.only(1).lung.tolist() == lung[1::2].tolist()


def test_what_is_around_lesions_is_read_as_it_was_written_and_fits_the_scan(tmp_path):
    table = table_of()
    rim = np.zeros((60, 5, 16))
    rim[:, np.arange(4), np.arange(4)] = 1  # of the outermost layer nothing is known
    scans = {"noise": np.full(60, 70.0), "lung": np.full(60, -860.0)}
    write_lesion_table(tmp_path / "t.json", replace(table, rim=rim, **scans))
    back = read_lesion_table(tmp_path / "t.json")
    assert back.rim == pytest.approx(rim) and back.only(1).rim.shape == (30, 5, 16)
    assert torch.equal(back.rim_in(7), torch.from_numpy(rim[7].astype(np.float32)))
    plain, found = back.rim_in(7), back.rim_in(7, around(0.2, lung=-0.6))
    assert torch.allclose(found, under_noise(under_lung(plain, -0.8, -0.6, 3 / 7), 0.1, 0.2))
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1, 1, 0])
    assert table.rim_in(7, around()) is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"rim": [[0] * 80] * 59}, "rim must hold 5 x 16 numbers for each of the 60 lesions"),
        ({"rim": [["a"] * 80] * 60}, "rim must hold 5 x 16 numbers"),
        ({"rim": [[-1] * 80] * 60}, "rim must hold numbers from 0"),
        ({"noise": [1, 2]}, "noise must hold a number from 0 for each of the 60 lesions"),
        ({"noise": [-1] * 60}, "noise must hold"),
        ({"lung": [40] * 60}, "lung must hold a number up to 0 for each of the 60 lesions"),
        ({"layer_bins": 24}, "multiple"),
    ],
)
def test_scans_and_finer_bins_that_do_not_fit_are_refused(tmp_path, change, words):
    path = tmp_path / "t.json"
    write_lesion_table(path, table_of())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=words):
        read_lesion_table(path)


def test_a_drawn_lesion_is_as_under_the_noise_of_the_scan():
    """In network intensities the noise is that of the table over half its window."""
    table, lesion = table_of(), (50.0, 1)
    noisy = replace(table, noise=np.full(60, 70.0))
    for wanted in (0.05, 0.1, 0.2):
        plain, drawn = (
            draw(one, lesion[0], torch.Generator().manual_seed(3), lesion[1], around=around(wanted))
            for one in (table, noisy)
        )
        assert torch.allclose(drawn, under_noise(plain, 0.1, wanted))
        assert torch.equal(drawn, plain) == (wanted <= 0.1)  # of one bin: not narrower
    unknown = replace(table, noise=np.zeros(60))
    found = draw(unknown, 50.0, torch.Generator().manual_seed(3), 1, around=around(0.2))
    assert torch.equal(found, draw(table, 50.0, torch.Generator().manual_seed(3), 1))


def test_a_drawn_lesion_is_as_beside_the_lung_of_the_scan():
    """Lung of -860 HU is -0.8 of a window from -1000 to 400, water 3 / 7."""
    table = table_of()
    known, unknown = (replace(table, lung=np.full(60, hu)) for hu in (-860.0, 0.0))
    plain = table.layers_in(20)
    for lung in (-0.9, -0.6):
        found = known.layers_in(20, around(lung=lung))
        assert torch.allclose(found, under_lung(plain, -0.8, lung, 3 / 7))
        assert (mean_bin(found[0]) > mean_bin(plain[0])) == (lung > -0.8)
        assert torch.equal(unknown.layers_in(20, around(lung=lung)), plain)
    assert torch.allclose(known.layers_in(20, around(lung=-0.8)), plain)


def test_textures_are_known_from_dark_to_bright():
    table = table_of()
    assert table.from_dark == (0, 1)
    turned = replace(table, texture=1 - table.texture)
    assert turned.from_dark == (1, 0)
    assert table.subset(table.texture == 1).from_dark == (1,)


def scored() -> LesionTable:
    """Lesion n has texture n % 2 and a score of texture of 1 + n % 4; the last is calcified, of others it
    is not known."""
    number = np.arange(60)
    return replace(
        table_of(), scores={"texture_score": 1 + number % 4, "calcification": np.where(number == 59, 3, 0)}
    )


def test_scores_are_read_as_they_were_written(tmp_path):
    write_lesion_table(tmp_path / "t.json", scored())
    back = read_lesion_table(tmp_path / "t.json")
    assert set(back.scores) == {"texture_score", "calcification"}
    for name, values in scored().scores.items():
        assert back.scores[name].tolist() == values.tolist()
        assert back.only(1).scores[name].tolist() == values[1::2].tolist()


def test_lesions_with_scores_are_those_that_have_one_of_each():
    table = scored()
    found = table.with_scores({"texture_score": [2, 3]})
    assert found.textures == table.textures and set(found.scores["texture_score"]) == {2, 3}
    assert found.volume_mm3.tolist() == table.volume_mm3[np.isin(np.arange(60) % 4, (1, 2))].tolist()
    only = table.with_scores({"texture_score": [4], "calcification": [3]})
    assert only.pick(1.0, torch.Generator().manual_seed(0)) == 0 and only.shares == (0, 1)
    assert torch.equal(only.layers_in(0), table.layers_in(59))
    assert table.with_scores({}).volume_mm3.tolist() == table.volume_mm3.tolist()


@pytest.mark.parametrize(
    "asked, words",
    [
        ({"texture_score": [5]}, "none of its lesions has such scores"),
        ({"texture_score": [1], "calcification": [3]}, "none of its lesions has such scores"),
        ({"spiculation": [1]}, "no scores of spiculation; they have texture_score, calcification"),
    ],
)
def test_scores_that_no_lesion_has_are_refused(asked, words):
    with pytest.raises(UserError, match=words):
        scored().with_scores(asked)


@pytest.mark.parametrize(
    "scores", [[], {"beauty": [1] * 60}, {"spiculation": [1] * 59}, {"spiculation": [6] * 60},
               {"spiculation": [True] * 60}, {"calcification": [-1] * 60}]
)  # fmt: skip
def test_scores_that_cannot_be_are_refused(tmp_path, scores):
    path = tmp_path / "t.json"
    write_lesion_table(path, table_of())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scores": scores}))
    with pytest.raises(UserError, match=r"t.json: scores"):
        read_lesion_table(path)


@pytest.mark.parametrize("name, score, brighter", [("lidc", 5, 1), ("lidc_nodules", 3, 6)])
def test_the_bundled_tables_have_scores(name, score, brighter):
    """Solid nodules are brighter than ground glass, calcified ones than others."""
    table = read_lesion_table(ROOT / "configs" / "lesion_textures" / f"{name}.json")
    key = "texture_score" if name == "lidc" else "calcification"
    centres = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    means = [(table.with_scores({key: [v]}).histograms @ centres).mean() for v in (score, brighter)]
    assert means[0] > means[1] + 50
