"""Files of texture types: read as they were written, and checked."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted_textures import BINS, planted

from LeFusion.textures.fitted import read_textures, window_limits, write_textures
from LeFusion.textures.fitting import describe, fit_textures
from LeFusion.textures.histograms import mean_intensity


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
