"""Tables: CSV files, those that several processes fill row by row, and Markdown."""

import csv
import json
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from LeFusion.dataset.storage import atomic_file
from LeFusion.errors import UserError
from LeFusion.runtime.processes import Share

Row = dict[str, str]


class Table:
    """Rows by key, from the CSV file `path` and the parts beside it; new ones go to this process's part.

    A part (<stem>.part-<share>-of-<shares>.jsonl) is appended to, one JSON object a line, so that a row costs
    the same in a table of ten and of a million. `join` makes one CSV file of everything. A run that is killed
    leaves its parts, which the next one reads.

    key: row -> what tells rows apart. wanted: columns without which a file is somebody else's.
    """

    def __init__(self, path: Path, key: Callable[[Row], Hashable], wanted: Iterable[str], share: Share):
        self.path, self.key, self.wanted = path, key, set(wanted)
        self.part = path.with_name(f"{path.stem}.part-{share.index}-of-{share.count}.jsonl")
        self.rows: dict[Hashable, Row] = {}
        self._unwritten: list[Row] = []
        self._read()

    def add(self, row: Row) -> None:
        """Takes the place of an earlier row of the same key."""
        self.rows[self.key(row)] = row
        self._unwritten.append(row)

    def write(self) -> None:
        """Appends what was added since the last call."""
        if self._unwritten:
            self.part.parent.mkdir(parents=True, exist_ok=True)
            torn = self._is_torn()
            with open(self.part, "a") as file:
                file.write("\n" if torn else "")
                file.writelines(json.dumps(row) + "\n" for row in self._unwritten)
            self._unwritten.clear()

    def join(self, columns: Sequence[str] | None = None) -> None:
        """Writes `path` anew with the rows of all processes, and removes the parts.

        For one process, after all have written. columns: of the file; None: all that occur.
        """
        self.write()
        self._read()
        columns = columns or list(dict.fromkeys(column for row in self.rows.values() for column in row))
        write_csv(self.path, [self.rows[key] for key in sorted(self.rows)], columns)
        for part in self._parts():
            part.unlink()

    def _is_torn(self) -> bool:
        """Whether a killed run left half a line at the end of this part."""
        if not self.part.exists() or not self.part.stat().st_size:
            return False
        with open(self.part, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"

    def _parts(self) -> list[Path]:
        """The oldest first, so that newer rows take the place of older ones."""
        return sorted(
            self.path.parent.glob(f"{self.path.stem}.part-*-of-*.jsonl"),
            key=lambda part: (part.stat().st_mtime_ns, part.name),
        )

    def _read(self) -> None:
        if self.path.exists():
            self._take(self.path, (row for _, row in read_csv(self.path)[1]))
        for part in self._parts():
            with open(part) as file:
                # A kill may tear the last line of a part: what it would have said is measured again
                lines = [line for line in file if line.endswith("}\n")]
            self._take(part, (json.loads(line) for line in lines))

    def _take(self, path: Path, rows: Iterable[Row]) -> None:
        for row in rows:
            if self.wanted - set(row):
                raise UserError(f"{path} was not written by this command; move it away")
            self.rows[self.key(row)] = row


def read_csv(path: Path) -> tuple[list[str], list[tuple[int, dict]]]:
    """A CSV file -> its columns, and for each row its line and the cells by column, as csv.DictReader gives
    them. Raises UserError, naming the file, for what is no such table; what is no file, as open does."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            return list(reader.fieldnames or ()), [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: is no table of comma-separated values ({error})") from error


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str] | None = None) -> None:
    """A CSV file, complete or not at all.

    columns: of the file, None: those of the first row. A cell that a row lacks is empty; what a row has
    besides is left out.
    """
    with atomic_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        names = list(rows[0]) if columns is None else columns
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with columns of even width."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]])
