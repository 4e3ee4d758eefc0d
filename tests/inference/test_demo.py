"""The demo paints with the bundled weights, by the same settings as demo.sh."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from LeFusion.inference import demo
from LeFusion.runtime.commandline import PROJECT_ROOT
from LeFusion.settings import InferenceSettings


@pytest.mark.parametrize("name", demo.DEMOS)
def test_what_a_demo_reads_is_there(composed, name):
    settings = InferenceSettings.of(composed("inference", f"data_type={name}", f"+demo={name}"))
    for path in (settings.model_path, settings.dataset_root_dir, settings.lesions_from):
        assert path is None or Path(path).exists()
    assert (PROJECT_ROOT / "outputs" / "demo") in Path(settings.target_img_path).parents
    assert f'"$here/{name}_inference.sh" +demo={name} "$@"' in (PROJECT_ROOT / "demo.sh").read_text()


@pytest.mark.parametrize("codes, ended", [([0, 0], None), ([1], 1)])
def test_both_are_painted_unless_the_first_fails(monkeypatch, codes, ended):
    started = []

    def run(command):
        started.append(command)
        return SimpleNamespace(returncode=codes[len(started) - 1])

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["demo.py", "types=1"])
    if ended is None:
        demo.main()
    else:
        with pytest.raises(SystemExit) as stop:
            demo.main()
        assert stop.value.code == ended
    assert [command[2:] for command in started] == [
        [f"data_type={name}", f"+demo={name}", "types=1"] for name in demo.DEMOS[: len(codes)]
    ]
