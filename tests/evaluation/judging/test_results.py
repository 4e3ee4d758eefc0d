"""Tables of results and of cases: what is written is read again, rows are replaced, damage is named."""

import math
import threading

import pytest

from evaluation_pipeline.judging import results

NAN = math.nan


def case_row(case: str, dice: float, class_name: str = "all", experiment="P", model="UNet", **more) -> dict:
    row = {"Experiment Name": experiment, "Model": model, "Case": case, "Patient": case.split("_")[0]}
    row |= {"Class": class_name, "Labels": "1", "Image": "/i", "Label": "/l", "Prediction": "/p"}
    return row | {"Dice": dice, "HD95 mm": 10 * (1 - dice), "Lesion Precision": NAN} | more


def result_row(experiment: str, dice: float = 0.5, class_name: str = "all", model="UNet", **more) -> dict:
    return {"Experiment Name": experiment, "Model": model, "Dice": dice, "Class": class_name, "n": 3} | more


def names(path) -> list[tuple]:
    rows = results.read_results(path)
    return [(row["Experiment Name"], row["Model"], row["Class"], row["Dice"]) for row in rows]


def test_summary_by_hand():
    rows = [case_row("A_1", 0.2), case_row("A_2", 0.4), case_row("B_1", 0.9, **{"Volume ml": 3.0})]
    (summary,) = results.summarise(rows, (1, 2))
    assert list(summary)[:6] == ["Experiment Name", "Model", "Dice", "NSD_Proxy_HD95", "Class", "n"]
    assert (summary["Experiment Name"], summary["Model"], summary["n"]) == ("P", "UNet", 3)
    assert summary["Dice"] == pytest.approx(0.5)
    assert summary["HD95 mm"] == summary["NSD_Proxy_HD95"] == pytest.approx(5)
    # two patients only: means of A A, A B, B B
    assert (summary["Dice low"], summary["Dice high"]) == pytest.approx((0.3, 0.9))
    assert math.isnan(summary["Lesion Precision"]) and math.isnan(summary["NSD 2 mm"])
    assert summary["Volume ml"] == 3


def test_class_all_is_the_mean_over_classes_and_comes_first():
    classes = [
        case_row("A_1", 0.2, "infarct", Labels="3"),
        case_row("A_1", 0.6, "no-reflow", Labels="4", **{"Lesion Precision": 0.5}),
    ]
    merged = results.mean_over_classes(classes)
    assert (merged["Class"], merged["Labels"], merged["Case"]) == ("all", "3 4", "A_1")
    assert (merged["Dice"], merged["Lesion Precision"]) == (pytest.approx(0.4), 0.5)
    assert list(merged) == list(classes[0])
    table = results.summarise([*classes, merged])
    assert [row["Class"] for row in table] == ["all", "infarct", "no-reflow"]
    assert [row["Dice"] for row in table] == pytest.approx([0.4, 0.2, 0.6])


def test_rows_are_added_in_order_and_replaced_in_place(tmp_path):
    path = tmp_path / "new" / "results.csv"
    for experiment in ("P", "P+N'", 'odd, "name"'):
        results.append_rows(path, [result_row(experiment)])
    results.append_rows(path, [result_row("P", model="nnUNet")])
    results.append_rows(path, [result_row("P", 0.7, "all"), result_row("P", 0.8, "infarct")])
    results.append_rows(path, [result_row("P+N'", 0.9)])
    assert names(path) == [
        ("P", "UNet", "all", 0.7),
        ("P", "UNet", "infarct", 0.8),
        ("P+N'", "UNet", "all", 0.9),
        ('odd, "name"', "UNet", "all", 0.5),
        ("P", "nnUNet", "all", 0.5),
    ]
    # a run with fewer classes leaves no class of the former one
    results.append_rows(path, [result_row("P", 0.1)])
    assert names(path)[:2] == [("P", "UNet", "all", 0.1), ("P+N'", "UNet", "all", 0.9)]
    assert [p.name for p in path.parent.iterdir()] == ["results.csv"]


def test_columns_that_only_some_rows_have_stay_empty(tmp_path):
    path = tmp_path / "results.csv"
    results.append_rows(path, [result_row("P", **{"NSD 1 mm": 0.25})])
    results.append_rows(path, [result_row("Q", **{"NSD 5 mm": NAN, "Lesion F1": 1 / 3})])
    first, second = results.read_results(path)
    assert first["NSD 1 mm"] == 0.25 and math.isnan(first["Lesion F1"]) and first["n"] == 3
    assert math.isnan(second["NSD 1 mm"]) and second["Lesion F1"] == pytest.approx(1 / 3, abs=1e-6)
    assert path.read_text().splitlines()[0].startswith("Experiment Name,Model,Dice,Dice Unit,Class,n")


def test_dice_is_in_percent_in_the_file_and_a_share_in_memory(tmp_path):
    path = tmp_path / "results.csv"
    ends = {"Dice low": 0.25, "Dice high": NAN, "NSD 1 mm": 0.5}
    results.append_rows(path, [result_row("P", 0.75, **ends)])
    (line,) = path.read_text().splitlines()[1:]
    assert line == "P,UNet,75,percent,all,3,25,,0.5"
    (row,) = results.read_results(path)
    assert (row["Dice"], row["Dice low"], row["NSD 1 mm"]) == (0.75, 0.25, 0.5)
    assert math.isnan(row["Dice high"]) and "Dice Unit" not in row
    cases = results.write_cases(path, [case_row("A_1", 0.75)])
    assert ",share," in cases.read_text() and ",0.75," in cases.read_text()
    assert results.read_cases(path, "P", "UNet")[0]["Dice"] == 0.75
    path.write_text(path.read_text().replace("percent", "promille"))
    with pytest.raises(ValueError, match="line 2: Dice Unit is 'promille', not percent or share"):
        results.read_results(path)


def test_a_table_of_an_earlier_version_holds_shares_and_is_converted(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("Experiment Name,Model,Dice,Class,n\nold,UNet,0.5,all,3\n")
    assert names(path) == [("old", "UNet", "all", 0.5)]
    results.append_rows(path, [result_row("new", 0.25)])
    assert path.read_text().splitlines() == [
        "Experiment Name,Model,Dice,Dice Unit,Class,n",
        "old,UNet,50,percent,all,3",
        "new,UNet,25,percent,all,3",
    ]
    assert names(path) == [("old", "UNet", "all", 0.5), ("new", "UNet", "all", 0.25)]


def test_processes_may_append_at_once(tmp_path):
    path = tmp_path / "results.csv"
    threads = [
        threading.Thread(target=results.append_rows, args=(path, [result_row(f"E{i}")])) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name for name, *_ in names(path)) == sorted(f"E{i}" for i in range(12))


GOOD = "Experiment Name,Model,Class,n,Dice\nP,UNet,all,3,0.5\n"


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "lacks the columns Experiment Name, Model, Class"),
        ("Experiment,Model,Dice\nP,UNet,0.5\n", "lacks the columns Experiment Name, Class"),
        ("Experiment Name,Model,Class,n\n", "has no rows"),
        (GOOD + "P,UNet,all\n", "line 3: has not 5 cells"),
        (GOOD + "P,UNet,all,3,0.5,9\n", "line 3: has not 5 cells"),
        (GOOD.replace("0.5", "half"), "line 2: Dice is 'half', not a number"),
        (GOOD.replace("3", ""), "line 2: n must be the number of cases"),
        (b"\xff\xfe\x00P", "is not a CSV table"),
    ],
)
def test_a_file_that_is_no_table_is_named_and_kept(tmp_path, content, message):
    path = tmp_path / "results.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    for use in (results.read_results, lambda p: results.append_rows(p, [result_row("P")])):
        with pytest.raises(ValueError, match="results.csv.*" + message):
            use(path)
    assert path.read_bytes() == before


def test_missing_tables(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv: no such file; run run_segmentation_evaluation"):
        results.read_results(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match="none_cases/P_UNet.csv: no such file"):
        results.read_cases(tmp_path / "none.csv", "P", "UNet")


def test_cases_are_read_as_written(tmp_path):
    table = tmp_path / "results.csv"
    rows = [case_row("A_1", 0.25), case_row("B_1", 1 / 3, Image="/with, comma")]
    path = results.write_cases(table, rows)
    assert path == tmp_path / "results_cases" / "P_UNet.csv"
    read = results.read_cases(table, "P", "UNet")
    assert [row["Dice"] for row in read] == pytest.approx([0.25, 1 / 3], abs=1e-6)
    assert math.isnan(read[0]["Lesion Precision"]) and read[1]["Image"] == "/with, comma"


def test_names_of_experiments_become_names_of_files(tmp_path):
    table = tmp_path / "results.csv"
    assert results.cases_path(table, "P+P'+N' (copy)", "UNet").name == "P+P'+N' (copy)_UNet.csv"
    tricky = ("../up", "a/b", "a%2Fb", "ä:b")
    for name in tricky:
        path = results.write_cases(table, [case_row("A_1", 0.5, experiment=name)])
        assert path.parent == tmp_path / "results_cases"
    for name in tricky:
        assert results.read_cases(table, name, "UNet")[0]["Experiment Name"] == name


def test_two_experiments_of_one_file_are_refused(tmp_path):
    table = tmp_path / "results.csv"
    results.write_cases(table, [case_row("A_1", 0.5, experiment="a_b", model="c")])
    with pytest.raises(ValueError, match="holds the cases of a_b / c, not of a / b_c"):
        results.write_cases(table, [case_row("A_1", 0.9, experiment="a", model="b_c")])
    assert results.read_cases(table, "a_b", "c")[0]["Dice"] == 0.5
    results.write_cases(table, [case_row("A_1", 0.6, experiment="a_b", model="c")])
    assert results.read_cases(table, "a_b", "c")[0]["Dice"] == 0.6


def test_numbers_as_text():
    assert results.number_text("Dice", 0.81249) == "0.812"
    assert results.number_text("NSD 1 mm", 0.5) == "0.500"
    assert results.number_text("HD95 mm", 3.14159) == "3.14"
    assert results.number_text("Volume Error % of Myocardium", 12.3456) == "12.35"
    assert results.number_text("Relative Volume Error", 0.12345) == "0.123"
    assert results.interval_text("Dice", 0.5, NAN, 0.75) == "0.500 [-, 0.750]"


def test_markdown():
    summary = results.summarise([case_row("A_1", 0.2), case_row("B_1", 0.4)])
    text = results.results_markdown(summary, results.metric_columns())
    assert (
        "| Dice (0 to 1)" in text
        and "P, UNet: all" in text
        and "0.300 [0.200, 0.400]" in text
        and "Precision" not in text
    )
