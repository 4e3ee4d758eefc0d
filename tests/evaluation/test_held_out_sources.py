import pytest

from evaluation_pipeline.held_out_sources import held_out, main


def test_all_scans_of_a_test_patient_are_held_out():
    scans = ["A_CVol_1", "A_Vol_2", "AB_CVol_1", "B_CVol_1", "C_Vol_1_0000", "D"]
    found = held_out(scans, ["A_Vol_1.nii.gz", "C_Vol_4", "D"])
    assert found == ["A_CVol_1", "A_Vol_2", "C_Vol_1_0000", "D"]


@pytest.fixture
def call(lidc, tmp_path, capsys):
    """-> call(test names, source folder): (exit code, last line of stderr, lines of the list or None)."""

    def run(names: str, source="Normal"):
        (tmp_path / "test.txt").write_text(names)
        listed = tmp_path / "out/list.txt"
        arguments = [
            "--source_dir",
            lidc / source,
            "--test_txt_path",
            tmp_path / "test.txt",
            "--output_txt",
            listed,
        ]
        code = 0
        try:
            main(list(map(str, arguments)))
        except SystemExit as stopped:
            code = stopped.code
        err = capsys.readouterr().err.strip()
        return code, err, listed.read_text().splitlines() if listed.exists() else None

    return run


def test_the_list_names_test_cases_and_other_scans_of_their_patients(call):
    """Normal/ holds N-0001_CVol_2 to N-0003_CVol_2."""
    expected = 0, "", ["N-0002_CVol_2", "N-0002_Vol_1", "X_Vol_1"]
    assert call("X_Vol_1\n\nN-0002_Vol_1\n") == expected
    assert call("X_Vol_1\nN-0002_Vol_1", "Normal/Image") == expected


def test_nothing_left_or_nothing_there_is_an_error(call):
    code, err, listed = call("\n".join(f"N-000{n}_Vol_1" for n in (1, 2, 3)))
    assert (code, listed) == (1, None) and "all 3 scans are of patients of" in err
    code, err, listed = call("A_Vol_1", "absent")
    assert (code, listed) == (1, None) and "absent: no such folder" in err
