"""A scan with two painted lesions, and a browser where there is one."""

import os
import shutil

import numpy as np
import pytest

from LeFusion.viewer.scenes import Scan, Version

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE = ("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture
def scan() -> Scan:
    """Whose voxels all differ from their neighbours, so that a shift shows."""
    image = np.random.default_rng(0).integers(-1000, 400, (12, 20, 24)).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[3:6, 4:9, 5:9] = 1
    labels[8:10, 12:15, 16:21] = 1
    painted = np.where(labels > 0, image + 500, image)
    affine = np.array([[0, 0, -0.7, 30], [0, -0.8, 0, 40], [2.0, 0, 0, -50], [0, 0, 0, 1]])
    return Scan("scan one", image, [Version("type 1", labels, painted)], affine, True, "HU")


@pytest.fixture(scope="module")
def browser():
    """Chromium without a network and with WebGL in software."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium (Debian: apt-get install chromium; or CHROMIUM=its path)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="pip install playwright, to drive Chromium"
    )
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=SOFTWARE)
        yield opened
        opened.close()
