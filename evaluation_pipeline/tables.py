"""CSV tables of the evaluation, written in one move and read as text."""

import csv
from pathlib import Path

import pandas as pd

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError


def write_csv(path: Path, frame: pd.DataFrame, digits: int | None = None) -> None:
    """digits: significant ones of floats, None: all. What is missing or nan is an empty cell."""
    form = None if digits is None else f"%.{digits}g"
    with atomic_file(path) as temporary:
        frame.to_csv(temporary, index=False, lineterminator="\n", float_format=form)


def read_csv(path: Path) -> pd.DataFrame:
    """All cells as text, "" where empty; a file without anything has no columns.

    Raises ValueError for a file that is no CSV table, or has a row of another length than the header: pandas'
    own reader would fill a row that was cut off.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file, strict=True) if row] or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is not a CSV table ({error})") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise UserError(f"{path}, line {number}: has not {len(header)} cells as the header")
    return pd.DataFrame(rows, columns=header, dtype=object)
