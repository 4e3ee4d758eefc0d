"""The HTML file: complete, offline, no larger than it may be; shown in a browser where there is one."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from LeFusion.errors import UserError
from LeFusion.viewer.page import write_page
from LeFusion.viewer.scenes import Version

EVIL = "</script><script>document.title='taken'</script><!--SCRIPT-->"


def test_it_holds_everything_and_asks_for_nothing(scan, tmp_path):
    page = write_page(tmp_path / "viewer.html", [lambda: scan], "a run")
    text = page.path.read_text()
    assert page.size == page.path.stat().st_size < 1_300_000 and str(page).endswith("(1.1 MB)")
    assert re.findall(r"<!--[A-Z]+-->", text) == []
    assert not re.search(r"(src|href)\s*=", text) and "default-src 'none'" in text
    assert "Copyright (c) 2021, Niivue" in text
    (scene,) = json.loads(re.search(r'id="scenes">(.*?)</script>', text, re.S)[1])
    assert scene["name"] == "scan one"


def test_names_cannot_end_the_script(scan, tmp_path):
    scan = replace(scan, name=EVIL, versions=[replace(scan.versions[0], title=EVIL)])
    text = write_page(tmp_path / "viewer.html", [lambda: scan], EVIL).path.read_text()
    assert text.count("</script>") == 3 and "taken'</script>" not in text
    (scene,) = json.loads(re.search(r'id="scenes">(.*?)</script>', text, re.S)[1])
    assert scene["name"] == scene["versions"][0]["title"] == EVIL


def test_what_does_not_fit_is_left_out_and_said(scan, tmp_path):
    def fail():
        raise AssertionError("read although the page is full")

    one = write_page(tmp_path / "one.html", [lambda: scan], "run").size
    page = write_page(tmp_path / "page.html", [lambda: scan, lambda: scan, fail], "run", one + 1000)
    assert page.left_out == 2 and page.size <= one + 1000
    assert "2 scans are left out" in page.path.read_text() and "2 scans left out" in str(page)
    with pytest.raises(UserError, match="no picture fits"):
        write_page(tmp_path / "none.html", [lambda: scan], "run", one - 5000)
    assert not (tmp_path / "none.html").exists()


@pytest.fixture
def opened(browser, scan, tmp_path):
    """-> the page in a browser, and what it asked the network for."""
    other = replace(
        scan,
        name=EVIL,
        image=scan.image[:, ::-1],
        versions=[Version("masks", scan.versions[0].labels)],
        unit="",
        oriented=False,
    )
    path = write_page(tmp_path / "viewer.html", [lambda: scan, lambda: other], "a run").path
    page, asked, errors = browser.new_page(viewport={"width": 900, "height": 600}), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-state=ready]", timeout=60_000)
    yield page, asked
    assert errors == [] and page.title() == "a run"
    page.close()


def pixels(page) -> np.ndarray:
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return np.asarray(Image.open(io.BytesIO(page.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def jump(page, number: int) -> str:
    page.locator("nav button").nth(number).click()
    page.locator("nav button").nth(number).and_(page.locator("[aria-current=true]")).wait_for()
    page.wait_for_selector("body[data-state=ready]")
    return page.text_content("#status")


def test_the_volume_is_shown(opened):
    page, asked = opened
    shown = pixels(page)
    assert shown.std() > 20 and len(np.unique(shown)) > 50
    assert len(asked) == 1 and asked[0].startswith("file://")


def test_jumping_shows_the_voxel_of_the_lesion(opened, scan):
    page, _ = opened
    statuses = [jump(page, number) for number in (1, 0)]
    assert "scan one, type 1: slice " in statuses[0] and statuses[0] != statuses[1]
    for status in statuses:
        slice_, row, column = map(int, re.search(r"slice (\d+), row (\d+), column (\d+)", status).groups())
        x, y, z = map(float, re.search(r"\((\S+), (\S+), (\S+) mm RAS\)", status).groups())
        index = np.linalg.inv(scan.affine) @ [x, y, z, 1]
        place = tuple(np.rint(index[:3]).astype(int))
        assert place == (slice_, row, column)
        assert f": {scan.versions[0].image[place]} HU, label 1" in status


def test_before_and_after_differ_where_the_lesion_is(opened, scan):
    page, _ = opened
    jump(page, 0)
    page.fill("#opacity", "0")
    after = pixels(page)
    page.keyboard.press("Escape")
    page.locator("#status").click()
    page.keyboard.press("Space")
    before = pixels(page)
    changed = np.abs(after - before).max(axis=2) > 8
    assert 0.005 < changed.mean() < 0.4
    page.keyboard.press("Space")
    np.testing.assert_array_equal(pixels(page), after)


def test_windows_masks_and_scans_without_painting(opened):
    page, _ = opened
    lung = pixels(page)
    page.select_option("#window", "1")
    assert np.abs(pixels(page) - lung).mean() > 5
    jump(page, 2)
    assert page.locator("#blending").is_hidden() and "masks: slice" in page.text_content("#status")
    assert page.locator("#window option").count() == 3
    page.fill("#opacity", "0")
    grey = pixels(page)
    page.fill("#opacity", "1")
    coloured = pixels(page)
    orange = (coloured[..., 0] > 200) & (coloured[..., 2] < 60)
    assert orange.mean() > 0.002 and orange.sum() > 3 * ((grey[..., 0] > 200) & (grey[..., 2] < 60)).sum()
