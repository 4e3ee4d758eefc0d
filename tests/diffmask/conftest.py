"""What several tests of mask making start from."""

import pytest

from LeFusion.runtime.commandline import PROJECT_ROOT, plain, run_command

DEMO = PROJECT_ROOT / "data" / "demo" / "EMIDEC" / "Normal"
HEART = "Case_DEMO-N03"


@pytest.fixture
def infarcts(tmp_path, command, monkeypatch):
    """-> infarcts(*overrides): two for one heart, without pictures; (exit code, stdout, stderr)."""
    import DiffMask.inference.inference as inference

    for name in ("save_preview", "save_surface_sheet"):
        monkeypatch.setattr(inference, name, lambda path, *_: path)
    for folder in ("images", "labels"):
        (tmp_path / "hearts" / folder).mkdir(parents=True)
        (path,) = (DEMO / folder).glob(f"{HEART}*")
        (tmp_path / "hearts" / folder / path.name).write_bytes(path.read_bytes())
    given = {"data_type": "emidec", "dataset_root_dir": tmp_path / "hearts", "output_dir": tmp_path / "out"}
    given |= {"device": "cpu", "masks_per_scan": 2}

    def call(*overrides):
        return command(
            lambda config: run_command(lambda: inference.run(*inference.read(plain(config)))),
            "diffmask_inference",
            *(f"{key}={value}" for key, value in given.items()),
            *overrides,
        )

    return call
