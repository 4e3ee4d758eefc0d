"""Pictures of judged cases: the right slice, the right order, and one column for each class and method."""

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from evaluation_pipeline.judging import figures as comparison_figures
from evaluation_pipeline.judging.figures import PicturedCase, save_box_plot, save_cases_sheet, worst_first


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", content[16:24])


def write(path: Path, array: np.ndarray, spacing=(1, 1, 1)) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def sheet(monkeypatch):
    """What save_contact_sheet is called with, by the names of its parameters."""
    drawn = {}

    def record(path, rows, outlines, column_titles, row_titles, window):
        drawn.update(rows=rows, outlines=outlines, columns=column_titles, titles=row_titles, window=window)

    monkeypatch.setattr(comparison_figures, "save_contact_sheet", record)
    return drawn


def pictured(folder: Path, shape, spacing, where, several=False) -> PicturedCase:
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    label, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    label[where] = 3
    prediction[where] = 4
    files = [(image, "image"), (label, "label"), (prediction, "prediction")]
    image, label, prediction = (write(folder / f"{name}.nii.gz", array, spacing) for array, name in files)
    return PicturedCase("case", image, label, (prediction, label) if several else (prediction,))


@pytest.mark.parametrize(
    "shape, spacing, where, expected",
    [
        ((4, 8, 9), (1, 1, 1), (2, slice(3, 5), slice(3, 6)), (8, 9)),  # depth first, as it is
        ((8, 9, 4), (1, 1, 10), (slice(3, 5), slice(3, 6), 2), (9, 8)),  # depth last, upright
        ((8, 4, 9), (1, 1, 5), (slice(3, 5), slice(1, 3), 7), (4, 8)),  # thick slices beat the short axis
    ],
)
def test_the_slice_with_the_lesion_is_shown(tmp_path, sheet, shape, spacing, where, expected):
    save_cases_sheet(
        tmp_path / "s.png",
        [pictured(tmp_path, shape, spacing, where)],
        {"infarct": [3], "no-reflow": [4]},
        ["UNet"],
    )
    assert sheet["columns"] == [
        "image",
        "real, infarct",
        "UNet, infarct",
        "real, no-reflow",
        "UNet, no-reflow",
    ]
    (images,), (masks,) = sheet["rows"], sheet["outlines"]
    assert all(image.shape == expected for image in images) and masks[0] is None
    size = np.zeros(shape, bool)
    size[where] = True
    assert [int(mask.sum()) for mask in masks[1:]] == [size.sum(), 0, 0, size.sum()]
    assert -0.01 <= images[0].min() and images[0].max() <= 1.01 and sheet["window"] == (0, 1)


def test_several_methods_and_a_case_without_lesion(tmp_path, sheet):
    case = pictured(tmp_path, (5, 8, 8), (1, 1, 1), (slice(0, 0),), several=True)
    save_cases_sheet(tmp_path / "s.png", [case], {"lesion": [3, 4]}, ["P", "Q"])
    assert sheet["columns"] == ["image", "real", "P", "Q"]
    volume = np.arange(5 * 64, dtype=np.float32).reshape(5, 8, 8)
    middle = sheet["rows"][0][0] * np.subtract(*np.percentile(volume, (99.5, 0.5)))
    assert middle[0, 0] + np.percentile(volume, 0.5) == pytest.approx(volume[2, 0, 0])


def test_a_sheet_is_written(tmp_path):
    case = pictured(tmp_path, (5, 20, 20), (1, 1, 1), (2, slice(3, 9), slice(4, 9)))
    save_cases_sheet(tmp_path / "s.png", [case, case], {"lesion": [3, 4]}, ["UNet"])
    width, height = png_size(tmp_path / "s.png")
    assert width > 500 and height > 350


def test_worst_come_first():
    rows = [{"Case": c, "Dice": d, "HD95 mm": h} for c, d, h in (("a", 0.9, 1), ("b", 0.1, 9), ("c", 0.5, 3))]
    assert [row["Case"] for row in worst_first(rows, "Dice")] == ["b", "c", "a"]
    assert [row["Case"] for row in worst_first(rows, "HD95 mm")] == ["b", "c", "a"]
    rows[1]["Dice"] = float("nan")
    assert [row["Case"] for row in worst_first(rows, "Dice")] == ["c", "a", "b"]


def test_box_plot_grows_with_the_experiments(tmp_path):
    rng = np.random.default_rng(0)
    few = {name: rng.uniform(size=20) for name in ("P", "P+N'")}
    many = {f"E{i}": [*rng.uniform(size=5), np.nan] for i in range(8)} | {"nothing": [np.nan]}
    save_box_plot(tmp_path / "few.png", few, "Dice", "P")
    save_box_plot(tmp_path / "many.png", many, "HD95 mm", None)
    save_box_plot(tmp_path / "nothing.png", many, "HD95 mm", "nothing")
    assert png_size(tmp_path / "many.png")[0] > 1.5 * png_size(tmp_path / "few.png")[0]
    assert (tmp_path / "nothing.png").exists()
