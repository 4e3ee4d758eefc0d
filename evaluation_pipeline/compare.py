"""Compares experiments that run_segmentation_evaluation.py judged: is one better, and by how much?

    python compare.py --results_csv evaluation_results.csv --experiments P "P+N'" --baseline P
    python compare.py --results_csv evaluation_results.csv --group_by_prefix --baseline P --metric "NSD 1 mm"
    python compare.py --results_csv evaluation_results.csv --group_by_prefix --baseline P --by_count

Means and differences have 95 % bootstrap intervals over patients; p is of the two-sided Wilcoxon signed-rank
test, one difference a patient, not corrected for the number of comparisons. With --group_by_prefix the runs
of one experiment (P_seed0, P_seed1, ...) are averaged case by case first; the intervals are still over
patients alone, and `SD of runs` says how far the runs' means lie apart. Experiments are compared within one
model. --by_count is for learning curves: P_n8 is experiment P trained on 8 real cases (--real_count 8), and
is the baseline of what else was trained on 8.
"""

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation_pipeline.judging import results
from evaluation_pipeline.judging.experiments import (
    Experiment,
    by_count,
    compare,
    read_experiments,
    unlike_runs,
)
from evaluation_pipeline.judging.figures import (
    PicturedCase,
    badness,
    save_box_plot,
    save_cases_sheet,
    save_learning_curves,
)
from evaluation_pipeline.segmentation.predictions import fingerprint
from evaluation_pipeline.tables import write_csv
from LeFusion.dataset.storage import write_text
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, run_with_flags
from LeFusion.runtime.tables import markdown_table

RUN_ENDINGS = r"[_-](seed|fold|run)_?\d+$"
LATEX = {character: f"\\{character}" for character in "&%$#_{}"}
LATEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {"<": "$<$", ">": "$>$", "|": "$|$"}  # other signs in LaTeX's default fonts


def shown_table(
    table: Sequence[dict], metric: str, baseline: str | None
) -> tuple[list[str], list[list[str]]]:
    """(header, rows) as text; columns that say the same for all, or nothing, are left out."""
    columns = [name for name in table[0] if f"{name} low" in table[0] and name != "difference"]
    several = [name for name in ("Model", "runs") if len({row[name] for row in table}) > 1 or name == "runs"]
    if all(row["runs"] == 1 for row in table):
        several = [name for name in several if name != "runs"]
    header = ["Experiment", *several, "n", *map(results.titled, columns)]
    header += ["SD of runs"] if "runs" in several else []
    header += [f"{metric} - {baseline}", "p"] if baseline is not None else []
    rows = []
    for row in table:
        cells = [row["Experiment"], *(str(row[name]) for name in several), str(row["n"])]
        for name in columns:
            numbers = row[name], row[f"{name} low"], row[f"{name} high"]
            # intervals of all metrics would make a table too wide to read; the CSV file has them
            cells.append(results.interval_text(name, *numbers) if name == metric else _number(name, numbers))
        cells += [results.number_text(metric, row["SD of runs"])] if "runs" in several else []
        if baseline is not None:
            numbers = row["difference"], row["difference low"], row["difference high"]
            is_baseline = row["Experiment"] == baseline
            cells.append("baseline" if is_baseline else results.interval_text(metric, *numbers))
            cells.append("" if is_baseline else p_text(row["p"]))
        rows.append(cells)
    return header, rows


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular for the package booktabs, its text escaped, minus signs as such."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join(map(latex_text, cells)) + r" \\"

    columns = "l" + "r" * (len(header) - 1)
    body = [line(header), r"  \midrule", *map(line, rows)]
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"  \toprule", *body, r"  \bottomrule", r"\end{tabular}"]
    )


def latex_text(text: str) -> str:
    """Text for a cell of a LaTeX table. A lone `-` becomes a dash, one before a number or a blank a minus."""
    if text == "-":
        return "--"
    escaped = re.sub(r"(?<![^\s\[])-(?=[\d\s])", "$-$", "".join(LATEX.get(c, c) for c in text))
    # a row that starts with these would be read as an option of the line break before it
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def p_text(p_value: float) -> str:
    if math.isnan(p_value):
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def save_worst_cases(path: Path, experiments: Sequence[Experiment], metric: str, number: int) -> int:
    """Pictures the cases that are worst on average over the experiments (their first runs); -> how many.

    Cases whose files are no longer where they were judged, or no longer those, are left out.
    """
    cases = experiments[0].cases
    values = np.array([experiment.values(metric) for experiment in experiments])
    judged = [i for i in range(len(cases)) if not np.isnan(values[:, i]).all()]
    judged.sort(key=lambda i: badness(metric, float(np.nanmean(values[:, i]))))
    pictured: list[PicturedCase] = []
    for i in judged:
        rows = [experiment.runs[0][cases[i]] for experiment in experiments]
        files = [Path(row[name]) for row, name in ((rows[0], "Image"), (rows[0], "Label"))]
        predictions = tuple(Path(row["Prediction"]) for row in rows)
        there = all(file.is_file() for file in (*files, *predictions))
        if len(pictured) < number and there and all(map(_is_as_judged, rows)):
            title = f"{cases[i]}\n{metric} {results.number_text(metric, float(np.nanmean(values[:, i])))}"
            pictured.append(PicturedCase(title, *files, predictions))
    if pictured:
        labels = [int(value) for value in experiments[0].runs[0][cases[0]]["Labels"].split()]
        save_cases_sheet(path, pictured, {"lesion": labels}, list(experiment_labels(experiments)))
    return len(pictured)


def _is_as_judged(row: dict) -> bool:
    """Whether a case's prediction is still the file that was judged, as far as the table can tell."""
    return row.get(results.DIGEST) in (None, fingerprint(Path(row["Prediction"])))


def experiment_labels(experiments: Sequence[Experiment]) -> dict[str, Experiment]:
    """Names for plots, with the model where there are several."""
    several = len({experiment.model for experiment in experiments}) > 1
    return {f"{e.name}, {e.model}" if several else e.name: e for e in experiments}


def run(arguments: argparse.Namespace) -> None:
    results_csv, baseline = arguments.results_csv, arguments.baseline
    if arguments.num_worst < 0:
        raise UserError(f"--num_worst {arguments.num_worst} must be at least 0")
    try:
        re.compile(arguments.group_by_prefix or "")
    except re.error as error:
        raise UserError(f"--group_by_prefix {arguments.group_by_prefix!r}: {error}") from None
    wanted = arguments.experiments
    if wanted and baseline is not None and baseline not in wanted:
        wanted = [baseline, *wanted]
    experiments = read_experiments(
        results_csv,
        None if arguments.by_count else wanted,
        arguments.model,
        arguments.class_name,
        arguments.group_by_prefix,
    )
    folder = arguments.output_dir or results_csv.with_name(f"{results_csv.stem}_comparison")
    if not arguments.by_count:
        write_comparison(experiments, arguments, folder)
        return
    counts = by_count(experiments, wanted)
    tables = {count: compare(of_count, baseline, arguments.metric) for count, of_count in counts.items()}
    for count, of_count in counts.items():
        print(f"\n{count} real cases\n")
        write_comparison(of_count, arguments, folder / f"n{count}")
    save_learning_curves(folder / "learning_curves.png", tables, arguments.metric, baseline)
    print(f"\nwrote learning_curves.png in {folder}")


def write_comparison(experiments: Sequence[Experiment], arguments: argparse.Namespace, folder: Path) -> None:
    """Prints the table of some experiments and writes it, with its pictures, into a folder."""
    metric, baseline = arguments.metric, arguments.baseline
    table = compare(experiments, baseline, metric)
    header, rows = shown_table(table, metric, baseline)
    markdown = markdown_table(header, rows)
    texts = {"comparison.md": markdown, "comparison.tex": latex_table(header, rows)}
    for name, text in texts.items():
        write_text(folder / name, text + "\n")
    write_csv(folder / "comparison.csv", pd.DataFrame(table).assign(**{results.UNIT: "share"}))
    labels = experiment_labels(experiments)
    marked = next((label for label, e in labels.items() if e.name == baseline), None)
    one_model = len({e.model for e in experiments}) == 1
    save_box_plot(
        folder / "comparison.png",
        {label: e.values(metric) for label, e in labels.items()},
        results.titled(metric),
        marked if one_model else None,
    )
    pictured = save_worst_cases(folder / "worst_cases.png", experiments, metric, arguments.num_worst)
    print(markdown)
    for line in unlike_runs(experiments, baseline):
        print(f"\nnote: {line}")
    written = [*texts, "comparison.csv", "comparison.png", *(["worst_cases.png"] if pictured else [])]
    if pictured < min(arguments.num_worst, len(experiments[0].cases)):
        print(
            f"{pictured} of the worst cases are shown; files of the others are gone or were written again, "
            f"or they have no {metric}"
        )
    print(f"\nwrote {', '.join(written)} in {folder}")


def _number(name: str, numbers: tuple[float, float, float]) -> str:
    return results.number_text(name, numbers[0])


def parser() -> argparse.ArgumentParser:
    described = command_parser(__doc__)
    add = described.add_argument
    add("--results_csv", type=Path, required=True, help="table of run_segmentation_evaluation.py")
    add("--experiments", nargs="+", help="experiments or groups to compare (default: all)")
    add("--baseline", help="experiment that the others are compared with (default: none)")
    add("--metric", default="Dice", help="a column of the tables of cases (default Dice)")
    add("--model", help="only this model (default: all)")
    add("--class_name", default=results.ALL, help="lesion class (default all: the mean over classes)")
    add(
        "--group_by_prefix",
        nargs="?",
        const=RUN_ENDINGS,
        metavar="REGEX",
        help="runs of one experiment count as one; the regular expression, searched in the name, is cut off "
        "(default without a value: _seed0, _fold1, _run2 and so on)",
    )
    add(
        "--by_count",
        action="store_true",
        help="a table for each number of real training cases (experiments named P_n8, P_n15, ...; "
        "--experiments and --baseline without the number), and learning_curves.png",
    )
    add("--output_dir", type=Path, help="where the files go (default: <results>_comparison beside the table)")
    add("--num_worst", type=int, default=6, help="cases in worst_cases.png (default 6)")
    return described


def main(argv: Sequence[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
