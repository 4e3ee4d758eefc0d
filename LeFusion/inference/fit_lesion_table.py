"""Writes the lesion textures of LIDC: real nodules by the radiologists' score for texture, with their sizes.

    python LeFusion/inference/fit_lesion_table.py lidc_nodule_histograms.csv --regions data/LIDC/Pathological

The table has a row for each nodule: name, patient, volume_mm3, texture (1 to 5) and h00 to h15, taken on
native voxels under the masks of single readers. The regions have 1 mm voxels and other masks, which changes
intensities a little: nodules that are in both, test cases excepted, give a straight line from one to the
other. Patients of test cases are left out.
"""

import argparse
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from LeFusion.textures.realistic import LesionTable, write_lesion_table

CLASSES = {"ground-glass": (1, 2), "part-solid": (3, 4), "solid": (5,)}
WINDOW, BINS = (-1000.0, 400.0), 16
EDGES = np.linspace(*WINDOW, BINS + 1)
RANKS = (np.arange(1000) + 0.5) / 1000


def quantiles(shares: np.ndarray) -> np.ndarray:
    """(bins,) -> HU at RANKS, intensities being even within a bin."""
    return np.interp(RANKS, np.concatenate([[0.0], np.cumsum(shares / shares.sum())]), EDGES)


def line_to_regions(table: pd.DataFrame, histograms: np.ndarray, regions: Path, test: set[str]) -> np.ndarray:
    """Slope and intercept, HU of the table -> HU of the regions."""
    pairs = []
    for row, shares in zip(table.itertuples(), histograms, strict=True):
        name = row.name.replace("_R_", "_Vol_")
        image, mask = (
            regions / kind / f"{name.replace('Vol', part)}.nii.gz"
            for kind, part in (("Image", "Vol"), ("Mask", "Mask"))
        )
        if name in test or not image.exists():
            continue
        inside = np.asarray(nibabel.load(mask).dataobj) > 0
        found = np.clip(np.asarray(nibabel.load(image).dataobj)[inside], *WINDOW)
        pairs.append((quantiles(shares), np.quantile(found, RANKS)))
    given, wanted = (np.concatenate(values) for values in zip(*pairs, strict=True))
    print(f"{len(pairs)} nodules are in both")
    return np.polyfit(given, wanted, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path)
    parser.add_argument(
        "--regions", type=Path, required=True, help="Image/, Mask/ and test.txt of the regions"
    )
    parser.add_argument("--output", type=Path, default=Path("configs/lesion_textures/lidc.json"))
    args = parser.parse_args()
    table = pd.read_csv(args.table)
    test = set((args.regions / "test.txt").read_text().split())
    patients = {name.split("_")[0] for name in test}
    histograms = table[[f"h{i:02d}" for i in range(BINS)]].to_numpy()
    slope, intercept = line_to_regions(table, histograms, args.regions, test)
    print(f"HU of the regions = {slope:.3f} x HU of the table {intercept:+.1f}")
    kept = ~table.patient.isin(patients).to_numpy()
    moved = [np.clip(slope * quantiles(shares) + intercept, *WINDOW) for shares in histograms[kept]]
    kinds = [
        next(i for i, scores in enumerate(CLASSES.values()) if score in scores)
        for score in table.texture[kept]
    ]
    lesions = LesionTable(
        data_type="lidc",
        window=WINDOW,
        bins=BINS,
        voxels=f"native, brought to 1 mm regions by HU x {slope:.3f} {intercept:+.1f}",
        masks="one reader each",
        source="LIDC-IDRI (Armato et al., Medical Physics 38(2), 2011; CC BY 3.0), no test patient",
        textures=tuple(CLASSES),
        texture=np.array(kinds),
        volume_mm3=table.volume_mm3[kept].to_numpy(),
        histograms=np.stack([np.histogram(values, EDGES)[0] / len(values) for values in moved]),
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_lesion_table(args.output, lesions)
    print(f"wrote {kept.sum()} nodules of {table.patient[kept].nunique()} patients to {args.output}")


if __name__ == "__main__":
    main()
