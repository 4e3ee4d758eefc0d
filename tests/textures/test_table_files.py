"""Tables of lesions are read as they were written; broken ones are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from lesion_tables import around, draw, of_hearts, scored, table_of

from LeFusion.errors import UserError
from LeFusion.textures.noise import under_lung, under_noise
from LeFusion.textures.table_files import load_lesion_table, read_lesion_table, write_lesion_table


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


def test_scores_are_read_as_they_were_written(tmp_path):
    write_lesion_table(tmp_path / "t.json", scored())
    back = read_lesion_table(tmp_path / "t.json")
    assert set(back.scores) == {"texture_score", "calcification"}
    for name, values in scored().scores.items():
        assert back.scores[name].tolist() == values.tolist()
        assert back.only(1).scores[name].tolist() == values[1::2].tolist()


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
