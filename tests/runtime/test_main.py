"""The command `lefusion`."""

import sys

import pytest

from LeFusion.runtime import main as command
from LeFusion.runtime.commandline import PROJECT_ROOT


def test_every_command_is_a_script():
    for script in command.COMMANDS.values():
        assert 'if __name__ == "__main__"' in (PROJECT_ROOT / script).read_text()


def test_the_script_gets_the_arguments(monkeypatch):
    started = []
    monkeypatch.setattr(
        command.runpy, "run_path", lambda *args, **names: started.append((args, names, sys.argv))
    )
    monkeypatch.setattr(sys, "argv", ["lefusion", "inference", "data_type=lidc", "seed=1"])
    command.main()
    script = str(PROJECT_ROOT / "LeFusion" / "inference" / "inference.py")
    assert started == [((script,), {"run_name": "__main__"}, [script, "data_type=lidc", "seed=1"])]


@pytest.mark.parametrize("arguments, code", [([], 2), (["paint"], 2), (["--help"], 0)])
def test_anything_else_lists_the_commands(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(sys, "argv", ["lefusion", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    assert stop.value.code == code and "diffmask-inference" in capsys.readouterr().out
