"""Tables that a user gives: CSV files whose mistakes are told with their line."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.tables import read_csv

Rows = list[tuple[str, dict[str, str]]]


def read_rows(
    path: Path, key: str, columns: Sequence[str], more: str = "", meant: Mapping[str, str] | None = None
) -> tuple[list[str], Rows]:
    """-> (the columns that are there, [(how messages call a row, {column: cell}), ...]), without blanks.

    key: the setting that names the file. columns: what it may have; more: the same in messages, where it is
    not all of them. meant: other names of columns, which messages correct. Raises MissingFileError, and
    UserError with the column or the line.
    """
    if not path.is_file():
        raise MissingFileError(
            f"{key}={path}: no such file; give a CSV file with the columns {', '.join(columns[:3])}, ..."
        )
    names, lines = read_csv(path)
    rows = [
        (f"{path}, line {line}", {name and name.strip(): cell for name, cell in row.items()})
        for line, row in lines
    ]
    names = [name.strip() for name in names]
    unknown = [name for name in names if name not in columns or names.count(name) > 1]
    if unknown:
        hint = f" (call it {meant[unknown[0]]})" if meant and unknown[0] in meant else ""
        raise UserError(
            f"{path}: column {unknown[0]!r} is unknown or there twice{hint}; a table of {key} may have "
            f"{more or ', '.join(columns)}"
        )
    for what, row in rows:
        if None in row or None in row.values():
            raise UserError(f"{what}: has more or fewer values than there are columns")
    return names, [(what, {name: cell.strip() for name, cell in row.items()}) for what, row in rows]
