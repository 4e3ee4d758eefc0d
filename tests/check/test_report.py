"""The tables count and measure; the picture shows cases with findings first."""

import nibabel
import numpy as np
import pytest
from check_data import OUTPUTS, cells, cut, image_of, mask_of, rewrite

from LeFusion.check import report as dataset_report
from LeFusion.check.facts import CaseFacts, CheckSettings, measure
from LeFusion.dataset.cases import Layout


def test_the_tables_count_and_measure(check, sick):
    rewrite(mask_of(sick, 1), lambda a: a.__setitem__((slice(None), 3, 6), 1))
    values = np.concatenate([nibabel.load(image_of(sick, n)).get_fdata().ravel() for n in range(1, 5)])
    out = check()[1]
    assert ["train", "3"] in cells(out, "Cases") and ["test", "1"] in cells(out, "Cases")
    assert ["8 x 16 x 16", "4"] in cells(out, "Geometry")
    assert ["1", "lesion 1", "4", f"{4 * 60 + 5}"] in cells(out, "Labels")
    whole = cells(out, "Intensities, HU")[2]
    assert [whole[1].replace(",", ""), whole[5]] == [f"{values.min():.0f}", f"{values.max():.4g}"]
    assert float(whole[3]) == pytest.approx(np.median(values), abs=15)
    lesions = cells(out, "Lesions")
    assert lesions[2][:5] == ["1", "4", "60", "60", "65"]
    assert ["depth", "3", "3", "8", "8", "0"] in lesions and ["any", "", "", "", "", "0"] in lesions
    used = cells(out, "Histograms of the lesions")[2]
    assert used[1] == "16 of 16" and sum(map(int, used[2].split())) == pytest.approx(100, abs=8)


def test_the_picture_has_half_of_its_rows_for_findings(lidc):
    layout = Layout()
    settings = CheckSettings(lidc, layout, (-1000, 400), 16, (8, 16, 16))
    facts = []
    for number in range(20):
        case = CaseFacts(f"c{number:02d}", image_of(lidc / "Pathological"), mask_of(lidc / "Pathological"))
        measure(case, settings)
        case.labels = {1.0: 100 - number}
        if number < 8:
            case.add("warning", "odd", "", "")
        facts.append(case)
    names = [case.name for case in dataset_report._chosen(facts, settings, 12)]
    assert len(names) == 12 and sum(name < "c08" for name in names) == 6
    assert {"c08", "c19"} <= set(names) and names == sorted(names, reverse=True)


def test_without_a_readable_image_there_is_no_picture(check, sick, tmp_path):
    assert check()[0] == 0
    for number in range(1, 5):
        cut(image_of(sick, number))
    code, out, _ = check()
    assert code == 1 and "check_dataset.png" not in out.split("## Findings")[1].split("wrote", 1)[1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == OUTPUTS[:2]
