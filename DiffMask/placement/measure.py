"""Measure where real lesions lie: writes lidc.json and emidec.json in statistics/.

python DiffMask/placement/measure.py --nodules data/LIDC/Nodules --lidc data/LIDC/Pathological \
    --emidec data/EMIDEC/Pathological --emidec-test configs/splits/emidec_test.txt

Nodules: what data/prepare_lidc_masks.py makes. Training cases only. Numbers only, no voxels.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy import ndimage

from DiffMask.placement.lungs import depth_mm, lung_mask
from DiffMask.placement.sectors import DEEPEST
from DiffMask.placement.spheres import sphere_around
from DiffMask.placement.surroundings import tissue_share
from LeFusion.data_types import load_data_type
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.cases import Layout, find_cases
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import on_grid_of
from LeFusion.hearts.transfer import Anatomy, septal_angle, wall_coordinates

ISOTROPIC = (1.0, 1.0, 1.0)
EMIDEC = load_data_type("emidec").layout
HEART = Anatomy(EMIDEC.cavity_label, EMIDEC.myocardium_label)
ARCS = 72  # columns of 5 degrees round the heart
SEEN = 0.93  # of the widest arc of a sector of sector_mask: its ends are thinner than a voxel
DEEPER = 0.87  # the waves of a sector's border let it come out so much deeper, one over this
LEAST_SHARE = 0.1  # of the wall in an arc: with less, the arc does not count
LIDC_SOURCE = (
    "LIDC-IDRI (TCIA), CC BY 3.0: Armato SG et al., The Lung Image Database Consortium (LIDC) and Image "
    "Database Resource Initiative (IDRI), Medical Physics 38(2), 2011. "
)
EMIDEC_SOURCE = (
    "EMIDEC, CC BY-NC-SA 4.0, non-commercial: Lalande A et al., Emidec: A Database Usable for the Automatic "
    "Evaluation of Myocardial Infarction from Delayed-Enhancement Cardiac MRI, Data 5(4):89, 2020. "
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("nodules", "lidc", "emidec", "emidec-test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    write("lidc", measure_lidc(options.nodules, options.lidc))
    write("emidec", measure_emidec(options.emidec, options.emidec_test))


def measure_lidc(nodules_dir: Path, regions_dir: Path) -> dict:
    """Diameters of nodules and of the spheres around them, and the spheres' distance to the lung's border."""
    diameters, spheres = [], []
    for case in find_cases(nodules_dir / "Mask", Layout("Mask", "Mask", ()), split="all"):
        if case.name.replace("_Mask_", "_Vol_") in test_names(nodules_dir):
            continue
        mask = read_volume(case.mask_path).labels > 0
        diameters.append((6 * mask.sum() / np.pi) ** (1 / 3))
        spheres.append(sphere_around(mask, ISOTROPIC).diameter_mm)
    radii, depths, reach, tissues = [], [], [], []
    for case in find_cases(regions_dir, Layout(), regions_dir / "test.txt", "train"):
        hu, lesion = read_volume(case.image_path).values, read_volume(case.mask_path).labels > 0
        lung = lung_mask(hu, ISOTROPIC, lesion)
        sphere = sphere_around(lesion, ISOTROPIC)
        radii.append(sphere.diameter_mm / 2)
        depths.append(depth_mm(lung, ISOTROPIC)[tuple(np.rint(sphere.centre_dhw).astype(int))])
        # How far one can see: up to the first and last slice
        reach.append(min(sphere.centre_dhw[0] + 0.5, lesion.shape[0] - 0.5 - sphere.centre_dhw[0]))
        tissues.append(tissue_share(hu, lung, ndimage.distance_transform_edt(~lesion) - 0.5))
    radii, depths, reach, tissues = map(np.array, (radii, depths, reach, tissues))
    seen = depths <= reach
    at_border = seen & (depths <= radii)
    clear = ~at_border & (reach > radii)
    distances = np.where(seen, depths, reach)[clear] - radii[clear]
    quantiles, known = censored_quantiles(distances, seen[clear], 21)
    return {
        "source": LIDC_SOURCE
        + "Diameters: the consensus masks of data/prepare_lidc_masks.py, training part. "
        "Distances, and diameters in regions: the training regions of LIDC/Pathological, lungs by "
        "DiffMask.placement.lungs.lung_mask.",
        "diameter_mm": {
            "of": "the ball of a nodule's volume",
            "count": len(diameters),
            "quantiles": evenly(diameters, 51),
        },
        "sphere_diameter_mm": {
            "of": "twice the distance from a nodule's centroid to its farthest voxel, at least 2",
            "count": len(spheres),
            "quantiles": evenly(np.maximum(spheres, 2), 51),
        },
        "region_sphere_diameter_mm": {
            "of": "the same of the lesions in the training regions of LIDC/Pathological",
            "count": len(radii),
            "quantiles": evenly(2 * radii, 51),
        },
        "border": {
            "of": "the sphere around a lesion to the border of the lung",
            "count": int((at_border | clear).sum()),
            "share_at_border": round(float(at_border.sum() / (at_border | clear).sum()), 3),
            "depth_at_border_radii": {
                "of": "depth of the centre in radii, of spheres that reach the border",
                "count": int(at_border.sum()),
                "quantiles": evenly((depths / radii)[at_border], 21),
            },
            "share_known": round(known, 3),
            "distance_mm": {
                "of": "the other spheres; Kaplan-Meier, as the regions end 16 mm above and below most "
                "lesions; the deepest, all but share_known, lie deeper than the last quantile",
                "count": int(clear.sum()),
                "quantiles": quantiles,
            },
        },
        "surroundings": {
            "of": "each of the training regions: diameter in mm of the sphere around the lesion, 1 where the "
            "sphere reaches the border of the lung, and DiffMask.placement.surroundings.tissue_share",
            "count": len(radii),
            "nodules": sorted(
                [round(2 * float(radius), 1), int(depth <= radius), round(float(tissue), 3)]
                for radius, depth, tissue in zip(radii, depths, tissues, strict=True)
            ),
        },
    }


def test_names(nodules_dir: Path) -> set[str]:
    return set((nodules_dir / "test.txt").read_text().split())


def censored_quantiles(distances: np.ndarray, seen: np.ndarray, count: int) -> tuple[list[float], float]:
    """Evenly spaced quantiles of what is known of a distribution, and how much of it that is.

    A distance that is not seen is only known to be larger. Kaplan-Meier estimate.
    """
    order = np.lexsort((~seen, distances))
    survival, places, shares = 1.0, [0.0], [0.0]
    for rank, index in enumerate(order):
        if seen[index]:
            survival *= 1 - 1 / (len(order) - rank)
            places.append(float(distances[index]))
            shares.append(1 - survival)
    known = shares[-1]
    return [round(float(q), 2) for q in np.interp(np.linspace(0, known, count), shares, places)], known


def measure_emidec(root_dir: Path, test_txt: Path) -> dict:
    """One line of numbers for each infarct, in no order; see DiffMask.placement.sectors.Sector."""
    infarcts = []
    for case in find_cases(root_dir, EMIDEC, test_txt, "train"):
        scan = read_volume(case.image_path)
        axes = Axes.of(scan, EMIDEC)
        labels, image = (
            axes.to_dhw(on_grid_of(read_volume(case.mask_path), scan).labels),
            axes.to_dhw(scan.values),
        )
        septum = septal_angle(image, labels, HEART, EMIDEC.lesion_labels)
        infarcts.append(measure_infarct(labels, septum))
    infarcts.sort(key=lambda row: tuple(row.values())[:3])
    return {
        "source": EMIDEC_SOURCE
        + "Measured on the labels of the training cases of EMIDEC/Pathological; angles "
        "from the septum by LeFusion.hearts.transfer.septal_angle.",
        "infarcts": infarcts,
    }


def measure_infarct(labels_dhw: np.ndarray, septum: float) -> dict[str, float]:
    """The numbers of a Sector with the infarct's largest arc and its mean share of the wall."""
    wall = wall_coordinates(labels_dhw, HEART, EMIDEC.lesion_labels)
    infarct = np.isin(labels_dhw, EMIDEC.lesion_labels) & np.isfinite(wall.angle)
    shares = wall_shares(wall, infarct)
    held = shares > LEAST_SHARE
    held = held if held.any() else shares > 0
    slices = round(0.5 / np.nanmin(wall.height))
    core = infarct & (labels_dhw == EMIDEC.lesion_labels[-1])
    direction = np.angle(np.exp(1j * wall.angle[infarct]).mean()) - septum
    return {
        "angle_deg": round(float(np.degrees(np.angle(np.exp(1j * direction))))),
        "half_angle_deg": round(min(float(held.sum(axis=1).max() * 180 / ARCS / SEEN), 180), 1),
        "transmurality": round(DEEPER * middle_of(float(shares[held].mean())), 2),
        "low": round(float(wall.height[infarct].min() - 0.5 / slices), 2),
        "high": round(float(wall.height[infarct].max() + 0.5 / slices), 2),
        "no_reflow_share": round(float((labels_dhw[infarct] == 4).mean()), 3),
        "no_reflow_depth": round(float(wall.depth[core].mean()), 2) if core.any() else None,
    }


def middle_of(mean: float) -> float:
    """The share of the wall in the middle of a sector of sector_mask, from its mean over the arcs that count.

    Over a sector 1 - r^2 is even in (0, 1), so the mean of min(1, t (1 - r^2)) where that is above a =
    LEAST_SHARE is (t + a) / 2 or, above t = 1, (1 - (1 + a^2) / (2 t)) / (1 - a / t).
    """
    a = LEAST_SHARE
    middle = 2 * mean - a
    if middle > 1:
        middle = ((1 + a**2) / 2 - a * mean) / max(1 - mean, 1e-9)
    return min(max(middle, a), DEEPEST)


def wall_shares(wall, infarct: np.ndarray) -> np.ndarray:
    """How much of the wall is infarct in each slice and arc of 5 degrees: (D, ARCS)."""
    shares = np.zeros((len(infarct), ARCS))
    for z in range(len(infarct)):
        inside = np.isfinite(wall.angle[z])
        arc = (np.floor(wall.angle[z][inside] / (2 * np.pi) * ARCS).astype(int)) % ARCS
        total = np.bincount(arc, minlength=ARCS)
        shares[z] = np.bincount(arc, infarct[z][inside], minlength=ARCS) / np.maximum(total, 1)
    return shares


def evenly(values, count: int) -> list[float]:
    return [round(float(q), 2) for q in np.quantile(values, np.linspace(0, 1, count))]


def write(name: str, statistics: dict) -> None:
    path = Path(__file__).with_name("statistics") / f"{name}.json"
    path.write_text(json.dumps(statistics, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
