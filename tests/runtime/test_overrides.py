"""A path of any name arrives as it is; what Hydra reads itself is left to it."""

import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from LeFusion.errors import UserError
from LeFusion.runtime.overrides import any_path, quoted, with_keys

PATHS = [
    "/data/run=3",
    "/data/a=b=c",
    "/data/Übung/größe",
    "/data/肺/影像",
    "/data/[old]",
    "/data/new (1)",
    "/data/{a}",
    "/data/a,b",
    "/data/it's",
    '/data/"quoted"',
    "/data/both'and\"",
    "/data/#1",
    "/data/100%",
    "/data/a b",
    "/data/a&b;c!d?e*f|g<h>",
    "/data/back\\slash's\\",
    "[old]/data",
    "a=b",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_arrives_as_it_is(path):
    (argument,) = quoted([f"dataset_root_dir={path}"])
    assert OverridesParser.create().parse_override(argument).value() == path


@pytest.mark.parametrize(
    "argument",
    ["types=3", "window=[-100,250]", "window={percentiles: [1, 99]}", "a='b=c'", "~key", "+key=1", "key=null"]
    + ["layout.other_labels=[257]", "experiment=lidc_small", "--help", "--config-dir=x=y", "key=", "a=/b/c"],
)
def test_what_can_be_read_stays(argument):
    assert quoted([argument]) == [argument]


@pytest.mark.parametrize("flag", ["--config-dir", "-cd", "--cfg", "-c"])
def test_the_value_of_a_flag_is_the_flag_s(flag):
    assert quoted([flag, "my configs/[1]", "seed=1,2"]) == [flag, "my configs/[1]", "seed='1,2'"]


def test_commas_separate_in_a_sweep_only():
    assert quoted(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]
    assert quoted(["seed=1,2"]) == ["seed='1,2'"]


@pytest.mark.parametrize("argument", ["key with blank=3", "word"])
def test_what_is_no_key_and_value_is_refused(argument, monkeypatch, capsys):
    with pytest.raises(UserError, match=f"cannot read the argument {argument}; .* quotes"):
        quoted([argument])
    monkeypatch.setattr(sys, "argv", ["command", argument])
    with pytest.raises(SystemExit):
        any_path(lambda: None)()
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "given, read",
    [
        (["in", "out", "seed=1"], ["input=in", "output=out", "seed=1"]),
        (["input=in", "output=out"], ["input=in", "output=out"]),
        (["in", "output=out", "seed=1"], ["input=in", "output=out", "seed=1"]),
        (["a b/c=d", "e,f"], ["input=a b/c=d", "output=e,f"]),
        (["--help"], ["--help"]),
        (["in", "out", "more"], ["input=in", "output=out", "more"]),
        ([], []),
    ],
)
def test_the_first_arguments_may_be_without_a_key(given, read):
    assert with_keys(given, ("input", "output")) == read
