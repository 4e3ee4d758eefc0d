"""Plans of runs of DiffMask on two small scans."""

import pytest
from planned import ONE_MM, SIZE, lung_hu, save

from DiffMask.inference.infarcts import SectorDrafts
from DiffMask.inference.nodules import SphereDrafts
from DiffMask.inference.plan import find_scans
from DiffMask.settings import MaskInferenceSettings
from LeFusion.dataset.cases import Layout

LIDC = Layout()


@pytest.fixture
def scans(tmp_path):
    """A folder with two scans, B below a folder of its own."""
    for name in ("A", "sub/B"):
        save(tmp_path / "scans" / f"{name}.nii.gz", lung_hu())
    return tmp_path / "scans"


@pytest.fixture
def settings(composed):
    """-> settings(root, layout, **changes): what the command is told."""
    config = composed("diffmask_inference")

    def changed(root, layout=LIDC, **changes):
        assert set(changes) <= set(config)
        return MaskInferenceSettings.of(config | {"dataset_root_dir": str(root), "layout": layout} | changes)

    return changed


@pytest.fixture
def plan(settings):
    """-> plan(root, layout, size, **changes): all drafts of all scans below it."""

    def drafts(root, layout=LIDC, size=SIZE, **changes):
        given = settings(root, layout, **{key: _plain(value) for key, value in changes.items()})
        found = find_scans(given)
        drafts_of = (
            SectorDrafts.of(given) if given.layout.hearts else SphereDrafts(given, found, size, ONE_MM)
        )
        return [draft for scan in found for draft in drafts_of(scan)]

    return drafts


def _plain(value):
    """As YAML gives it."""
    return str(value) if hasattr(value, "parts") else list(value) if isinstance(value, tuple) else value
