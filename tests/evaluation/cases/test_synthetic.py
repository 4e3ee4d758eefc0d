from pathlib import Path

import pytest

from evaluation_pipeline.cases.synthetic import check_leakage, draw_synthetic, find_synthetic


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def make(folder: Path, names=("A_CVol_1", "B_Vol_2"), kinds=2, images="imagesTr", masks="labelsTr") -> Path:
    for kind in range(1, kinds + 1):
        for name in names:
            mask = name.replace("_CVol_", "_Mask_").replace("_Vol_", "_Mask_")
            touch(folder / images / f"Image_{kind}" / f"{name}.nii.gz")
            touch(folder / masks / f"Mask_{kind}" / f"{mask}.nii.gz")
    return folder


@pytest.mark.parametrize("roots", [("imagesTr", "labelsTr"), ("Image", "Mask"), (".", ".")])
def test_all_types_are_found_in_each_layout(tmp_path, roots):
    found = find_synthetic([make(tmp_path, images=roots[0], masks=roots[1])])
    assert [(image.name, image.kind) for image in found] == [
        ("A_CVol_1", 1), ("B_Vol_2", 1), ("A_CVol_1", 2), ("B_Vol_2", 2)
    ]  # fmt: skip
    assert [image.label.name for image in found[:2]] == ["A_Mask_1.nii.gz", "B_Mask_2.nii.gz"]
    assert all(image.image.exists() and image.label.exists() for image in found)


def test_other_names_are_shared_by_image_and_mask(tmp_path):
    (image,) = find_synthetic([make(tmp_path, ["Case_N006"], kinds=1)])
    assert image.label.name == "Case_N006.nii.gz" and image.patients == {"Case_N006"}


def test_several_folders_come_in_their_order(tmp_path):
    folders = [make(tmp_path / "b", ["X_Vol_1"], 1), make(tmp_path / "a", ["Y_Vol_1"], 1)]
    assert [image.name for image in find_synthetic(folders)] == ["X_Vol_1", "Y_Vol_1"]
    assert find_synthetic([]) == []


def test_incomplete_folders_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_synthetic([tmp_path / "absent"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty.*no synthetic images"):
        find_synthetic([tmp_path / "empty"])
    folder = make(tmp_path / "made")
    mask = folder / "labelsTr/Mask_2/B_Mask_2.nii.gz"
    mask.unlink()
    with pytest.raises(FileNotFoundError, match="B_Vol_2.nii.gz: its mask .*Mask_2/B_Mask_2.nii.gz is miss"):
        find_synthetic([folder])
    touch(mask)
    (folder / "imagesTr/Image_1/A_CVol_1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="Mask_1/A_Mask_1.nii.gz: has no image"):
        find_synthetic([folder])


def test_images_made_from_test_cases_are_an_error(tmp_path):
    found = find_synthetic([make(tmp_path)])
    with pytest.raises(ValueError, match="B_Vol_2.nii.gz: was made from a test case.*patients B.*test_txt"):
        check_leakage(found, ["A_Vol_9"], ["B_Vol_7"])  # another scan of the same patient


def test_images_made_from_validation_cases_are_left_out(tmp_path):
    kept, left_out = check_leakage(find_synthetic([make(tmp_path)]), ["A_Vol_9"], ["C_Vol_1"])
    assert {image.name for image in kept} == {"B_Vol_2"}
    assert {image.name for image in left_out} == {"A_CVol_1"} and len(left_out) == 2


def test_the_donor_of_a_lesion_counts_as_its_source(tmp_path):
    folder = make(tmp_path, kinds=1)
    manifest = folder / "imagesTr/manifest.csv"
    manifest.write_text("case,type,donor\nA_CVol_1,1,T_Vol_1\nB_Vol_2,1,\n")
    found = find_synthetic([folder])
    assert found[0].patients == {"A", "T"} and found[1].patients == {"B"}
    with pytest.raises(ValueError, match="patients T"):
        check_leakage(found, [], ["T_Vol_3"])
    assert [image.name for image in check_leakage(found, ["T_Vol_3"], [])[0]] == ["B_Vol_2"]
    manifest.write_text("case,type\nA_CVol_1,1\n")
    with pytest.raises(ValueError, match="manifest.csv: needs columns case, type and donor"):
        find_synthetic([folder])


def test_the_manifest_is_read_by_case_names_without_the_channel(tmp_path):
    folder = make(tmp_path, ["N0"], kinds=1)
    image = folder / "imagesTr/Image_1/N0.nii.gz"
    image.rename(image.with_name("N0_0000.nii.gz"))  # nnU-Net's layout
    (folder / "imagesTr/manifest.csv").write_text("case,type,donor\nN0_0000,1,T_Vol_1_0000\n")
    (found,) = find_synthetic([folder])
    assert (found.name, found.patients) == ("N0", {"N0", "T"})


def test_an_image_that_the_manifest_lacks_is_refused(tmp_path):
    folder = make(tmp_path)
    (folder / "imagesTr/manifest.csv").write_text(
        "case,type,donor\nA_CVol_1,1,\nB_Vol_2,1,\nB_Vol_2,2,T_Vol_1\n"
    )
    with pytest.raises(ValueError, match="Image_2/A_CVol_1.nii.gz: .*manifest.csv has no row.*generate it"):
        find_synthetic([folder])


def test_masks_may_carry_the_names_of_their_images(tmp_path):
    """As nnU-Net's layout has them."""
    image = touch(tmp_path / "imagesTr/Image_1/A_Vol_1_0000.nii.gz")
    label = touch(tmp_path / "labelsTr/Mask_1/A_Vol_1.nii.gz")
    (found,) = find_synthetic([tmp_path])
    assert (found.name, found.image, found.label) == ("A_Vol_1", image, label)


def test_draws_are_nested_seeded_and_bounded(tmp_path):
    found = find_synthetic([make(tmp_path, [f"P{i}_Vol_1" for i in range(10)], 3)])
    small, large = draw_synthetic(found, 5, 1), draw_synthetic(found, 12, 1)
    assert len(set(small)) == 5 and set(small) < set(large)
    assert draw_synthetic(found, 5, 2) != small
    assert draw_synthetic(found, 30, 1) == found
    with pytest.raises(ValueError, match="asks for 31 synthetic images but only 30"):
        draw_synthetic(found, 31, 1)
