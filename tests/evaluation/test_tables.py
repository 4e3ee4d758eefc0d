import math

import pandas as pd
import pytest

from evaluation_pipeline.tables import read_csv, write_csv


def test_what_is_written_is_read_as_text(tmp_path):
    path = tmp_path / "new" / "table.csv"
    rows = [{"a": 'odd, "x"', "n": 3, "b": 1 / 3}, {"a": "NA", "n": 4, "b": math.nan, "c": 1e-7}]
    write_csv(path, pd.DataFrame(rows), digits=6)
    assert path.read_text() == 'a,n,b,c\n"odd, ""x""",3,0.333333,\nNA,4,,1e-07\n'
    assert read_csv(path)["a"].tolist() == ['odd, "x"', "NA"] and read_csv(path)["b"].tolist()[1] == ""
    write_csv(path, pd.DataFrame([{"b": 0.1 + 0.2}]))
    assert path.read_text() == "b\n0.30000000000000004\n"


@pytest.mark.parametrize("row", ["1", "1,2,3"])
def test_a_row_that_was_cut_off_is_refused(tmp_path, row):
    path = tmp_path / "table.csv"
    path.write_text(f"a,b\n1,2\n{row}\n")
    with pytest.raises(ValueError, match="table.csv, line 3: has not 2 cells"):
        read_csv(path)
