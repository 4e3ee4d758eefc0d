"""What lies right around a lesion: lung alone, or vessels and the wall, as beside most real nodules.

A place that is drawn in free lung, without a vessel or a wall, gives a lesion away, however it looks.
"""

from collections.abc import Sequence

import numpy as np

SHELL_MM = (0.5, 3.5)  # from the lesion's border: its own blur lies nearer
LUNG_MM = 10.0  # so far around the shell the lung is looked at
AIR_HU = -1000.0  # what is below is padding
TISSUE_HU = 50.0  # soft tissue; what is denser, by contrast medium or bone, counts as that
FILLED = 0.75  # radius of the ball of a lesion's volume over its sphere's: LIDC 0.71, small nodules more
LIKE = 10  # nodules of nearest size, of which one is drawn


def tissue_share(hu: np.ndarray, lung: np.ndarray, outside_mm: np.ndarray) -> float:
    """How much of the shell around a lesion is soft tissue, by its mean HU; nan without a shell or lung.

    hu, lung (bool), outside_mm: of one shape; outside_mm is how far a voxel's centre lies outside the border.
    0: lung as around (its median), 1: vessels and wall only. Noise may bring it below 0.
    """
    near, far = SHELL_MM
    shell = (outside_mm > near) & (outside_mm <= far)
    around = lung & (outside_mm > far) & (outside_mm <= far + LUNG_MM)
    if not shell.any() or not around.any():
        return float("nan")
    air = float(np.median(hu[around]))
    if air >= TISSUE_HU:
        return float("nan")
    return float((hu[shell].clip(AIR_HU, TISSUE_HU).mean() - air) / (TISSUE_HU - air))


def draw_tissue(
    nodules: Sequence[Sequence[float]], diameter_mm: float, at_border: bool, rank: float
) -> float:
    """The tissue_share of a real nodule of like size; rank: in 0..1, which of them.

    nodules: rows of (diameter of the sphere in mm, 1 where it reaches the lung's border, tissue_share).
    """
    diameters, borders, tissues = np.array(nodules, np.float64).T
    alike = np.flatnonzero(borders == at_border)
    apart = np.abs(np.log(diameters[alike] / diameter_mm))
    alike = alike[np.argsort(apart, kind="stable")[:LIKE]]
    return float(tissues[alike[min(int(rank * len(alike)), len(alike) - 1)]])
