"""Makes a small file for distribution of a training checkpoint: the moving average only, in half precision.

python LeFusion/train/export.py runs/lidc/model-003600.safetensors lidc_small.safetensors
"""

from pathlib import Path

import torch

from LeFusion.dataset.storage import atomic_file
from LeFusion.diffusion import NoiseSchedule, load_checkpoint, save_checkpoint
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, run_command
from LeFusion.settings import LARGEST_MARGIN_MM


def export(
    source: Path,
    target: Path,
    intensity_guidance: float | None = None,
    soft_edge_mm: float | None = None,
    guided_signal: float | None = None,
    num_steps: int | None = None,
    edit_margin_mm: float | None = None,
) -> None:
    """intensity_guidance, soft_edge_mm, num_steps (of sampler=ddim), edit_margin_mm: what inference uses with
    these weights unless told otherwise. guided_signal: until when it guides, see SamplerSettings. None: as
    the source says.

    Raises ValueError or FileNotFoundError where the source is not a checkpoint with moving average, or for a
    guidance outside 0 to 1, an edge outside 0 to LARGEST_MARGIN_MM, more steps than the training had or a
    margin that it did not have."""
    checkpoint = load_checkpoint(source, "ema")
    metadata = {key: value for key, value in checkpoint.metadata.items() if key not in ("format", "weights")}
    if intensity_guidance is not None:
        if not 0 <= intensity_guidance <= 1:
            raise UserError(f"--intensity-guidance {intensity_guidance} must be a number from 0 to 1")
        metadata["intensity_guidance"] = intensity_guidance
    if edit_margin_mm is not None:
        least, most = metadata.get("edit_margins_mm", [metadata.get("edit_margin_mm", 0)] * 2)
        if edit_margin_mm and not least <= edit_margin_mm <= most:
            raise UserError(
                f"{source}: was trained with rims of {least:g} to {most:g} mm, so --edit-margin-mm "
                f"{edit_margin_mm:g} must be one of them, or 0"
            )
        metadata["edit_margin_mm"] = edit_margin_mm
    if soft_edge_mm is not None:
        if not 0 <= soft_edge_mm <= LARGEST_MARGIN_MM:
            raise UserError(f"--soft-edge-mm {soft_edge_mm} must be a number from 0 to {LARGEST_MARGIN_MM}")
        if soft_edge_mm and metadata.get("edit_margin_mm"):
            raise UserError(f"{source}: paints a rim itself, so soft_edge_mm={soft_edge_mm:g} must be 0")
        metadata["soft_edge_mm"] = soft_edge_mm
    if guided_signal is not None:
        if not 0 < guided_signal <= 1:
            raise UserError(f"--guided-signal {guided_signal} must be a number above 0, up to 1")
        metadata["guided_signal"] = guided_signal
    if num_steps is not None:
        most = NoiseSchedule.of(metadata["schedule"]).num_steps
        if not 1 <= num_steps <= most:
            raise UserError(f"--num-steps {num_steps} must be from 1 to {most}, the levels of the training")
        metadata["num_steps"] = num_steps
    with atomic_file(target) as temporary:
        save_checkpoint(temporary, metadata, torch.float16, ema=checkpoint.network)
    size_mb = target.stat().st_size / 1e6
    print(f"wrote {target} ({size_mb:.1f} MB): step {metadata['step']}, moving average, float16")


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("source", type=Path, help="a checkpoint of a training run")
    parser.add_argument("target", type=Path, help="the .safetensors file to write")
    parser.add_argument(
        "--intensity-guidance",
        type=float,
        help="what inference uses by default (0 to 1; default: as in the source, 0 where it says nothing)",
    )
    parser.add_argument("--soft-edge-mm", type=float, help="likewise (at least 0; default: as in the source)")
    parser.add_argument(
        "--guided-signal",
        type=float,
        help="share of signal in the variance until which it guides (default: as in the source)",
    )
    parser.add_argument("--num-steps", type=int, help="of sampler=ddim (default: as in the source)")
    parser.add_argument(
        "--edit-margin-mm", type=float, help="width of the rim that is painted (default: the widest trained)"
    )
    arguments = parser.parse_args()
    run_command(lambda: export(**vars(arguments)))


if __name__ == "__main__":
    main()
