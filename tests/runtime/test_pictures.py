"""Pictures are PNG files of the size that their contents ask for, and show what they are given."""

import struct

import numpy as np
import pytest
from matplotlib.image import imread

from LeFusion.runtime.pictures import lesion_slice, save_contact_sheet, save_loss_curve

GREY = np.linspace(-1000, 400, 64 * 64).reshape(64, 64)
WINDOW = (-1000, 400)
BLOCK = np.zeros((64, 64), bool)
BLOCK[20:40, 10:30] = True


def png_size(path) -> tuple[int, int]:
    """(width, height) from the file's header."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n" and content[12:16] == b"IHDR" and content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])


def sheet(path, rows, outlines=None, titles=("a", "b", "c")):
    outlines = outlines or [[None] * len(titles)] * len(rows)
    save_contact_sheet(path, rows, outlines, titles, [f"case {i}" for i in range(len(rows))], WINDOW)
    return path


def coloured_pixels(path) -> int:
    """Pixels of the outline's orange; everything else on a sheet is grey."""
    pixels = imread(path)[..., :3]
    return int((pixels.max(axis=-1) - pixels.min(axis=-1) > 0.3).sum())


def test_lesion_slice_is_the_largest():
    lesions = np.zeros((5, 8, 8), bool)
    lesions[1, 2, 2:7] = lesions[3, 1:4, 1:4] = lesions[4, 0, :8] = True
    assert lesion_slice(lesions) == 3
    assert isinstance(lesion_slice(lesions), int)


def test_contact_sheet_grows_with_its_rows_and_columns(tmp_path):
    small = png_size(sheet(tmp_path / "small.png", [[GREY] * 3] * 2))
    wide = png_size(sheet(tmp_path / "wide.png", [[GREY] * 6] * 2, titles=list("abcdef")))
    tall = png_size(sheet(tmp_path / "tall.png", [[GREY] * 3] * 4))
    single = png_size(sheet(tmp_path / "single.png", [[GREY]], titles=["a"]))
    assert wide == (2 * small[0], small[1])
    assert tall[0] == small[0] and 1.7 * small[1] < tall[1] < 2 * small[1]
    assert 400 < small[0] < 1200 and 300 < small[1] < 1200 and 100 < single[0] < 400
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "single.png",
        "small.png",
        "tall.png",
        "wide.png",
    ]


def test_contact_sheet_shows_intensities_in_their_window(tmp_path):
    def middle(value):
        path = sheet(tmp_path / "one.png", [[np.full((64, 64), value)]], titles=[""])
        pixels = imread(path)[..., :3]
        return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist()

    assert middle(-1000) == [0, 0, 0] and middle(400) == [1, 1, 1] and middle(9000) == [1, 1, 1]
    assert middle(-300) == pytest.approx([0.5] * 3, abs=0.01)


def test_contact_sheet_outlines_masks(tmp_path):
    empty, full = np.zeros_like(BLOCK), np.ones_like(BLOCK)
    rows = [[GREY] * 3]
    assert coloured_pixels(sheet(tmp_path / "none.png", rows)) == 0
    assert coloured_pixels(sheet(tmp_path / "nothing_to_draw.png", rows, [[empty, full, None]])) == 0
    one = coloured_pixels(sheet(tmp_path / "one.png", rows, [[BLOCK, None, None]]))
    assert one > 50
    three = coloured_pixels(sheet(tmp_path / "three.png", rows, [[BLOCK] * 3]))
    assert three == pytest.approx(3 * one, rel=0.2)


def test_contact_sheet_with_captions_has_room_for_them(tmp_path):
    rows, nothing = [[GREY] * 3] * 2, [[None] * 3] * 2
    plain = imread(sheet(tmp_path / "plain.png", rows))
    path, titles, names = tmp_path / "captions.png", list("abc"), ["case 0", "case 1"]
    save_contact_sheet(path, rows, nothing, titles, names, WINDOW, [["", "solid", ""]] * 2)
    captioned = imread(path)
    assert captioned.shape[0] > plain.shape[0] and captioned.shape[1] == plain.shape[1]
    with pytest.raises(ValueError):
        save_contact_sheet(path, rows, nothing, titles, names, WINDOW, [["solid"]] * 2)


@pytest.mark.parametrize(
    "outlines", [[[None] * 3], [[None] * 2] * 2], ids=["a row too few", "a column too few"]
)
def test_contact_sheet_refuses_pictures_without_their_masks(tmp_path, outlines):
    with pytest.raises(ValueError):
        sheet(tmp_path / "bad.png", [[GREY] * 3] * 2, outlines)
    assert not (tmp_path / "bad.png").exists()


@pytest.mark.parametrize("steps", [1, 2, 500])
def test_loss_curve(tmp_path, steps):
    loss_csv = tmp_path / "loss.csv"
    rows = [f"{step},{1 / step:.6g},0.0001,{step}.0" for step in range(1, steps + 1)]
    loss_csv.write_text("step,loss,learning_rate,seconds\n" + "\n".join(rows) + "\n")
    save_loss_curve(loss_csv, tmp_path / "loss.png")
    assert png_size(tmp_path / "loss.png") == (660, 385)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.csv", "loss.png"]
    drawn = imread(tmp_path / "loss.png")[..., :3]
    curve = np.argwhere(drawn.max(axis=-1) - drawn.min(axis=-1) > 0.3)  # the only thing in colour
    if steps == 500:  # from top left to bottom right
        left, right = curve[curve[:, 1].argmin()], curve[curve[:, 1].argmax()]
        assert right[1] - left[1] > 400 and right[0] - left[0] > 200
