"""Judged experiments, read from their tables of cases, and how they differ case by case."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evaluation_pipeline.cases.evaluation import named
from evaluation_pipeline.judging import results
from evaluation_pipeline.judging.intervals import bootstrap_mean, known_mean, paired_comparison
from LeFusion.errors import UserError

COUNTED = r"(?P<arm>.+)_n(?P<count>\d+)"  # P_n8: experiment P, trained on 8 real cases
OVERVIEW = ("Dice", "HD95 mm", "NSD", "Lesion F1")  # means that a comparison shows besides its metric


@dataclass(frozen=True)
class Experiment:
    """One or several runs on the same cases. runs: for each, case -> its row of the table of cases.
    endings: what the runs are told apart by, such as _seed0."""

    name: str
    model: str
    runs: list[dict[str, dict]]
    endings: frozenset[str] = frozenset()

    @property
    def cases(self) -> list[str]:
        return sorted(self.runs[0])

    @property
    def patients(self) -> list[str]:
        return [self.runs[0][case]["Patient"] for case in self.cases]

    def values(self, metric: str) -> np.ndarray:
        """(cases,) the mean over the runs in which the metric is not nan."""
        return np.array([known_mean([run[case][metric] for run in self.runs]) for case in self.cases])

    def sd_of_runs(self, metric: str) -> float:
        """Standard deviation of the runs' means; nan for one run."""
        means = [known_mean([row[metric] for row in run.values()]) for run in self.runs]
        return statistics.stdev(means) if len(means) > 1 else math.nan


def read_experiments(
    results_csv: Path,
    wanted: Sequence[str] | None = None,
    model: str | None = None,
    class_name: str = results.ALL,
    run_endings: str | None = None,
) -> list[Experiment]:
    """The experiments of a table of results, with their cases.

    wanted: names to keep, in their order (with run_endings, of groups). run_endings: regular expression; what
    it matches is cut from a name to give the name of its group.

    Raises FileNotFoundError or ValueError for missing or damaged tables, and ValueError for an unknown name,
    model or class, and runs or experiments on different cases.
    """
    keys = list(dict.fromkeys((r["Experiment Name"], r["Model"]) for r in results.read_results(results_csv)))
    if model is not None and model not in (models := [m for _, m in keys]):
        raise UserError(f"{results_csv}: has no --model {model} but {_set(models)}")
    keys = [key for key in keys if model in (None, key[1])]
    groups: dict[tuple[str, str], list[str]] = {}
    for name, of_model in keys:
        group = re.sub(run_endings, "", name) if run_endings else name
        groups.setdefault((group, of_model), []).append(name)
    known = [group for group, _ in groups]
    unknown = [name for name in wanted or [] if name not in known]
    if unknown:
        raise UserError(f"{results_csv}: has no experiment {', '.join(unknown)} but {_set(known)}")
    order = list(wanted or dict.fromkeys(known))
    experiments = []
    for (group, of_model), names in sorted(
        ((key, names) for key, names in groups.items() if key[0] in order),
        key=lambda item: (item[0][1], order.index(item[0][0])),
    ):
        runs = [_cases_of_class(results_csv, name, of_model, class_name) for name in names]
        cut = ([match[0] for match in re.finditer(run_endings or "$", name)] for name in names)
        endings = frozenset(map("".join, cut)) - {""}
        experiments.append(Experiment(group, of_model, runs, endings))
    _check_same_cases(experiments)
    return experiments


def by_count(
    experiments: Sequence[Experiment], wanted: Sequence[str] | None = None
) -> dict[int, list[Experiment]]:
    """Number of real training cases -> the experiments with so many, for names like P_n8; others left out.

    The experiments returned are named without their number. wanted: names to keep, without number. Raises
    ValueError for an unknown name, and when no name has a number.
    """
    counted = [(match, e) for e in experiments if (match := re.fullmatch(COUNTED, e.name))]
    if not counted:
        raise UserError(
            f"--by_count needs experiments like P_n8, trained with --real_count 8; there are only "
            f"{_set(e.name for e in experiments)}"
        )
    arms = [match["arm"] for match, _ in counted]
    unknown = [name for name in wanted or [] if name not in arms]
    if unknown:
        raise UserError(f"--by_count: has no experiment {', '.join(unknown)} but {_set(arms)}")
    order = list(wanted or dict.fromkeys(arms))
    found: dict[int, list[Experiment]] = {}
    for match, experiment in sorted(
        (pair for pair in counted if pair[0]["arm"] in order),
        key=lambda pair: (int(pair[0]["count"]), pair[1].model, order.index(pair[0]["arm"])),
    ):
        found.setdefault(int(match["count"]), []).append(replace(experiment, name=match["arm"]))
    return found


def compare(experiments: Sequence[Experiment], baseline: str | None, metric: str) -> list[dict]:
    """A row for each experiment: means, and the paired difference from the baseline of the same model.

    Raises ValueError for an unknown metric, and when a model lacks the baseline.
    """
    metrics = _known_metrics(experiments)
    if metric not in metrics:
        raise UserError(f"--metric {metric} is unknown; choose one of {', '.join(metrics)}")
    by_name = {(e.model, e.name): e for e in experiments}
    table = []
    for experiment in experiments:
        if baseline is not None and (experiment.model, baseline) not in by_name:
            raise UserError(
                f"--baseline {baseline} was not judged with model {experiment.model}; evaluate it, or choose "
                f"--model or another baseline ({_set(e.name for e in experiments)})"
            )
        row = {
            "Experiment": experiment.name,
            "Model": experiment.model,
            "runs": len(experiment.runs),
            "n": len(experiment.cases),
            "patients": len(set(experiment.patients)),
        }
        for column in dict.fromkeys((metric, *(m for m in metrics if m.startswith(OVERVIEW)))):
            ends = bootstrap_mean(experiment.values(column), experiment.patients)
            row |= dict(zip((column, f"{column} low", f"{column} high"), ends, strict=True))
        row["SD of runs"] = experiment.sd_of_runs(metric)
        names = ("difference", "difference low", "difference high", "p")
        row |= dict.fromkeys(names, math.nan)
        if baseline not in (None, experiment.name):
            reference = by_name[experiment.model, baseline]
            pair = paired_comparison(experiment.values(metric), reference.values(metric), experiment.patients)
            row |= dict(zip(names, (pair.difference, pair.low, pair.high, pair.p_value), strict=True))
        table.append(row)
    return table


def unlike_runs(experiments: Sequence[Experiment], baseline: str | None) -> list[str]:
    """A line for each experiment that was run with other seeds or folds than the baseline of its model."""
    by_name = {(e.model, e.name): e for e in experiments}
    lines = []
    for experiment in experiments:
        reference = by_name.get((experiment.model, baseline), experiment)
        if experiment.endings != reference.endings:
            of = [", ".join(sorted(e.endings)) or "one run" for e in (experiment, reference)]
            lines.append(
                f"{experiment.name} is the mean of {of[0]} but {baseline} of {of[1]}: the runs differ, too"
            )
    return lines


def _cases_of_class(results_csv: Path, name: str, model: str, class_name: str) -> dict[str, dict]:
    rows = results.read_cases(results_csv, name, model)
    found = {row["Case"]: row for row in rows if row["Class"] == class_name}
    if not found:
        classes = _set(row["Class"] for row in rows)
        raise UserError(f"{name}, {model}: has no --class_name {class_name} but {classes}")
    return found


def _check_same_cases(experiments: Sequence[Experiment]) -> None:
    first = experiments[0].runs[0]
    for experiment in experiments:
        for run in experiment.runs:
            differing = sorted(first.keys() ^ run.keys())
            if differing:
                raise UserError(
                    f"{experiment.name}, {experiment.model} was judged on other cases than "
                    f"{experiments[0].name}, {experiments[0].model} ({named(differing)}); evaluate both on "
                    "the same"
                )


def _known_metrics(experiments: Sequence[Experiment]) -> list[str]:
    """Metrics that all runs have."""
    tables = [next(iter(run.values())) for experiment in experiments for run in experiment.runs]
    left_out = {*results.CASE_TEXT, *results.VOLUMES}
    return [name for name in tables[0] if name not in left_out and all(name in row for row in tables)]


def _set(names) -> str:
    return ", ".join(dict.fromkeys(names))
