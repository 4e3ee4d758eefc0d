"""A table that several processes fill is one CSV file in the end; a kill in between loses at most a line."""

import csv

import pytest

from LeFusion.errors import UserError
from LeFusion.runtime.processes import Share
from LeFusion.runtime.tables import Table, markdown_table, read_csv, write_csv


def table(tmp_path, index=0, count=1):
    return Table(tmp_path / "t.csv", lambda row: row["name"], {"name", "value"}, Share(index, count))


def read(tmp_path):
    with open(tmp_path / "t.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_parts_of_processes_become_one_file(tmp_path):
    tables = [table(tmp_path, index, 3) for index in range(3)]
    for index in (2, 0, 1):
        tables[index].add({"name": f"c{index}", "value": str(index)})
        tables[index].write()
    assert not (tmp_path / "t.csv").exists()
    tables[0].join(["name", "value"])
    assert read(tmp_path) == [{"name": f"c{i}", "value": str(i)} for i in range(3)]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_newer_row_takes_the_place_of_an_older_one(tmp_path):
    first = table(tmp_path)
    first.add({"name": "a", "value": "1"})
    first.join()
    again = table(tmp_path)
    assert again.rows["a"]["value"] == "1"
    again.add({"name": "a", "value": "2"})
    again.write()
    assert table(tmp_path).rows["a"]["value"] == "2"  # a killed run's part counts more than the file
    again.join()
    assert read(tmp_path) == [{"name": "a", "value": "2"}]


def test_a_torn_line_is_dropped_and_does_not_spoil_the_next(tmp_path):
    killed = table(tmp_path)
    killed.add({"name": "a", "value": "1"})
    killed.write()
    with open(killed.part, "a") as file:
        file.write('{"name": "b", "va')
    after = table(tmp_path)
    assert set(after.rows) == {"a"}
    after.add({"name": "c", "value": "3"})
    after.write()
    assert set(table(tmp_path).rows) == {"a", "c"}


def test_writing_appends_what_is_new_only(tmp_path):
    one = table(tmp_path)
    for name in "abc":
        one.add({"name": name, "value": ""})
        one.write()
        one.write()
    assert len(one.part.read_text().splitlines()) == 3


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("name,other\na,1\n")
    with pytest.raises(ValueError, match=r"t\.csv was not written by this command"):
        table(tmp_path)


def test_markdown():
    lines = markdown_table(["a", "b"], [["x|y", "1"], ["z", "22222"]]).splitlines()
    assert lines == ["| a    | b     |", "| ---- | ----- |", "| x\\|y | 1     |", "| z    | 22222 |"]


def test_a_csv_file_has_the_columns_asked_for_or_those_of_the_first_row(tmp_path):
    rows = [{"a": "é, x", "b": 1}, {"a": None, "b": 2, "more": 3}]
    write_csv(tmp_path / "t.csv", rows)
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == 'a,b\n"é, x",1\n,2\n'
    write_csv(tmp_path / "t.csv", rows, ["b", "more"])
    assert (tmp_path / "t.csv").read_text() == "b,more\n1,\n2,3\n"


def test_a_table_is_read_with_its_lines(tmp_path):
    (tmp_path / "t.csv").write_text('\ufeffname,value\na,1\n\n"b\nc",2\n', encoding="utf-8")
    names, rows = read_csv(tmp_path / "t.csv")
    assert names == ["name", "value"]
    assert rows == [(2, {"name": "a", "value": "1"}), (5, {"name": "b\nc", "value": "2"})]
    (tmp_path / "t.csv").write_bytes(b"")
    assert read_csv(tmp_path / "t.csv") == ([], [])


def test_what_is_no_table_is_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"\x1f\x8b\x08\x00 a scan")
    for read in (read_csv, lambda _: table(tmp_path)):
        with pytest.raises(UserError, match="^[^\n]*t.csv: is no table of comma-separated values[^\n]*$"):
            read(path)
