"""What lesions are to look like: drawn from real ones, in the scan that they are painted into; their own."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from chosen import BINS, FIRST, OWN, SAME, asked, choose, histogram, loaded, scan, table_in

from LeFusion.textures.layers import layer_shares
from LeFusion.textures.surroundings import lesion_and_walls, look_around
from LeFusion.textures.table_files import read_lesion_table, write_lesion_table


def test_weights_that_know_sizes_get_real_lesions_of_like_size(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), types=2, **SAME, know_sizes=True)
    assert conditions.palette.names == ("dim", "vivid")
    small, large = loaded(), loaded("B", lesions=(tuple(range(8)),), mm=7.1)
    found = [[int(asked(conditions, one, kind).argmax()) for kind in (1, 2)] for one in (small, large)]
    assert found == [[2, 10], [6, 14]]
    assert torch.equal(asked(conditions, small, 1), asked(conditions, small, 1))


def test_the_textures_of_a_lesion_are_in_order(tmp_path):
    """Some dim lesions are brighter than some vivid ones; two that are drawn together are not."""
    path, spread = table_in(tmp_path), np.random.default_rng(0).integers(-3, 4, 80)
    table = read_lesion_table(path)
    bins = 6 + 2 * table.texture + spread
    write_lesion_table(path, replace(table, layers=np.eye(BINS)[bins][:, None]))
    ours = {"realistic_textures": path, "types": 2, **SAME}
    conditions = choose(**ours, know_sizes=True)
    of_case = replace(conditions, of_case={f"case {n}": 0 for n in range(30)})
    seen = []
    for n in range(30):
        one = loaded(f"case {n}")
        dim, vivid = (int(asked(conditions, one, kind).argmax()) for kind in (1, 2))
        assert dim <= vivid
        seen.append([dim, vivid, *(int(asked(of_case, one, kind).argmax()) for kind in (1, 2))])
    dim, vivid, first, second = np.array(seen).T
    assert dim.max() > vivid.min() and len(set(dim)) > 3
    assert (first != second).any()  # of one texture, but drawn anew for each image


def test_layers_of_a_real_lesion_take_the_shares_of_the_lesion_to_paint(tmp_path):
    """Three voxels in a row are at most 0.6 mm below the smooth border."""
    path = table_in(tmp_path, depths=(0.65,))
    conditions = choose(realistic_textures=path, **SAME, types=2, know_sizes=True)
    wanted = conditions.look(loaded(), 1)
    assert wanted.depths_mm == (0.65,) and wanted.layers.shape == (1, 2, BINS)
    assert torch.allclose(wanted.layers[0, 0], histogram({2: 1.0})) and not bool(wanted.layers[0, 1].any())
    assert torch.allclose(wanted.histogram, histogram({2: 1.0}))
    thick = conditions.look(loaded(mm=3.0), 1)  # voxels of 3 mm lie deeper
    assert torch.allclose(thick.layers[0, 1], histogram({3: 1.0})) and not bool(thick.layers[0, 0].any())


def test_a_drawn_lesion_fits_the_tissue_around_it(tmp_path):
    """Its rim is drawn with voxels brighter than its inside, and darker than any tissue."""
    path = table_in(tmp_path, depths=(1.0,))
    layers = np.zeros((80, 2, BINS))
    layers[:, 0, [0, 7, 15]], layers[:, 1, 8] = (0.1, 0.3, 0.1), 0.5
    write_lesion_table(path, replace(read_lesion_table(path), layers=layers))
    image = scan()
    around = look_around(image, image.all_lesions)
    look = choose(realistic_textures=path, condition="realistic", **SAME).look(image, 1)
    darkest = int((around.darkest + 1) / 2 * BINS)
    assert look.layers[0, 0].nonzero().flatten().tolist() == [darkest, 7, 8] and 0 < darkest < 7
    assert look.layers[0, 1].nonzero().flatten().tolist() == [8]
    assert look.grain == around.grain
    assert look.darkest == pytest.approx(around.darkest - around.noise)
    assert look.brightest == pytest.approx(max(9 / 8 - 1, 2 * 100 / 160 - 1))  # of the window: 0 to 160


def test_a_table_without_layers_leaves_no_black_ring_either(tmp_path):
    image = scan()
    around = look_around(image, image.all_lesions)
    look = choose(realistic_textures=table_in(tmp_path), condition="realistic", **SAME).look(image, 1)
    assert look.layers is None and look.darkest == pytest.approx(around.darkest - around.noise)
    assert choose(condition="own").look(image, 1).darkest is None


def test_what_is_around_the_drawn_lesion_is_asked_for_as_well(tmp_path):
    """As in the scan; a table without it asks for nothing there."""
    path = table_in(tmp_path, depths=(1.5,))
    table = read_lesion_table(path)
    rim = np.zeros((80, 5, BINS))
    rim[np.arange(80), :, np.arange(80) % BINS] = 1
    image, without = scan(), choose(realistic_textures=path, condition="realistic", **SAME).look(scan(), 1)
    write_lesion_table(path, replace(table, rim=rim, noise=np.full(80, 5.0)))
    look = choose(realistic_textures=path, condition="realistic", **SAME).look(image, 1)
    around = look_around(image, image.all_lesions)
    assert torch.equal(look.rim, read_lesion_table(path).rim_in(look.drawn, around))
    assert look.drawn == without.drawn and without.rim is None


def test_a_lesion_at_a_wall_has_less_border(tmp_path):
    path = table_in(tmp_path, depths=(1.0,))
    free = scan()
    values = free.volume.raw.copy()
    values[:, :, 23:30] = 0.9
    shares, border = [], []
    for image in (free, replace(free, volume=replace(free.volume, raw=values))):
        look = choose(realistic_textures=path, condition="realistic", **SAME).look(image, 1)
        assert look.wall_level == pytest.approx(look_around(image, image.all_lesions).wall_level)
        shares.append(look.layers[0].sum(dim=1).tolist())
        around = look_around(image, image.all_lesions)
        _, lesions, walls = lesion_and_walls(image, image.all_lesions, around, 1.5)
        border.append(layer_shares(lesions[0], image.spacing_mm, (1.0,), walls).tolist())
    assert shares == [pytest.approx(each) for each in border] and shares[0][0] > shares[1][0]


def test_a_lesion_s_own_look_knows_the_noise_and_may_be_as_dark_as_it_is():
    image = scan()
    around, look = look_around(image, image.all_lesions), choose(condition="own").look(image, 1)
    assert look.grain == around.grain and look.darkest is None


def test_perturbed_layers_sum_to_the_histogram_and_keep_their_shares(tmp_path):
    path = table_in(tmp_path, depths=(1.5,))
    for lesion in (loaded(), loaded(mm=2.0)):
        plain, moved = (
            choose(realistic_textures=path, **SAME, types=2, know_sizes=True, histogram_perturbation=v).look(
                lesion, 2
            )
            for v in (0.0, 0.5)
        )
        assert torch.allclose(moved.layers.sum(dim=(0, 1)), moved.histogram)
        assert torch.allclose(moved.layers.sum(dim=2), plain.layers.sum(dim=2))


def test_a_lesion_s_own_layers_sum_to_its_histogram():
    wanted = choose(condition="own").look(loaded(), 1)
    assert torch.allclose(wanted.layers.sum(dim=1).flatten(), wanted.histogram)
    assert torch.allclose(wanted.histogram, OWN)
    donated = choose(condition="own").look(loaded(), 1, own=FIRST)
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
    found = [conditions.look(case, 1, None, part, n).histogram for n, part in enumerate(parts)]
    assert [int(h.argmax()) for h in found] == [2, 13]
    assert torch.allclose(asked(conditions, case, 1, size=size), histogram({2: 0.25, 13: 0.75}))


def test_parts_draw_apart_from_each_other(tmp_path):
    path = table_in(tmp_path)
    layers = np.eye(BINS)[np.arange(80) % BINS][:, None]
    write_lesion_table(path, replace(read_lesion_table(path), volume_mm3=np.full(80, 3.0), layers=layers))
    conditions = choose(condition="realistic", realistic_textures=path, types=8, **SAME)
    pairs = [[conditions.look(far_apart(), kind, number=n) for n in (0, 1, 1)] for kind in range(1, 9)]
    bins = [[int(wanted.histogram.argmax()) for wanted in each] for each in pairs]
    assert all(second == again for _, second, again in bins)
    assert any(first != second for first, second, _ in bins)


def test_other_weights_and_published_get_the_published_textures(tmp_path):
    path = table_in(tmp_path)
    for options in ({}, {"condition": "published", "know_sizes": True}):
        conditions = choose(realistic_textures=path, **SAME, **options)
        assert conditions.palette.table is None and len(conditions.palette.histograms) == 3
        assert torch.equal(asked(conditions, loaded(), 2), histogram({8: 0.25, 9: 0.75}))


def test_textures_of_one_s_own_come_before_the_table(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), published_textures=None, know_sizes=True)
    assert conditions.palette.table is None and conditions.name("A", 1) == "type 1"


def test_realistic_draws_any_of_like_size_and_says_which_texture_it_was(tmp_path):
    conditions = choose(realistic_textures=table_in(tmp_path), condition="realistic", types=1, **SAME)
    names = Counter()
    for number in range(60):
        case = loaded(f"case {number}")
        look = conditions.look(case, 1)
        name = conditions.name(case.case.name, 1, [look])
        assert int(look.histogram.argmax()) == {"dim": 2, "vivid": 10}[name]
        names[name] += 1
    assert set(names) == {"dim", "vivid"} and min(names.values()) > 15


def test_realistic_draws_the_textures_that_lesions_of_the_size_have(tmp_path):
    path = table_in(tmp_path)
    table = read_lesion_table(path)
    write_lesion_table(path, replace(table, texture=(table.volume_mm3 > 100).astype(int)))
    conditions = choose(realistic_textures=path, condition="realistic", **SAME)
    small, large = loaded(), loaded(lesions=(tuple(range(8)),), mm=7.1)
    for case, name in ((small, "dim"), (large, "vivid")):
        assert conditions.name("A", 1, [conditions.look(case, 1)]) == name
    both = [conditions.look(case, 1) for case in (large, small, large)]
    assert conditions.name("A", 1, both) == "vivid; dim"
    assert conditions.name("A", 1) == "realistic"


def test_realistic_draws_textures_as_common_as_texture_shares_say(tmp_path):
    given = {"realistic_textures": table_in(tmp_path), "condition": "realistic", "types": 1, **SAME}
    conditions = choose(**given, texture_shares=[1, 1])
    names = Counter(conditions.name(f"case {number}", 1) for number in range(100))
    assert set(names) == {"dim", "vivid"} and min(names.values()) > 25
    only = choose(realistic_textures=table_in(tmp_path), condition="vivid", **SAME, know_sizes=True)
    assert {only.name(f"case {number}", 1) for number in range(5)} == {"vivid"}
    assert int(asked(only, loaded(), 1).argmax()) == 10
