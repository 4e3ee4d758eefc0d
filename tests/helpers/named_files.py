"""Data sets of empty files: the finder looks at names only."""

from LeFusion.dataset.cases import Layout

LIDC = Layout()
EMIDEC = Layout(
    image_folder="images",
    mask_folder="labels",
    mask_names=(),
    lesion_labels=(3, 4),
    other_labels=(1, 2),
    depth_axis=2,
)
NNUNET = Layout(
    image_folder="imagesTr",
    mask_folder="labelsTr",
    mask_names=[["_0000", ""]],
    output_mask_infix="",
    lesion_labels=[2],
    other_labels=[1],
    reference_label=1,
    depth_axis=2,
)


def make(root, *names):
    """Empty files of these names below a folder, which is returned."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def make_lidc(folder):
    """Three images with their masks."""
    return make(
        folder / "Pathological",
        "Image/B_Vol_2.nii.gz",
        "Image/A_Vol_1.nii.gz",
        "Image/C_CVol_1.nii",
        "Mask/A_Mask_1.nii.gz",
        "Mask/B_Mask_2.nii.gz",
        "Mask/C_CMask_1.nii.gz",
    )


def names(cases):
    return [case.name for case in cases]
