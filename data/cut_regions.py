"""Cut normal regions out of whole chest CTs, each round a mask that marks where a lesion is to be painted.

    ./diffmask_inference.sh data_type=chest_ct dataset_root_dir=ct.nii.gz output_dir=out masks_per_scan=24
    python data/cut_regions.py --scans ct.nii.gz --masks out/Mask --out data/CT_regions
    ./lidc_inference.sh dataset_root_dir=data/CT_regions types=3

Writes Image/<scan>_CVol_<n>.nii.gz and Mask/<scan>_CMask_<n>.nii.gz, 32 x 64 x 64 voxels of 1 mm, as the
normal regions of LIDC. The mask lies in the middle, as nodules lie in the regions of Pathological; a region
is moved where the scan ends. A mask that fits no region is left out, and said.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from phantoms.volumes import write_volume
from preparation.command import finish
from preparation.dataset import SIGNS
from preparation.opened import REGION, Opened
from scipy import ndimage

from LeFusion.dataset.scans import find_scans, read_volume
from LeFusion.dataset.volume import Volume, check_same_grid
from LeFusion.errors import UserError

MASK_NAME = r"(?P<scan>.+)_GenMask_(?P<number>\d+)"


def points_of(mask_path: Path, volume: Volume, scan: Opened) -> np.ndarray:
    """The points of the grid (N, 3) in a mask on the scan's voxels: at least half mask between them."""
    stored = read_volume(mask_path)
    check_same_grid(stored, volume)
    mask = scan.axes.to_dhw(stored.values) > 0
    if not mask.any():
        raise UserError(f"{mask_path}: is empty")
    voxels = np.argwhere(mask)
    low = np.floor(scan.to_grid(voxels.min(axis=0) - 1)).astype(int).clip(0)
    high = np.minimum(np.ceil(scan.to_grid(voxels.max(axis=0) + 1)).astype(int) + 1, scan.size)
    points = np.stack(np.meshgrid(*map(np.arange, low, high), indexing="ij"), axis=-1).reshape(-1, 3)
    where = (points * scan.step_mm / scan.spacing_mm).T
    return points[ndimage.map_coordinates(mask.astype(np.float32), where, order=1) >= 0.5]


def cut(scans: Path, masks: Path, out: Path) -> None:
    """Writes the region round each mask of the scans. Raises UserError, naming the file, for what is no axial
    CT, and for masks without their scan, off its grid or empty."""
    paths = {scan.name: scan.path for scan in find_scans(scans)}
    found: dict[str, list[tuple[int, Path]]] = {}
    for mask in find_scans(masks):
        named = re.fullmatch(MASK_NAME, mask.name)
        if named is None or named["scan"] not in paths:
            raise UserError(f"{mask.path}: {scans} has no scan of it (<scan>_GenMask_<n> is its name)")
        found.setdefault(named["scan"], []).append((int(named["number"]), mask.path))
    if not found:
        raise UserError(f"{masks}: holds no masks")
    written = 0
    for name, numbered in found.items():
        scan, volume = Opened(paths[name], "1"), read_volume(paths[name])
        affine = np.diag([*scan.step_mm * SIGNS, 1.0])
        for number, path in sorted(numbered):
            points = points_of(path, volume, scan)
            start = scan.region_start(points)
            if start is None:
                print(f"left out: {path} is larger than a region", file=sys.stderr)
                continue
            mask = np.zeros(REGION, np.uint8)
            mask[tuple((points - start).T)] = 1
            write_volume(out / "Mask" / f"{name}_CMask_{number}.nii.gz", mask, affine)
            write_volume(out / "Image" / f"{name}_CVol_{number}.nii.gz", scan.region(start), affine)
            written += 1
    print(f"{out}: {written} regions of {len(found)} scans")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="cut_regions.py", description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=Path, required=True, help="a CT, or a folder of them")
    parser.add_argument(
        "--masks", type=Path, required=True, help="folder of <scan>_GenMask_<n>, on their grids"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for Image and Mask")
    options = parser.parse_args(arguments)
    return finish(parser.prog, lambda: cut(options.scans, options.masks, options.out))


if __name__ == "__main__":
    sys.exit(main())
