"""What the command says of cases that it paints all the same."""

import nibabel
import numpy as np
import pytest

from LeFusion.dataset.cases import Case, Layout
from LeFusion.dataset.loading import load_case
from LeFusion.inference.notes import Note, lung_share, notes_on, told

SHAPE, BOX = (24, 40, 40), (16, 32, 32)
THIN, THICK = (1.0, 1.0, 1.0), (4.0, 0.8, 0.8)


@pytest.fixture
def region(tmp_path):
    """-> region(hu, spacing_mm, name): lung in the rows up to 20, tissue of so many HU below; a lesion in
    either, centred on row 10 or 30."""

    def make(row=10, hu=40, spacing_mm=THIN, name="A"):
        image = np.random.default_rng(0).normal(-850, 30, SHAPE)
        image[:, 20:] += 850 + hu
        mask = np.zeros(SHAPE, np.uint8)
        mask[10:14, row - 2 : row + 2, 18:22] = 1
        paths = tmp_path / "Image" / f"{name}_CVol_1.nii.gz", tmp_path / "Mask" / f"{name}_CMask_1.nii.gz"
        for path, array in zip(paths, (image.astype(np.int16), mask), strict=True):
            path.parent.mkdir(exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing_mm, 1])), path)
        return Case(f"{name}_CVol_1", *paths)

    return make


def loaded(case, spacing_mm=None):
    return load_case(case, Layout(), (-1000, 400), spacing_mm)


def test_the_share_of_lung_beside_a_lesion(region):
    def share(**given):
        case = loaded(region(**given))
        return lung_share(case, case.all_lesions)

    assert share(row=10) > 0.9
    assert share(row=30) == 0  # soft tissue
    assert share(row=30, hu=-1024) < 0.1  # padding around the patient
    assert 0.4 < share(row=20) < 0.6  # half of it: at the pleura


def test_what_is_noted(region):
    assert notes_on(loaded(region()), BOX) == ()
    assert notes_on(loaded(region(row=20)), BOX) == ()
    case = region(row=30)
    assert notes_on(loaded(case), BOX) == (Note("outside", str(case.mask_path), "0%"),)
    thick = region(spacing_mm=THICK)
    assert notes_on(loaded(thick), BOX) == (Note("thick", str(thick.image_path), "4 x 0.8 x 0.8"),)
    assert notes_on(loaded(thick, (1, 1, 1)), (96, 32, 32)) == ()  # brought to 1 mm


def test_one_line_for_all_files_alike():
    notes = [Note("thick", f"/{n}.nii.gz", "4 x 1 x 1") for n in "bac"] * 2 + [Note("outside", "/m", "3%")]
    thick, outside = told(notes)
    assert thick.startswith("note: /a.nii.gz and 2 more: voxels of 4 x 1 x 1 mm (depth, height, width)")
    assert "spacing_mm=[1,1,1]" in thick
    assert outside.startswith("note: /m: 3% of what surrounds the mask is lung (-980 to -500 HU)")
    assert list(told([])) == []


def test_the_command_says_it_once_before_painting(region, paint, tmp_path):
    region(row=30, name="A"), region(row=30, name="B"), region(name="C")
    case = region(spacing_mm=THICK, name="D")
    code, out, error = paint(f"dataset_root_dir={tmp_path / 'Image'}", "types=2")
    assert code == 0, error
    notes = [line for line in out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2 and str(case.image_path) in notes[0]
    assert f"{tmp_path / 'Mask' / 'A_CMask_1.nii.gz'} and 1 more: 0% of what surrounds the mask" in notes[1]
    code, out, _ = paint(f"dataset_root_dir={tmp_path / 'Image'}", "types=2")
    assert code == 0 and "note: " not in out  # all is kept
