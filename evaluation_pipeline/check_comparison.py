"""Checks all runs of run_comparison.sh before the first of them: a wrong one would be noticed after hours.

    python check_comparison.py <options of run_segmentation_training.py> \\
        -- <options of run_segmentation_evaluation.py> [-- the same of the next run ...]

Looks at the names of the cases and opens no image; writes nothing.
"""

import itertools
import sys
from collections.abc import Sequence

from evaluation_pipeline import run_segmentation_evaluation, run_segmentation_training
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import run_command


def run(argv: Sequence[str]) -> None:
    """Raises ValueError or FileNotFoundError for options and folders with which a run would fail."""
    parts = [list(part) for is_end, part in itertools.groupby(argv, "--".__eq__) if not is_end]
    if not parts or len(parts) % 2:
        raise UserError("give options of the training and of the evaluation for each run, -- between")
    for training_options, evaluation_options in zip(parts[::2], parts[1::2], strict=True):
        training = run_segmentation_training.parser().parse_args(training_options)
        run_segmentation_training.check_options(training)
        run_segmentation_evaluation.check_arguments(
            run_segmentation_evaluation.parser().parse_args(evaluation_options)
        )
        run_segmentation_training.selected(training)
    print(f"{len(parts) // 2} runs are in order")


def main(argv: Sequence[str] | None = None) -> None:
    run_command(lambda: run(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    main()
