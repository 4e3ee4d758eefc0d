"""Insertion that is killed at its worst moments goes on to the same files."""

import kills

from LeFusion.insertion.run import run

MOMENTS = {
    "between the temporary file and its name": lambda: kills.at_rename("image.nii.gz"),
    "between the image and its labels": lambda: kills.at_rename("image.nii.gz", after=True),
    "before the report that says all is there": lambda: kills.at_rename("report.json"),
}


def test_killed_insertion_goes_on_to_the_same_files(chest, settings, tmp_path, files, in_child):
    given = {"input": chest(), "lesions": 1, "diameter_mm": 5}

    def insert(folder):
        run(settings(**given, output=folder))

    insert(tmp_path / "unbroken")
    unbroken = files(tmp_path / "unbroken")
    for moment, folder in kills.each_resumed(MOMENTS, insert, tmp_path, in_child):
        broken = files(folder)
        assert sorted(broken) == sorted(unbroken), moment  # nothing is left over
        for name in unbroken:  # the report holds seconds and memory
            assert broken[name] == unbroken[name] or name.endswith("report.json"), (moment, name)
