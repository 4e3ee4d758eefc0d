"""Texture types: planted groups are found, a real lesion stands for each, files are checked when read."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from LeFusion.textures.fitted import (
    cumulative_features,
    describe,
    fit_textures,
    read_textures,
    window_limits,
    write_textures,
)
from LeFusion.textures.histograms import mean_intensity

BINS = 16


def bumps(centre: float, count: int, seed: int, width=1.5) -> np.ndarray:
    """(count, 16) noisy bell-shaped histograms about a bin."""
    rng = np.random.default_rng(seed)
    values = np.exp(-((np.arange(BINS) - centre) ** 2) / (2 * width**2)) * rng.uniform(
        0.8, 1.2, (count, BINS)
    )
    return values / values.sum(axis=1, keepdims=True)


def planted(*groups) -> tuple[np.ndarray, np.ndarray]:
    """(centre, count) pairs -> histograms and the number of each one's group."""
    parts = [bumps(centre, count, seed) for seed, (centre, count) in enumerate(groups)]
    return np.concatenate(parts), np.repeat(range(len(groups)), [count for _, count in groups])


# --- the fit


@pytest.mark.parametrize("types", [3, "auto"])
def test_planted_groups_are_found_darkest_first(types):
    histograms, group = planted((12, 20), (3, 5), (7, 10))
    fit = fit_textures(histograms, BINS, types)
    assert fit.labels.tolist() == np.array([2, 0, 1])[group].tolist()
    assert [group[medoid] for medoid in fit.medoids] == [1, 2, 0]
    means = [mean_intensity(histograms[medoid], BINS, (0, 16)) for medoid in fit.medoids]
    assert means == pytest.approx([3.5, 7.5, 12.5], abs=0.3)


@pytest.mark.parametrize("centres", [(4, 11), (1, 5, 9, 14), (0, 3, 6, 9, 12, 15)])
def test_auto_finds_the_planted_number(centres):
    histograms, _ = planted(*((centre, 12) for centre in centres))
    fit = fit_textures(histograms, BINS)
    assert len(fit.medoids) == len(centres) == max(fit.scores, key=fit.scores.get)
    assert sorted(fit.scores) == list(range(2, 9))
    assert fit.scores[len(centres)] == pytest.approx(fit.silhouettes.mean())


def test_the_medoid_is_the_member_nearest_to_all_others():
    histograms = np.concatenate([bumps(5, 15, seed=0, width=2), bumps(12, 9, seed=1)])
    fit = fit_textures(histograms, BINS, 2)
    features = np.cumsum(histograms, axis=1)
    for kind, medoid in enumerate(fit.medoids):
        members = np.flatnonzero(fit.labels == kind)
        sums = [sum(np.linalg.norm(features[i] - features[j]) for j in members) for i in members]
        assert medoid == members[np.argmin(sums)]
        expected = [np.linalg.norm(features[i] - features[medoid]) / BINS**0.5 for i in members]
        assert fit.distances[members] == pytest.approx(expected, abs=1e-9)
        assert fit.distances[medoid] == 0


def test_a_few_bins_apart_is_nearer_than_many():
    """Spikes in bins 2, 5, 12 and 14: bin by bin all are equally far, for the eye there are two groups."""
    histograms = np.eye(BINS)[[2, 12, 5, 14]]
    assert fit_textures(histograms, BINS, 2).labels.tolist() == [0, 1, 0, 1]
    features = cumulative_features(histograms, BINS)
    assert np.linalg.norm(features[0] - features[1]) == pytest.approx((10 / BINS) ** 0.5)


@pytest.mark.parametrize("types", [1, 3, "auto"])
def test_order_and_repetition_change_nothing(types):
    histograms = np.random.default_rng(3).dirichlet(
        np.ones(BINS), 60
    )  # no groups: the start of k-means decides
    fit = fit_textures(histograms, BINS, types, seed=4)
    again = fit_textures(histograms, BINS, types, seed=4)
    shuffle = np.random.default_rng(5).permutation(len(histograms))
    shuffled = fit_textures(histograms[shuffle], BINS, types, seed=4)
    assert shuffle[shuffled.medoids].tolist() == fit.medoids.tolist() == again.medoids.tolist()
    assert shuffled.labels.tolist() == fit.labels[shuffle].tolist()
    assert shuffled.scores == fit.scores == again.scores
    np.testing.assert_array_equal(shuffled.silhouettes, fit.silhouettes[shuffle])


def test_of_equal_lesions_the_first_is_the_medoid():
    histograms = np.eye(BINS)[[9, 3, 9, 3, 9]]
    assert fit_textures(histograms, BINS, 2).medoids.tolist() == [1, 0]


def test_every_lesion_its_own_type():
    fit = fit_textures(np.eye(BINS)[[9, 3, 12]], BINS, 3)
    assert fit.labels.tolist() == [1, 0, 2] and fit.medoids.tolist() == [1, 0, 2]
    assert np.isnan(fit.silhouettes).all()


# --- classes that a lesion lacks


def two_classes(count=8, with_second=(0, 3, 5, 9, 10, 14)) -> tuple[np.ndarray, np.ndarray]:
    """Two groups in the first class; of each, some lesions have the second."""
    histograms, group = planted((4, count), (11, count))
    second = np.zeros_like(histograms)
    second[list(with_second)] = bumps(7, len(with_second), seed=9)
    return np.concatenate([histograms, second], axis=1), group


def test_types_part_textures_and_not_presence_of_a_class():
    histograms, group = two_classes()
    fit = fit_textures(histograms, BINS, "auto")
    assert fit.labels.tolist() == group.tolist()


def test_a_lesion_with_all_classes_stands_for_its_type():
    histograms, _ = two_classes(with_second=(3, 14))
    fit = fit_textures(histograms, BINS, 2)
    assert fit.medoids.tolist() == [3, 14]
    histograms, _ = two_classes(with_second=(3,))
    textures = describe(
        fit_textures(histograms, BINS, 2), histograms, list("abcdefghijklmnop"), "x", 16, "minmax"
    )
    sums = [np.reshape(kind.histogram, (2, BINS)).sum(axis=1) for kind in textures.types]
    assert sums[0] == pytest.approx([1, 1], abs=1e-5)
    assert sums[1][0] == pytest.approx(1, abs=1e-5) and sums[1][1] == 0
    assert textures.types[1].mean_intensity == pytest.approx(11.5 / 16, abs=0.02)


def test_a_class_that_nobody_has_changes_nothing():
    histograms, _ = planted((12, 20), (3, 5))
    fit = fit_textures(histograms, BINS, 2)
    padded = fit_textures(np.pad(histograms, [(0, 0), (0, BINS)]), BINS, 2)
    assert padded.labels.tolist() == fit.labels.tolist() and padded.medoids.tolist() == fit.medoids.tolist()


# --- what is refused


@pytest.mark.parametrize(
    "types, message",
    [
        (5, "types=5 needs as many different lesions, got 4"),
        (0, "types=0 must be auto or a whole number of at least 1"),
        (2.0, "types=2.0 must be"),
        (True, "types=True must be"),
        ("three", "types=three must be"),
    ],
)
def test_bad_numbers_of_types_are_refused(types, message):
    with pytest.raises(ValueError, match=message):
        fit_textures(np.eye(BINS)[[1, 5, 9, 9, 12]], BINS, types)


def test_auto_needs_three_different_lesions():
    with pytest.raises(ValueError, match="at least 3 different lesions, got 2"):
        fit_textures(np.eye(BINS)[[1, 5, 5, 1]], BINS)


@pytest.mark.parametrize("bin_value", [-0.1, math.nan, math.inf, 0.5])
def test_bad_histograms_are_refused(bin_value):
    histograms = np.eye(BINS)[[1, 5, 9]]
    histograms[1, 0] = bin_value
    with pytest.raises(
        ValueError, match=f"histogram .{bin_value}, .* must hold finite numbers >= 0, of sum 1"
    ):
        fit_textures(histograms, BINS, 2)


@pytest.mark.parametrize("shape", [(0, 16), (3, 15), (3, 0), (16,)])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="must be lesions x .classes x 16 bins"):
        fit_textures(np.ones(shape) / 16, BINS, 2)


def test_a_lesion_without_any_class_is_refused():
    with pytest.raises(ValueError, match="of sum 1"):
        fit_textures(np.concatenate([np.eye(BINS)[[1, 5]], np.zeros((1, BINS))]), BINS, 2)


# --- intensities


def test_mean_intensity_by_hand():
    assert mean_intensity(np.eye(4)[3], 4, (-1000, 400)) == pytest.approx(400 - 175)
    both = np.concatenate([np.eye(4)[0], np.eye(4)[3]])
    assert mean_intensity(both, 4, (0, 1)) == pytest.approx(0.5)
    assert mean_intensity(np.concatenate([np.eye(4)[1], np.zeros(4)]), 4, (0, 8)) == pytest.approx(3)


def test_window_limits():
    assert window_limits([-1000, 400]) == (-1000, 400)
    assert window_limits("minmax") == window_limits({"percentiles": [1, 99]}) == (0, 1)


# --- the file


@pytest.fixture
def textures():
    histograms, group = planted((12, 6), (3, 3))
    names = [f"case {number}" for number in range(9)]
    return describe(fit_textures(histograms, BINS, 2), histograms, names, "lidc", BINS, (-1000, 400))


def test_what_is_described(textures):
    first, second = textures.types
    assert (first.name, first.lesions, first.medoid in ("case 6", "case 7", "case 8")) == ("type 1", 3, True)
    assert (second.name, second.lesions, second.share) == ("type 2", 6, pytest.approx(2 / 3, abs=1e-4))
    assert first.mean_intensity == pytest.approx(-1000 + 3.5 / 16 * 1400, abs=20)
    assert sum(first.histogram) == pytest.approx(1, abs=1e-5) and textures.classes == 1


def test_what_a_sampler_takes(textures):
    assert len(textures) == 2 and textures.names == ("type 1", "type 2")
    assert textures.shares == (pytest.approx(1 / 3, abs=1e-4), pytest.approx(2 / 3, abs=1e-4))
    for condition, kind in zip(textures.histograms, textures.types, strict=True):
        assert condition.dtype == torch.float32 and float(condition.sum()) == pytest.approx(1)
        assert condition.tolist() == pytest.approx(kind.histogram, abs=1e-5)


@pytest.mark.parametrize("window", [(-1000, 400), "minmax", {"percentiles": [1, 99.5]}])
def test_what_is_written_is_read(textures, tmp_path, window):
    textures = replace(textures, window=window)
    write_textures(tmp_path / "new" / "a.json", textures)
    assert read_textures(tmp_path / "new" / "a.json") == textures
    text = (tmp_path / "new" / "a.json").read_text()
    assert sum(line.count(",") >= 15 for line in text.splitlines()) == 2  # each histogram is one line
    assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "a.json"]


def test_the_keys_of_the_file(textures, tmp_path):
    write_textures(tmp_path / "a.json", textures)
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content) == [
        "data_type",
        "bins",
        "classes",
        "window",
        "silhouette",
        "reference_mean",
        "types",
    ]
    assert list(content["types"][0]) == ["name", "histogram", "share", "medoid", "lesions", "mean_intensity"]
    assert content["window"] == [-1000, 400] and list(content["silhouette"]) == list("2345678")


def change(content, keys, value):
    for key in keys[:-1]:
        content = content[key]
    if value is None:
        del content[keys[-1]]
    else:
        content[keys[-1]] = value


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (["types", 1, "histogram"], [1.0] * 15, "type 2: histogram has 15 values, not 1 classes x 16 bins"),
        (["types", 1, "histogram", 3], -0.25, "type 2: histogram .*-0.25"),
        (["types", 0, "histogram"], [0] * 16, "type 1: histogram .*of sum 1"),
        (["types", 0, "histogram", 0], 0.5, "type 1: histogram .0.5"),
        (["types", 0, "histogram", 0], math.nan, "type 1: histogram .nan.* must be a list of finite numbers"),
        (["types", 0, "histogram", 0], "1", "type 1: histogram .'1'.* must be a list of finite numbers"),
        (["types", 0, "histogram"], "1 2 3", "type 1: histogram '1 2 3' must be a list"),
        (["types", 0, "share"], 1.5, "type 1: share 1.5 must be at most 1"),
        (["types", 0, "share"], -0.5, "type 1: share -0.5"),
        (["types", 0, "lesions"], 0, "type 1: lesions 0 must be a whole number of at least 1"),
        (["types", 0, "lesions"], 2.5, "type 1: lesions 2.5 must be a whole number"),
        (["types", 0, "medoid"], "", "type 1: medoid '' must be a text"),
        (["types", 0, "mean_intensity"], "dark", "type 1: mean_intensity 'dark' must be a finite number"),
        (["types", 0, "mean_intensity"], None, "type 1: it must have the keys .*mean_intensity"),
        (["types", 0], 5, "type 1: it must have the keys .* found 5"),
        (["types"], [], r"types \[\] must be a list of at least one type"),
        (["types"], {"a": 1}, "types .* must be a list"),
        (["bins"], 8, "type 1: histogram has 16 values, not 1 classes x 8 bins"),
        (["bins"], 0, "bins 0 must be a whole number of at least 1"),
        (["classes"], True, "classes True must be a whole number"),
        (["window"], [400, -1000], r"window \[400, -1000\] must be"),
        (["window"], "percentile", "window 'percentile' must be"),
        (["window"], {"percentiles": 5}, "window .* must be"),
        (["data_type"], 7, "data_type 7 must be a text"),
        (["silhouette"], [0.5], r"silhouette \[0.5\] must"),
        (["silhouette", "2"], "good", "silhouette: 2 'good' must be a finite number"),
        (["silhouette", "two"], 0.5, "silhouette: .*'two'"),
        (["colour"], "red", "the file must have the keys .* found .*colour"),
        (["classes"], None, "the file must have the keys .*classes"),
    ],
)
def test_a_damaged_file_is_refused(textures, tmp_path, keys, value, message):
    path = tmp_path / "a.json"
    write_textures(path, textures)
    content = json.loads(path.read_text())
    change(content, keys, value)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"a.json: {message}") as raised:
        read_textures(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"name: lidc", b"\xff\xfe\x00", b"[1, 2]", b"7", b"null"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match="a.json: (is not JSON|the file must have the keys)"):
        read_textures(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="a.json: no such file"):
        read_textures(tmp_path / "a.json")


def test_nothing_half_written(textures, tmp_path, monkeypatch):
    write_textures(tmp_path / "a.json", textures)
    before = (tmp_path / "a.json").read_bytes()
    monkeypatch.setattr(
        "os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="cannot write .*a.json"):
        write_textures(tmp_path / "a.json", textures)
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == before


# --- the fitted types of the project


def test_the_bundled_types_are_sound(composed):
    from LeFusion.runtime.commandline import PROJECT_ROOT
    from LeFusion.settings import TrainSettings

    paths = sorted((PROJECT_ROOT / "configs" / "fitted_textures").glob("*.json"))
    assert paths
    for path in paths:
        textures = read_textures(path)
        settings = TrainSettings.of(composed("train", f"data_type={textures.data_type}"))
        assert (textures.classes, textures.bins) == (settings.classes, settings.histogram_bins)
        window = list(textures.window) if isinstance(textures.window, tuple) else textures.window
        assert window == settings.window
        means = [kind.mean_intensity for kind in textures.types]
        limits = window_limits(textures.window)
        assert means == sorted(means)
        assert means == pytest.approx(
            [mean_intensity(kind.histogram, textures.bins, limits) for kind in textures.types], abs=0.01
        )
        assert sum(kind.share for kind in textures.types) == pytest.approx(1, abs=1e-3)
        for kind in textures.types:  # each class, so that every case can be painted with every type
            sums = np.reshape(kind.histogram, (textures.classes, textures.bins)).sum(axis=1)
            assert sums == pytest.approx(1, abs=1e-3)
