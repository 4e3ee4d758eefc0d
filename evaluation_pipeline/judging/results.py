"""The table of results (one row for an experiment, a model and a class) and the tables of cases beside it.

`Dice Unit` says what `Dice`, `Dice low` and `Dice high` of a row are in: `percent` in the table of results,
as in the reference implementation's, `share` (0 to 1) in the tables of cases. A table without that column, of
an earlier version, holds shares. In memory they are shares always, as NSD and the lesion-wise metrics are
everywhere. `NSD_Proxy_HD95` is the name under which the reference implementation writes the mean HD95; it
holds the same number as `HD95 mm`. `low` and `high` are the ends of a 95 % bootstrap interval over patients;
`n` is the number of cases. The class `all` is, for each case, the mean over the lesion classes.
"""

import fcntl
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from evaluation_pipeline.judging.intervals import bootstrap_mean, known_mean
from evaluation_pipeline.judging.metrics import TOLERANCES_MM, nsd_column
from evaluation_pipeline.tables import read_csv, write_csv
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.tables import markdown_table

ALL = "all"
RESULT_KEY = ("Experiment Name", "Model")
RESULT_TEXT = (*RESULT_KEY, "Class")
DIGEST = "Prediction SHA256"  # another run may have written to the file since
CASE_TEXT = (*RESULT_KEY, "Case", "Patient", "Class", "Labels", "Image", "Label", "Prediction", DIGEST)
UNIT = "Dice Unit"
UNITS = {"percent": 100, "share": 1}
ADDED = (UNIT, DIGEST)  # columns of text that tables of earlier versions lack
IN_UNIT = ("Dice", "Dice low", "Dice high")
# Means without intervals
VOLUMES = (
    "Volume ml",
    "Reference Volume ml",
    "Volume % of Myocardium",
    "Reference Volume % of Myocardium",
)


def metric_columns(tolerances_mm: Sequence[float] = TOLERANCES_MM) -> list[str]:
    """The metrics that get a mean and an interval, in the order of the table."""
    return [
        "Dice",
        "HD95 mm",
        *map(nsd_column, tolerances_mm),
        "Lesion Sensitivity",
        "Lesion Precision",
        "Lesion F1",
        "Volume Error ml",
        "Relative Volume Error",
        "Volume Error % of Myocardium",
    ]


def mean_over_classes(rows: Sequence[dict]) -> dict:
    """One case's rows of its classes -> its row of the class `all`; metrics that are nan in all stay nan."""
    merged = {name: rows[0][name] for name in rows[0] if name in CASE_TEXT}
    merged |= {"Class": ALL, "Labels": " ".join(row["Labels"] for row in rows)}
    for name in (name for name in rows[0] if name not in CASE_TEXT):
        merged[name] = known_mean([row[name] for row in rows])
    return merged


def summarise(case_rows: Sequence[dict], tolerances_mm: Sequence[float] = TOLERANCES_MM) -> list[dict]:
    """Rows of cases of one experiment and model -> one row of the table for each class, `all` first."""
    table = []
    frame = pd.DataFrame(case_rows)
    frame = frame.reindex(columns=frame.columns.union([*metric_columns(tolerances_mm), *VOLUMES], sort=False))
    for name, rows in sorted(frame.groupby("Class", sort=False), key=lambda group: group[0] != ALL):
        summary = {key: rows[key].iloc[0] for key in RESULT_KEY}
        summary |= {"Dice": math.nan, "NSD_Proxy_HD95": math.nan, "Class": name, "n": len(rows)}
        for metric in metric_columns(tolerances_mm):
            ends = bootstrap_mean(rows[metric].tolist(), rows["Patient"].tolist())
            summary |= dict(zip((metric, f"{metric} low", f"{metric} high"), ends, strict=True))
        summary["NSD_Proxy_HD95"] = summary["HD95 mm"]
        for column in VOLUMES:
            summary[column] = known_mean(rows[column].tolist())
        table.append(summary)
    return table


def read_results(path: str | os.PathLike) -> list[dict]:
    """The rows of a table of results: text, n as int, other columns as float (nan where empty).

    Raises FileNotFoundError, and ValueError when the file is no such table.
    """
    rows = _read_rows(Path(path), RESULT_TEXT)
    for number, row in enumerate(rows, start=2):
        if not row.get("n", math.nan) >= 1:
            raise UserError(f"{path}, line {number}: n must be the number of cases")
        row["n"] = int(row["n"])
    return rows


def append_rows(path: str | os.PathLike, rows: Sequence[dict]) -> None:
    """Adds the rows of one experiment and model; those that it already has there are replaced in place.

    Columns that only some rows have stay empty in the others. Several processes may write to one table.
    Raises ValueError when the file there is no table of results; it is left as it is then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    key = [rows[0][name] for name in RESULT_KEY]
    with _locked(path.parent):
        table = read_results(path) if path.exists() else []
        same = [[row[name] for name in RESULT_KEY] == key for row in table]
        place = same.index(True) if True in same else len(table)
        kept = [row for row, is_same in zip(table, same, strict=True) if not is_same]
        _write_rows(path, [*kept[:place], *rows, *kept[place:]], "percent", digits=6)


def cases_path(results_csv: str | os.PathLike, experiment: str, model: str) -> Path:
    """The table of cases of an experiment: `<results>_cases/<experiment>_<model>.csv`.

    Characters that do not belong in a file's name are written as %XX.
    """
    results_csv = Path(results_csv)
    name = "_".join(quote(part, safe=" +'(),=@^") for part in (experiment, model))
    return results_csv.with_name(f"{results_csv.stem}_cases") / f"{name}.csv"


def write_cases(results_csv: str | os.PathLike, rows: Sequence[dict]) -> Path:
    """Writes the cases of one experiment and model beside the table of results; -> their file.

    Raises ValueError when the file there is of another experiment and model (`a_b` of `c` and `a` of `b_c`).
    """
    key = [rows[0][name] for name in RESULT_KEY]
    path = cases_path(results_csv, *key)
    if path.exists():
        read_cases(results_csv, *key)
    # ties between differences of cases must stay ties in the Wilcoxon test
    _write_rows(path, rows, "share", digits=12)
    return path


def read_cases(results_csv: str | os.PathLike, experiment: str, model: str) -> list[dict]:
    """The cases of an experiment and model, as write_cases got them.

    Raises FileNotFoundError, and ValueError when the file is no such table or of another experiment.
    """
    path = cases_path(results_csv, experiment, model)
    rows = _read_rows(path, CASE_TEXT)
    for row in rows:
        if [row[name] for name in RESULT_KEY] != [experiment, model]:
            raise UserError(
                f"{path}: holds the cases of {row['Experiment Name']} / {row['Model']}, not of "
                f"{experiment} / {model}; rename one of the two experiments"
            )
    return rows


def titled(metric: str) -> str:
    """A metric's name over its numbers; Dice, which the table of results has in percent, with its range."""
    return f"{metric} (0 to 1)" if metric == "Dice" else metric


def number_text(metric: str, value: float) -> str:
    """A number as tables show it: 3 decimals for shares, 2 for mm, ml and percent, a dash for nan."""
    if math.isnan(value):
        return "-"
    has_unit = metric.split(" ")[-1] in ("mm", "ml") and not metric.startswith("NSD") or "%" in metric
    return f"{value:.{2 if has_unit else 3}f}"


def interval_text(metric: str, mean: float, low: float, high: float) -> str:
    """`0.812 [0.745, 0.861]`."""
    return f"{number_text(metric, mean)} [{number_text(metric, low)}, {number_text(metric, high)}]"


def results_markdown(table: Sequence[dict], metrics: Sequence[str]) -> str:
    """Rows of results as Markdown, metrics down and classes across; metrics without a value are left out."""
    header = ["", *(f"{row['Experiment Name']}, {row['Model']}: {row['Class']}" for row in table)]
    lines = [["cases", *(str(row["n"]) for row in table)]]
    for metric in metrics:
        if not all(math.isnan(row[metric]) for row in table):
            ends = ([row[metric], row[f"{metric} low"], row[f"{metric} high"]] for row in table)
            lines.append([titled(metric), *(interval_text(metric, *numbers) for numbers in ends)])
    for volume in VOLUMES:
        if not all(math.isnan(row[volume]) for row in table):
            lines.append([volume, *(number_text(volume, row[volume]) for row in table)])
    return markdown_table(header, lines)


def _read_rows(path: Path, text_columns: Sequence[str]) -> list[dict]:
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file; run run_segmentation_evaluation.py first")
    frame = read_csv(path)
    missing = [name for name in text_columns if name not in (*frame.columns, *ADDED)]
    if missing or frame.empty:
        lack = f"lacks the columns {', '.join(missing)}" if missing else "has no rows"
        raise UserError(f"{path}: {lack}; give a table that run_segmentation_evaluation.py wrote")
    for name in frame.columns.difference([*text_columns, *ADDED]):
        numbers = frame[name].map(_number)
        if numbers.isna().any():
            line = int(numbers.isna().argmax())
            raise UserError(f"{path}, line {line + 2}: {name} is {frame[name][line]!r}, not a number")
        frame[name] = numbers.astype(float)
    units = frame.pop(UNIT) if UNIT in frame else pd.Series("share", frame.index)
    unknown = ~units.isin(list(UNITS))
    if unknown.any():
        line = int(unknown.argmax())
        raise UserError(f"{path}, line {line + 2}: {UNIT} is {units[line]!r}, not {' or '.join(UNITS)}")
    columns = frame.columns.intersection(IN_UNIT)
    frame[columns] = frame[columns].div(units.map(UNITS), axis=0)
    return frame.to_dict("records")


def _write_rows(path: Path, rows: Sequence[dict], unit: str, digits: int) -> None:
    frame = pd.DataFrame(rows)
    frame.insert(frame.columns.get_loc("Class"), UNIT, unit)
    columns = frame.columns.intersection(IN_UNIT)
    frame[columns] *= UNITS[unit]
    write_csv(path, frame, digits)


def _number(text: str) -> str | None:
    """The text of a number, "nan" where empty; None for what is none."""
    try:
        float(text or "nan")
    except ValueError:
        return None
    return text or "nan"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds off other processes that write a table in the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
