"""What a command writes must not lie where it reads: the next run would take it for a source."""

import pytest

from LeFusion.dataset.cases import Layout, locate_folders, refuse_among_sources
from LeFusion.errors import UserError


@pytest.fixture
def sources(tmp_path):
    for name in ("Image/deep", "Mask"):
        (tmp_path / "set" / name).mkdir(parents=True)
    (tmp_path / "set/Image/deep/a_Vol_1.nii.gz").touch()
    return tmp_path / "set"


def test_the_folders_that_are_read(sources):
    both = (sources / "Image", sources / "Mask")
    assert locate_folders(sources, Layout()) == both == locate_folders(sources / "Image", Layout())
    assert locate_folders(sources, Layout(), sources / "Image/deep") == (both[0], sources / "Image/deep")


@pytest.mark.parametrize(
    "output", ["Image", "Image/Image_1", "Image/not/yet/there", "Mask/../Mask/x", "link"]
)
def test_an_output_among_the_sources_is_refused(sources, output):
    (sources / "link").symlink_to(sources / "Image/deep", target_is_directory=True)
    with pytest.raises(UserError) as refused:
        refuse_among_sources({"target": sources / output}, locate_folders(sources, Layout()))
    line = str(refused.value)
    assert line.startswith(f"target={sources / output} lies in {sources}") and "\n" not in line
    assert line.endswith("choose another target")


def test_outputs_beside_or_above_the_sources_are_none_of_them(sources, tmp_path):
    outputs = {"a": sources, "b": sources / "Images", "c": tmp_path / "elsewhere", "d": "/"}
    refuse_among_sources(outputs, [*locate_folders(sources, Layout()), None, sources / "nowhere"])
    one_image = sources / "Image/deep/a_Vol_1.nii.gz"  # of which the folder is not searched
    refuse_among_sources({"a": sources / "Image"}, [one_image])
