"""Hands the masks to LeFusion, which paints into the scans under them."""

from pathlib import Path

from DiffMask.inference.plan import Draft
from LeFusion.dataset.scans import stem
from LeFusion.errors import UserError
from LeFusion.inference import inference as painting
from LeFusion.runtime.commandline import say
from LeFusion.runtime.processes import Share
from LeFusion.settings import InferenceSettings


def refuse_others(output_dir: Path, names: set[str], starts: tuple[str, ...]) -> None:
    """Painting takes all masks of the folder, so those of another run must not be among them.

    starts: how names of masks begin that other processes of this run make.
    """
    for path in sorted((output_dir / "Mask").glob("*.nii*")):
        name = stem(path.name)
        if name not in names and not name.startswith(".") and not name.startswith(starts or "/"):
            raise UserError(
                f"{path} is not of this run and would be painted; move it away, or give another output_dir"
            )


def forget_painted(output_dir: Path, draft: Draft) -> None:
    """What was painted under an earlier mask of this name would be kept under the new one."""
    for path in (output_dir / "Painted" / "Image").glob("Image_*/*"):
        if stem(path.name) == draft.name:
            path.unlink()


def paint(settings: InferenceSettings, share: Share) -> None:
    """Paints as these settings of LeFusion's inference say; each process of the launch a share of it."""
    share.gather([])  # until all masks are there
    say(f"painting below {settings.target_img_path}")
    try:
        painting.run(settings)
    except UserError as error:
        raise UserError(f"the masks are in {settings.mask_dir}, but painting failed: {error}") from error
