"""What is refused of hearts, in one line."""

import nibabel
import numpy as np
import pytest
from painted_hearts import AFFINE, NORMAL, SICK, TEST_CASE, TEXTURE, manifest_of, stored
from refusals import assert_refused


def relabel(hearts, name, change):
    folder = hearts / ("Normal" if "_N" in name else "Pathological")
    path = folder / "labels" / f"{name}.nii.gz"
    labels = change(stored(path).copy())
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), path)
    return path


def without(label):
    return lambda labels: np.where(labels == label, 0, labels).astype(np.uint8)


def with_label_7(labels):
    labels[0, 0, 0] = 7
    return labels


def nothing_written(tmp_path):
    return not list((tmp_path / "out").rglob("*.nii.gz"))


def test_normal_hearts_need_lesions_from_somewhere(paint, hearts, tmp_path):
    path = hearts / "Normal" / "labels" / f"{NORMAL[0]}.nii.gz"
    assert_refused(paint("Normal", "types=1"), path, "no lesion voxel (label 3 or 4)")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("label, part", [(1, "cavity (label 1)"), (2, "label 2")])
def test_a_heart_without_its_parts_is_named(paint, hearts, donors, tmp_path, label, part):
    path = relabel(hearts, NORMAL[1], without(label))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1"), path, part)
    assert nothing_written(tmp_path)
    code, text, error = paint("Normal", donors, TEXTURE, "types=1", "skip_bad_cases=true")
    assert code == 0 and f"skipped: {path}" in text, error
    assert {row["case"] for row in manifest_of(tmp_path / "out")} == {NORMAL[0], NORMAL[2]}


def test_a_donor_without_cavity_is_named(paint, hearts, donors):
    path = relabel(hearts, SICK[1], without(1))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1", f"donor={SICK[1]}"), path, "cavity (label 1)")


def test_a_donor_without_lesion_is_named(paint, hearts, donors):
    path = relabel(hearts, SICK[1], lambda labels: labels.clip(0, 2))
    assert_refused(paint("Normal", donors, TEXTURE, "types=1", f"donor={SICK[1]}"), path, "no lesion voxel")


def test_unknown_labels_are_named(paint, hearts, donors, tmp_path):
    path = relabel(hearts, NORMAL[2], with_label_7)
    assert_refused(paint("Normal", donors, TEXTURE, "types=1"), path, "unknown values 7", "0, 1, 2, 3, 4")
    path = relabel(hearts, SICK[0], with_label_7)
    assert_refused(paint("Pathological", "condition=own", "types=1"), path, "unknown values 7")
    assert nothing_written(tmp_path)


def test_a_lesion_deeper_than_the_network_is_named(paint, hearts, donors):
    path = hearts / "Pathological" / "labels" / f"{SICK[0]}.nii.gz"
    result = paint("Pathological", "condition=own", "types=1", "diffusion_depth_size=2")
    assert_refused(result, path, "lesion spans (3,", "(2, 24, 24)")
    result = paint("Normal", donors, TEXTURE, "types=1", "diffusion_depth_size=1")
    assert_refused(
        result, hearts / "Normal" / "labels" / f"{NORMAL[0]}.nii.gz", "lesion spans", "(1, 24, 24)"
    )


def test_labels_in_another_order_than_in_training_are_refused(paint, save_network):
    """Infarct and no-reflow would be swapped."""
    model = save_network(
        "swapped.safetensors", in_channels=2, data_type="emidec", window="minmax", lesion_labels=[4, 3]
    )
    code, _, errors = paint("Pathological", f"model_path={model}", "condition=own", "types=1")
    assert code == 1 and errors.count("\n") == 1
    assert "trained with layout.lesion_labels=[4, 3]" in errors and "label 3 would be painted" in errors


def test_settings_that_make_no_sense_are_named(paint, hearts, donors, save_network):
    lidc = f"model_path={save_network('lidc.safetensors')}"
    result = paint("Normal", "data_type=lidc", lidc, donors, "types=1")
    assert_refused(result, "lesions_from", "layout.myocardium_label", "data_type=lidc")
    assert_refused(paint("Normal", f"donor={SICK[0]}"), f"donor={SICK[0]} needs lesions_from")
    for name in (TEST_CASE, "Case_P999"):
        assert_refused(paint("Normal", donors, f"donor={name}"), f"donor={name}", hearts / "Pathological")
    assert_refused(paint("Normal", f"lesions_from={hearts / 'none'}"), hearts / "none")
    assert_refused(paint("Normal", donors, f"donors_test_txt={hearts / 'none.txt'}"), hearts / "none.txt")
