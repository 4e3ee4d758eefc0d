"""The documents: links lead somewhere, the site builds, the examples of CONTRIBUTING.md do what they say."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import LeFusion
from LeFusion.diffusion import AddressedNoise, NoiseSchedule, samplers, walk_levels

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for folder in (".", "docs", "data", "slicer", "LeFusion", "DiffMask")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
    if not path.is_relative_to(ROOT / "LeFusion" / "demo_data")
)
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?)\s*$", text_of(page), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_within_the_project_lead_somewhere(page):
    for target in LINK.findall(text_of(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists() and there.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(there), f"{page.name}: {target}"


def test_the_site_builds_without_warnings(tmp_path):
    """mkdocstrings warns of docstrings that name what a function does not have."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0 and not built.stderr, built.stderr
    page = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    for name in LeFusion.__all__:
        assert f'id="LeFusion.{name}"' in page, f"docs/reference.md lacks {name}"


def test_every_page_is_in_the_navigation_and_in_the_index():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    listed = re.findall(r"^ +- (?:Overview: )?(\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(listed) == sorted(pages)
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    assert pages - linked == {"index.md"}


def test_every_folder_and_module_has_its_place_in_the_house():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    house = text.partition("## The house")[2].partition("## Who may")[0]
    folders = (path.parent for path in ROOT.glob("LeFusion/*/__init__.py"))
    named = {
        *(f"LeFusion/{path.name}" for path in folders),
        *(path.name for path in ROOT.glob("LeFusion/*.py")),
    }
    assert not {name for name in named if f"{name}`" not in house} - {"__init__.py"}


def test_the_sampler_of_the_contributing_guide_is_ddim_in_other_words():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def euler.*?)```", text, flags=re.S)
    names = dict(vars(samplers))
    exec(code, names)  # ours, and the test of what the guide says
    schedule = NoiseSchedule.cosine(300)
    known = torch.rand(1, 1, 4, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lesions = torch.zeros(1, 1, 4, 6, 6, dtype=torch.bool)
    lesions[..., 1:3, 2:5, 2:5] = True
    walk = walk_levels(300, 6, 2, 2)

    def denoise(x, t):
        return 0.8 * x + 0.1

    found, expected = (
        sample(denoise, known, lesions, AddressedNoise([(1,)]), schedule, walk)
        for sample in (names["euler"], samplers.ddim)
    )
    assert torch.allclose(found[lesions], expected[lesions], atol=1e-4)


def test_the_loss_of_the_contributing_guide():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def gradient_loss.*?)```", text, flags=re.S)
    names = {"Tensor": torch.Tensor}
    exec(code, names)
    image = torch.arange(6.0).reshape(1, 1, 1, 1, 6)
    lesions = torch.ones(1, 1, 1, 1, 6, dtype=torch.bool)
    assert names["gradient_loss"](image, image, lesions).tolist() == [0]
    assert names["gradient_loss"](3 * image, image, lesions).tolist() == [2]
