"""One HTML file with scans, painted lesions and their masks in it; a browser shows it without a server."""

import base64
import gzip
import html
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError
from LeFusion.viewer.scenes import Scan, scenes

HERE = Path(__file__).parent
MOST_BYTES = 15_000_000


@dataclass(frozen=True)
class Page:
    """A page that was written. left_out: scans of which it lacks pictures."""

    path: Path
    size: int
    left_out: int

    def __str__(self) -> str:
        missing = f"; {self.left_out} scans left out, wholly or in part" if self.left_out else ""
        return f"{self.path} ({self.size / 1e6:.1f} MB{missing})"


def write_page(
    path: Path, scans: Sequence[Callable[[], Scan]], title: str, most_bytes: int = MOST_BYTES
) -> Page:
    """Writes a page with as many of the scans as `most_bytes` hold; the page says how many it lacks.

    scans: functions that read them, which are called one after the other, until the page is full. Raises
    UserError where not even one picture fits.
    """
    room = most_bytes - len(_filled(title, _note(len(scans), most_bytes), "").encode())
    texts, left_out = [], 0
    for number, text in ((n, _json(scene)) for n, read in enumerate(scans) for scene in scenes(read())):
        room -= len(text) + 1
        if room < 0:
            left_out = len(scans) - number
            break
        texts.append(text)
    if not texts:
        raise UserError(f"{path}: no picture fits into {most_bytes / 1e6:g} MB; allow more")
    content = _filled(title, _note(left_out, most_bytes) if left_out else "", ",".join(texts)).encode()
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
    return Page(path, len(content), left_out)


def _note(left_out: int, most_bytes: int) -> str:
    return f"{left_out} scans are left out, wholly or in part: a page holds {most_bytes / 1e6:g} MB."


def _filled(title: str, note: str, scene_texts: str) -> str:
    page = (HERE / "page.html").read_text()
    parts = {
        "STYLE": (HERE / "page.css").read_text(),
        "NIIVUE": _niivue(),
        "SCRIPT": (HERE / "page.js").read_text(),
        "LICENCES": html.escape((HERE / "niivue" / "LICENSES.txt").read_text()),
        "TITLE": html.escape(title),
        "NOTE": html.escape(note),
        "SCENES": f"[{scene_texts}]",
    }
    for name, text in parts.items():
        page = page.replace(f"<!--{name}-->", text)
    return page


@cache
def _niivue() -> str:
    return base64.b64encode(
        gzip.compress((HERE / "niivue" / "niivue.umd.js").read_bytes(), 9, mtime=0)
    ).decode()


def _json(scene: dict) -> str:
    """Within <script>, where only "<" could end it early; ASCII, so that characters are bytes."""
    return json.dumps(scene, separators=(",", ":")).replace("<", "\\u003c")
