"""benchmarks/settings_sheet.py: a column for each setting, the same regions in each."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from LeFusion.errors import UserError

spec = importlib.util.spec_from_file_location(
    "settings_sheet", Path(__file__).parents[2] / "benchmarks" / "settings_sheet.py"
)
settings_sheet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settings_sheet)


class Stub:
    """Paints the number that its setting is."""

    @classmethod
    def load(cls, _, **settings):
        stub = cls()
        stub.value = settings["texture_score"]
        return stub

    def paint(self, image, mask, texture):
        return np.where(mask == 1, self.value, image)


def test_each_setting_has_a_column_of_the_same_regions(lidc, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(settings_sheet, "Painter", Stub)
    monkeypatch.setattr(settings_sheet, "save_contact_sheet", lambda *args: drawn.append(args))
    words = [str(lidc / "Normal"), str(tmp_path / "a.png"), "texture_score=1", "texture_score=5,region=whole"]
    settings_sheet.run(settings_sheet.parser().parse_args([*words, "--rows", "2"]))
    ((path, rows, outlines, titles, names, _),) = drawn
    assert path == tmp_path / "a.png" and titles == ["mask", "texture_score=1", "texture_score=5"]
    assert len(rows) == len(names) == len(set(names)) == 2
    for images, masks in zip(rows, outlines, strict=True):
        source, one, five = images
        lesion = masks[0]
        assert lesion.any() and masks[1:] == [None, None]
        assert (one[lesion] == 1).all() and (five[lesion] == 5).all()
        assert np.array_equal(one[~lesion], source[~lesion])


def test_settings_have_values_of_yaml():
    assert settings_sheet.settings_of("a=5,b=x,c=null") == {"a": 5, "b": "x", "c": None}
    with pytest.raises(UserError, match="key=value"):
        settings_sheet.settings_of("a=5,b")
