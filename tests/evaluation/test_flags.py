"""Every flag that takes numbers refuses what is none, in one line that names it."""

import pytest

from evaluation_pipeline import (
    compare,
    evaluate_synthesis,
    held_out_sources,
    prepare_real_dataset,
    run_segmentation_evaluation,
    run_segmentation_training,
)
from evaluation_pipeline.baselines import common
from LeFusion.runtime.commandline import command_parser

PARSERS = {
    "compare": compare.parser,
    "evaluate_synthesis": evaluate_synthesis.parser,
    "held_out_sources": held_out_sources.parser,
    "prepare_real_dataset": prepare_real_dataset.parser,
    "run_segmentation_evaluation": run_segmentation_evaluation.parser,
    "run_segmentation_training": run_segmentation_training.parser,
    "baselines": lambda: common.parser("A baseline."),
}
WRONG = ("maybe", "nan", "-inf", "1e999", "true", "[1]", "1,5", "")
WRONG_WHOLE = (*WRONG, "1.5", "99999999999999999999", "1" * 5000)
FLAGS = [
    (command, action.option_strings[0], action.type)
    for command, made in PARSERS.items()
    for action in made()._actions
    if action.type in (int, float)
]


def test_the_flags_are_all_there():
    assert len(FLAGS) > 20 and {kind for *_, kind in FLAGS} == {int, float}
    assert {command for command, *_ in FLAGS} >= {"compare", "run_segmentation_training", "baselines"}


@pytest.mark.parametrize("command, flag, kind", FLAGS, ids=lambda value: getattr(value, "__name__", value))
def test_a_flag_takes_numbers_only(command, flag, kind, capsys):
    parser = PARSERS[command]()
    required = [
        word
        for action in parser._actions
        if action.required
        for word in (action.option_strings[0], (action.choices or ["x"])[0])
    ]
    for word in WRONG_WHOLE if kind is int else WRONG:
        with pytest.raises(SystemExit) as refused:
            parser.parse_args([*required, f"{flag}={word}"])
        *_, line = capsys.readouterr().err.splitlines()
        assert refused.value.code == 2 and f"error: argument {flag}" in line and "Traceback" not in line


def test_numbers_are_what_they_were():
    parser = command_parser("A command.")
    group = parser.add_argument_group("group")
    group.add_argument("--mm", type=float, nargs=2)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args(["--mm", "-1.5", "2", "--seed", "9223372036854775807"])
    assert given.mm == [-1.5, 2.0] and given.seed == 2**63 - 1
