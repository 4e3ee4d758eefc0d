"""The YAML of a data type, by name and by path, and what is no data type."""

import pytest
import yaml

from LeFusion.data_types import data_type_names, default_settings, load_data_type
from LeFusion.dataset.cases import Layout
from LeFusion.errors import UserError

LIVER = {
    "data_type": "custom",
    "window": [-100, 250],
    "unit": "HU",
    "layout": {"image_folder": "scans", "lesion_labels": [2], "other_labels": [1], "depth_axis": 2},
}


@pytest.fixture
def own(tmp_path):
    """-> own(**changed): the path of a YAML of one's own."""

    def write(**changed):
        path = tmp_path / "liver.yaml"
        path.write_text(yaml.safe_dump(LIVER | changed))
        return path

    return write


def test_the_shipped_ones_as_commands_knew_them():
    lidc, emidec, nnunet = map(load_data_type, ("lidc", "emidec", "nnunet"))
    assert (lidc.layout, lidc.window, lidc.unit) == (Layout(), (-1000.0, 400.0), "HU")
    assert (lidc.modality, lidc.label_names, lidc.layout.known_labels) == ("CT", {"nodule": 1}, (0, 1))
    assert emidec.layout == Layout("images", "labels", (), "", (3, 4), (1, 2), 1, 2, 2, depth_axis=2)
    assert (emidec.window, emidec.fixed_window, emidec.unit) == ("minmax", None, "share of the range")
    assert emidec.label_names == {"cavity": 1, "myocardium": 2, "infarct": 3, "no-reflow": 4}
    assert (nnunet.modality, nnunet.label_names, nnunet.layout.mask_names) == (
        "CT",
        {"lesion": 1},
        (("_0000", ""),),
    )


@pytest.mark.parametrize("name", data_type_names())
def test_all_of_the_folder_load(name):
    found = load_data_type(name)
    assert found.name == name and found.painted_labels == found.layout.lesion_labels


def test_defaults_are_composed():
    ct, lidc = load_data_type("chest_ct"), load_data_type("lidc")
    assert ct.layout.orientation == "SPL" and ct.layout.mask_names == ()  # its own
    assert (ct.window, ct.label_names, ct.layout.image_folder) == (lidc.window, lidc.label_names, "Image")


def test_a_file_of_ones_own(own):
    found = load_data_type(own())
    assert (found.name, found.fixed_window, found.layout.known_labels) == (
        "liver",
        (-100.0, 250.0),
        (0, 2, 1),
    )
    assert (found.modality, found.label_names) == ("CT", {"lesion": 2, "label 1": 1})
    found = load_data_type(own(window={"percentiles": [1, 99]}, unit=None, label_names={"a": 1, "b": 2}))
    assert (found.modality, found.fixed_window, found.label_names) == ("MR", None, {"a": 1, "b": 2})
    assert load_data_type(own(defaults=["emidec"], layout={"depth_axis": 1})).layout.depth_axis == 1


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"layout": {"lesion_label": [2]}}, "layout.lesion_label: there is no such key"),
        ({"layout": None}, "layout=null must be a group of keys"),
        ({"window": 3}, "window=3 must be minmax"),
        ({"modality": "PET"}, "modality=PET must be null or one of CT, MR"),
        ({"label_names": {"tumour": 2}}, "label_names .* must name"),
        ({"label_names": {"tumour": 2, "cyst": 2, "liver": 1}}, "label_names .* must name"),
    ],
)
def test_what_is_no_data_type(own, changed, message):
    with pytest.raises(ValueError, match=f"liver.yaml: {message}"):
        load_data_type(own(**changed))


def test_an_unknown_name_lists_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such data type; give one of .*custom.*lidc"):
        load_data_type("lungs")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="bad.yaml: is no data type"):
        load_data_type(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", data_type_names())
@pytest.mark.parametrize("sampler", [None, "repaint", "dpmpp"])
def test_default_settings_are_those_that_the_command_gets(composed, name, sampler):
    overrides = [f"sampler={sampler}"] if sampler else []
    expected = composed("inference", f"data_type={name}", *overrides, "seed=5", "layout.depth_axis=1")
    found = default_settings(name, sampler, seed=5, layout={"depth_axis": 1})
    # Hydra keeps the names of a parent's labels beside new ones
    assert found.pop("label_names").items() <= expected.pop("label_names").items()
    assert found == expected


def test_an_unknown_sampler_is_refused():
    with pytest.raises(UserError, match="sampler='euler' must be one of ddim, dpmpp, repaint"):
        default_settings("lidc", "euler")
