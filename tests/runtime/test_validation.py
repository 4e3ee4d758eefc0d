"""Kinds of values, and how a wrong one is told."""

import pytest
from pydantic import ValidationError

from LeFusion.errors import UserError
from LeFusion.runtime.validation import (
    Count,
    Flag,
    NoPath,
    NotNegative,
    Path,
    Seed,
    Settings,
    Share,
    choice,
    either,
    numbers,
    text,
    whole,
)


class Inner(Settings):
    number: Count
    triple: numbers(3, "three numbers above 0", lambda values: min(values) > 0)


class Outer(Settings):
    inner: Inner
    size: either(Count, words=("auto",))
    path: Path
    other: NoPath
    share: Share
    weight: NotNegative
    seed: Seed
    kind: choice("a", "b")
    flag: Flag
    steps: either(whole(1, 9), words=(None,))


GOOD = {
    "inner": {"number": 1, "triple": [1, 2.5, 3]},
    "size": "auto",
    "path": "a/b",
    "other": None,
    "share": 1,
    "weight": 0.5,
    "seed": 0,
    "kind": "a",
    "flag": False,
    "steps": None,
}


def test_values_stay_what_they_are():
    settings = Outer.of(GOOD)
    assert settings.model_dump() == GOOD
    assert [type(v) for v in settings.inner.triple] == [int, float, int] and type(settings.share) is int
    with pytest.raises(ValidationError, match="frozen"):
        settings.seed = 1


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"size": True}, "size=true must be auto or a whole number of at least 1"),
        ({"size": "x"}, "size=x must be auto or a whole number of at least 1"),
        ({"path": ""}, "path= must be a path (./5 where it is a number)"),
        ({"path": None}, "path=null must be a path (./5 where it is a number)"),
        ({"path": "a\0"}, "path='a\\x00' must be a path (./5 where it is a number)"),
        ({"other": 5}, "other=5 must be null or a path (./5 where it is a number)"),
        ({"share": float("nan")}, "share=nan must be a number from 0 to 1"),
        ({"share": 1.01}, "share=1.01 must be a number from 0 to 1"),
        ({"weight": float("inf")}, "weight=inf must be a number of at least 0"),
        ({"weight": -1}, "weight=-1 must be a number of at least 0"),
        ({"weight": False}, "weight=false must be a number of at least 0"),
        ({"seed": 2**63}, f"seed={2**63} must be a whole number from 0 to {2**63 - 1}"),
        ({"seed": 1.0}, f"seed=1.0 must be a whole number from 0 to {2**63 - 1}"),
        ({"kind": "c"}, "kind=c must be one of a, b"),
        ({"flag": "maybe"}, "flag=maybe must be true or false"),
        ({"flag": 1}, "flag=1 must be true or false"),
        ({"steps": 10}, "steps=10 must be null or a whole number from 1 to 9"),
        ({"steps": False}, "steps=false must be null or a whole number from 1 to 9"),
        ({"inner": 5}, "inner=5 must be a group of keys"),
        ({"inner": None}, "inner=null must be a group of keys"),
        ({"inner": {"number": 1}}, "give a value for inner.triple"),
        ({"inner": {**GOOD["inner"], "x": 1}}, "inner.x: there is no such key; --help lists all"),
        ({"x": 1}, "x: there is no such key; --help lists all"),
        (
            {"inner": {"number": 0, "triple": [1, 2]}, "kind": {"a": [None, True]}},
            "inner.number=0 must be a whole number of at least 1; inner.triple=[1, 2] must be three numbers "
            "above 0; kind={a: [null, true]} must be one of a, b",
        ),
    ],
)
def test_wrong_values_are_told_in_one_line(changes, line):
    with pytest.raises(UserError) as refused:
        Outer.of(GOOD | changes)
    assert str(refused.value) == line


def test_a_group_of_its_own_is_told_by_its_whole_key():
    with pytest.raises(UserError, match=r"^trainer\.number=0 must be"):
        Inner.of(GOOD["inner"] | {"number": 0}, "trainer")


def test_long_values_are_cut():
    assert text([1, None, "a", {"b": False}]) == "[1, null, a, {b: false}]"
    assert len(text(10**3000)) == len(text("x" * 100)) == 80 and text("x" * 80) == "x" * 80
