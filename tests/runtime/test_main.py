"""The command `lefusion`."""

import os
import subprocess
import sys

import pytest

from LeFusion.runtime import main as command
from LeFusion.runtime.commandline import PROJECT_ROOT


def test_every_command_is_a_script():
    for script, purpose in command.COMMANDS.values():
        assert 'if __name__ == "__main__"' in (PROJECT_ROOT / script).read_text()
        assert purpose


def test_the_script_gets_the_arguments(monkeypatch):
    started = []
    monkeypatch.setattr(
        command.runpy, "run_path", lambda *args, **names: started.append((args, names, sys.argv))
    )
    monkeypatch.setattr(sys, "argv", ["lefusion", "paint", "data_type=lidc", "seed=1"])
    command.main()
    script = str(PROJECT_ROOT / "LeFusion" / "inference" / "inference.py")
    assert started == [((script,), {"run_name": "__main__"}, [script, "data_type=lidc", "seed=1"])]


@pytest.mark.parametrize("arguments, code", [([], 2), (["--help"], 0), (["-h"], 0)])
def test_help_lists_the_commands(monkeypatch, capsys, arguments, code):
    monkeypatch.setattr(sys, "argv", ["lefusion", *arguments])
    with pytest.raises(SystemExit) as stop:
        command.main()
    shown = capsys.readouterr().out
    assert stop.value.code == code and all(name in shown for name in command.COMMANDS)


def test_an_unknown_command_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lefusion", "pant"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("error: lefusion has no command 'pant'")
    assert "masks" in said


def test_help_imports_nothing_but_the_standard_library():
    program = (
        "import sys\nsys.argv = ['lefusion', '--help']\nbefore = set(sys.modules)\n"
        "from LeFusion.runtime.main import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "['LeFusion']", run.stderr


@pytest.mark.parametrize("given, threads", [(None, "2000"), ("7", "7")])
def test_threads_do_not_spin_for_long_unless_told_so(monkeypatch, given, threads):
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")  # restored afterwards, whatever main sets
    if given is None:
        monkeypatch.delenv("GOMP_SPINCOUNT")
    seen = []
    monkeypatch.setattr(command.runpy, "run_path", lambda *_, **__: seen.append(os.getenv("GOMP_SPINCOUNT")))
    monkeypatch.setattr(sys, "argv", ["lefusion", "version"])
    command.main()
    assert seen == [threads]
