"""What the lesions of others look like in a heart."""

from pathlib import Path

import numpy as np
import pytest
import torch
from painted_hearts import (
    NORMAL,
    SICK,
    TEST_CASE,
    TEXTURE,
    assert_measured,
    assert_painted,
    manifest_of,
    requested,
    save,
    shares_of_range,
    source,
    tissue,
)

from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.loading import load_case
from LeFusion.painter import Painter
from LeFusion.textures.table_files import read_lesion_table

REALISTIC = Path(__file__).resolve().parents[3] / "configs" / "lesion_textures" / "emidec.json"


def test_lesions_of_others_keep_their_looks_in_normal_hearts(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "condition=own", "types=1")
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert [row["case"] for row in rows] == list(NORMAL)
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert (now == 3).any() and row["donor"] in SICK and row["donor"] != TEST_CASE
        assert_measured(hearts, tmp_path / "out", row)
        image, _ = source(hearts, row["case"])
        donor_image, donor_labels = source(hearts, row["donor"])
        ours, theirs = tissue(image, now), tissue(donor_image, donor_labels)
        middles = (np.arange(16) + 0.5) / 16
        for label, shares in zip((3, 4), requested(row).reshape(2, 16).numpy(), strict=True):
            if not (now == label).any():
                assert not shares.any()
                continue
            lent = (shares_of_range(donor_image)[donor_labels == label] - theirs[0]) / theirs[1]
            assert shares @ middles == pytest.approx((ours[0] + ours[1] * lent).mean(), abs=0.01)
            assert shares.sum() == pytest.approx(1, abs=1e-3)
        assert abs(ours[0] - theirs[0]) > 0.05 or row["case"] == NORMAL[0]  # so that it shows


def test_lesions_of_others_with_a_texture(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, TEXTURE, "types=1", "histogram_perturbation=0")
    assert code == 0, error
    for row in manifest_of(tmp_path / "out"):
        now = assert_painted(hearts, tmp_path / "out", row["case"], "1")
        wanted = torch.zeros(32)
        wanted[10], wanted[16 + 3] = float((now == 3).any()), float((now == 4).any())
        assert torch.equal(requested(row), wanted) and row["texture"] == "type 1"


def test_realistic_lesions_are_relative_to_the_tissue_of_their_heart(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "types=3", "histogram_perturbation=0")  # the default of hearts
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert len({row["requested_histogram"] for row in rows}) > 4
    table = read_lesion_table(REALISTIC)
    middles = np.linspace(*table.window, 2 * table.bins + 1)[1::2]
    relative = (table.layers[:, 0] @ middles) / table.layers[:, 0].sum(axis=1)
    for row in rows:
        now = assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert (row["texture"], row["condition"]) == ("infarct", "realistic")
        level, unit = tissue(source(hearts, row["case"])[0], now)
        found = (requested(row).reshape(2, 16).numpy() @ ((np.arange(16) + 0.5) / 16) - level) / unit
        assert relative.min() - 0.1 < found[0] < relative.max() + 0.1


def test_realistic_lesions_know_the_noise_of_the_scan_they_are_painted_into(hearts):
    """So that the guidance shares out as much fine structure as the scan has."""
    painter = Painter.load("emidec_small", device="cpu")
    conditions, layout = painter.conditions(None, seed=0), painter.settings.layout
    image, labels = source(hearts, SICK[0])
    grain = np.random.default_rng(0).normal(0, 30, image.shape)
    noise = []
    for name, values in (("quiet", image), ("noisy", (image + grain).astype(np.int16))):
        save(hearts / name, name, values, labels)
        (case,) = find_cases(hearts / name, layout, None, "all")
        look = conditions.look(load_case(case, layout, "minmax"), 1)
        assert torch.equal(look.layers.flatten(), look.histogram) and bool(look.layers.any())
        noise.append(look.grain[0])
    assert noise[1] > 2 * noise[0] > 0


def test_a_heart_without_bright_blood_has_no_realistic_lesion(paint, hearts, donors):
    image, labels = source(hearts, NORMAL[1])
    image[labels == 1] = 10
    save(hearts / "Normal", NORMAL[1], image, labels)
    code, _, error = paint("Normal", donors, "condition=realistic", "types=1")
    assert code == 1 and error.count("error: ") == 1 and "Traceback" not in error
    assert NORMAL[1] in error and "not brighter than the muscle" in error


def test_the_shipped_textures_move_with_the_heart(paint, hearts, donors, tmp_path):
    code, _, error = paint("Normal", donors, "condition=textures", "types=3", "histogram_perturbation=0")
    assert code == 0, error
    rows = manifest_of(tmp_path / "out")
    assert len({row["requested_histogram"] for row in rows}) == 9
    for row in rows:
        assert_painted(hearts, tmp_path / "out", row["case"], row["type"])
        assert row["texture"] == f"type {row['type']}" and bool(requested(row)[:16].any())
