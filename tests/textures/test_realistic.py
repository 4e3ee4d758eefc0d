"""Histograms of real lesions of like size: drawn from the neighbours, as they would be in another scan."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lesion_tables import around, draw, of_hearts, scored, table_of

from LeFusion.errors import UserError
from LeFusion.textures.histograms import mean_bin
from LeFusion.textures.noise import under_lung, under_noise
from LeFusion.textures.realistic import NEIGHBOURS
from LeFusion.textures.table_files import read_lesion_table

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.parametrize("name", ["lidc", "lidc_nodules"])
def test_the_bundled_tables_get_brighter_with_size(name):
    table = read_lesion_table(ROOT / "configs" / "lesion_textures" / f"{name}.json")
    assert table.textures == ("ground-glass", "part-solid", "solid") and table.shares[2] > 0.5
    centres = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    means = table.histograms @ centres
    assert means[table.volume_mm3 < 268].mean() < means[table.volume_mm3 > 1437].mean() - 100  # 8 and 14 mm
    by_texture = [means[table.texture == kind].mean() for kind in range(3)]
    assert by_texture == sorted(by_texture)


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


@pytest.mark.parametrize("name, score, brighter", [("lidc", 5, 1), ("lidc_nodules", 3, 6)])
def test_the_bundled_tables_have_scores(name, score, brighter):
    """Solid nodules are brighter than ground glass, calcified ones than others."""
    table = read_lesion_table(ROOT / "configs" / "lesion_textures" / f"{name}.json")
    key = "texture_score" if name == "lidc" else "calcification"
    centres = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    means = [(table.with_scores({key: [v]}).histograms @ centres).mean() for v in (score, brighter)]
    assert means[0] > means[1] + 50
