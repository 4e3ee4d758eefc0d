"""Are generated lesion masks shaped like real ones? Features of a mask, and tables of generated against real.

A mask is a bool array (D, H, W) that is not empty; `spacing_mm` is the size of its voxels. All features but
`diameter_mm` are numbers without a unit, so masks of one diameter are compared by shape alone.
"""

from functools import cache

import numpy as np
from scipy import ndimage, sparse
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist, pdist
from scipy.stats import ks_2samp
from skimage.measure import marching_cubes

from LeFusion.dataset.boxes import extent
from LeFusion.errors import UserError
from LeFusion.runtime.tables import markdown_table

ISOTROPIC = (1.0, 1.0, 1.0)
SURFACE_MM = 0.7  # sd of the smoothing of the distance map, which takes the voxels' steps off the surface
DIRECTIONS = 600  # of the radius function
MAX_DEGREE = 12  # of its spherical harmonics; 600 directions fix their 169 coefficients well
SMOOTH_DEGREE = 2  # up to here the radius function is an ellipsoid, nearly
SPIKE_DEGREE = 5  # above here a wave is shorter than a fifth of the circumference
FEATURES = (
    "sphere_share",
    "sphericity",
    "elongation",
    "flatness",
    "roughness",
    "spiculation",
    "components",
    "diameter_mm",
)
SHAPE_FEATURES = FEATURES[:-1]  # those that enter the MMD


# --- the radius function --------------------------------------------------------


def spherical_harmonics(directions: np.ndarray, max_degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Return real orthonormal harmonics (N, (max_degree + 1)^2) at unit vectors (N, 3), and their degrees."""
    cosine = np.clip(directions[:, 0], -1, 1)
    sine = np.sqrt(1 - cosine**2)
    angle = np.arctan2(directions[:, 1], directions[:, 2])
    degrees = np.repeat(np.arange(max_degree + 1), 2 * np.arange(max_degree + 1) + 1)
    harmonics = np.empty((len(directions), len(degrees)))
    first = np.full(len(directions), np.sqrt(1 / (4 * np.pi)))  # of each order m, at degree m
    for m in range(max_degree + 1):
        # The usual recurrence of the Legendre functions in their degree, each with its norm worked in
        before, wave, last_ratio = np.zeros(len(directions)), first, 0.0
        for degree in range(m, max_degree + 1):
            middle = degree * (degree + 1)  # the column of order 0; cosines lie above, sines below
            if m == 0:
                harmonics[:, middle] = wave
            else:
                harmonics[:, middle + m] = np.sqrt(2) * wave * np.cos(m * angle)
                harmonics[:, middle - m] = np.sqrt(2) * wave * np.sin(m * angle)
            ratio = np.sqrt((4 * (degree + 1) ** 2 - 1) / ((degree + 1) ** 2 - m**2))
            before, wave = wave, ratio * (cosine * wave - last_ratio * before)
            last_ratio = 1 / ratio
        first = -np.sqrt((2 * m + 3) / (2 * m + 2)) * sine * first
    return harmonics, degrees


def sphere_directions(count: int) -> np.ndarray:
    """Return unit vectors (count, 3) spread evenly over the sphere, on a Fibonacci spiral."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(count)
    ring = np.sqrt(1 - height**2)
    return np.stack([height, ring * np.sin(angle), ring * np.cos(angle)], axis=1)


@cache
def _harmonic_basis() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    directions = sphere_directions(DIRECTIONS)
    basis, degrees = spherical_harmonics(directions, MAX_DEGREE)
    return directions, basis, np.linalg.pinv(basis), degrees


def smooth_distance(mask: np.ndarray, spacing_mm=ISOTROPIC) -> tuple[np.ndarray, np.ndarray]:
    """Return a smooth signed distance to the surface in mm, positive inside, and the mask in the same box.

    The box is the mask's with a border that holds the whole surface.
    """
    mask = np.asarray(mask) > 0
    if mask.ndim != 3 or not mask.any():
        raise UserError(f"a mask of shape {mask.shape} with {mask.sum()} voxels has no shape")
    box = np.pad(mask[extent(mask).slices], 4)
    # Half a voxel lies between the centre of the outermost voxel and the surface, on either side.
    inner, outer = (ndimage.distance_transform_edt(m, sampling=spacing_mm) for m in (box, ~box))
    distance = inner - outer
    smooth = ndimage.gaussian_filter(distance, SURFACE_MM / np.array(spacing_mm))
    return (smooth if smooth.max() > 0 else distance), box  # smoothing can take all of a tiny mask


def radius_function(distance: np.ndarray, centre: np.ndarray, spacing_mm=ISOTROPIC) -> np.ndarray:
    """Return how far the surface is from `centre` (in voxels) in each of DIRECTIONS, in mm.

    Where a ray crosses the surface several times its last crossing counts; where never, 0.
    """
    directions = _harmonic_basis()[0]
    spacing = np.array(spacing_mm)
    step = spacing.min() / 4
    steps = np.arange(0, np.linalg.norm(np.array(distance.shape) * spacing), step)
    places = centre[:, None, None] + (directions / spacing).T[:, :, None] * steps
    along = ndimage.map_coordinates(distance, places, order=1, mode="constant", cval=distance.min())
    inside = along > 0
    last = along.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    last = np.minimum(last, along.shape[1] - 2)
    ray = np.arange(len(along))
    here, after = along[ray, last], along[ray, last + 1]
    share = np.clip(here / np.maximum(here - after, 1e-9), 0, 1)
    return np.where(inside.any(axis=1), steps[last] + share * step, 0.0)


# --- features -------------------------------------------------------------------


def shape_features(mask: np.ndarray, spacing_mm=ISOTROPIC) -> dict[str, float]:
    """Return FEATURES of a mask. ValueError when it is empty.

    sphere_share   volume of the mask / volume of the sphere around its centroid that just holds it
    sphericity     pi^(1/3) (6 V)^(2/3) / A of the smooth surface; 1 for a sphere, less for all else
    elongation     sqrt(second / first) principal variance; 1 when both are equal
    flatness       sqrt(third / first) principal variance
    roughness      mean |r - r_smooth| / mean r; r = distance of the surface from the centroid as a function
                   of direction, r_smooth = its spherical harmonics up to SMOOTH_DEGREE
    spiculation    square root of the share of r's energy above SPIKE_DEGREE (up to MAX_DEGREE), which is the
                   relative amplitude of its fine waves
    components     number of parts that do not touch, not even at a corner
    diameter_mm    of the sphere with the mask's volume
    """
    spacing = np.array(spacing_mm, float)
    distance, box = smooth_distance(mask, spacing_mm)
    points = np.argwhere(box)
    centre = points.mean(axis=0)

    vertices, faces, _, _ = marching_cubes(distance, 0.0, spacing=tuple(spacing))
    corners = vertices[faces] - centre * spacing
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1).sum() / 2
    volume = abs((normals * corners[:, 0]).sum()) / 6
    reach = np.linalg.norm(corners, axis=2).max()

    # Each voxel is a box of its own, whose variance is a twelfth of its squared width.
    spread = np.cov((points * spacing).T, bias=True) + np.diag(spacing**2 / 12)
    third, second, first = np.sqrt(np.linalg.eigvalsh(spread))

    _, basis, to_coefficients, degrees = _harmonic_basis()
    radius = radius_function(distance, centre, spacing_mm)
    coefficients = to_coefficients @ radius
    low = degrees <= SMOOTH_DEGREE
    rough = np.abs(radius - basis[:, low] @ coefficients[low]).mean() / radius.mean()
    energy = coefficients**2
    values = (
        volume / (4 / 3 * np.pi * reach**3),
        np.cbrt(np.pi) * (6 * volume) ** (2 / 3) / area,
        second / first,
        third / first,
        rough,
        np.sqrt(energy[degrees > SPIKE_DEGREE].sum() / energy.sum()),
        ndimage.label(box, np.ones((3, 3, 3)))[1],
        np.cbrt(6 * len(points) * spacing.prod() / np.pi),
    )
    return dict(zip(FEATURES, map(float, values), strict=True))


def longest_axial_diameter_mm(mask_dhw: np.ndarray, spacing_mm=ISOTROPIC) -> float:
    """Return the longest distance within one slice of two points of a mask's outline, over all slices.

    mask_dhw: (D, H, W) bool. The outline runs half a voxel from the centres of the outermost voxels, as of a
    surface mesh (pyradiomics: Maximum2DDiameterSlice); so a single voxel is one voxel long. ValueError when
    the mask is empty.
    """
    mask = np.asarray(mask_dhw) > 0
    if not mask.any():
        raise UserError("the mask is empty, so it has no diameter")
    longest = 0.0
    for plane in mask[mask.any(axis=(1, 2))]:
        padded = np.pad(plane, 1)
        outline = []
        for axis, side in ((0, -1), (0, 1), (1, -1), (1, 1)):
            points = np.argwhere(padded & ~np.roll(padded, -side, axis)).astype(float)
            points[:, axis] += side / 2
            outline.append(points * spacing_mm[1:])
        longest = max(longest, float(pdist(np.concatenate(outline)).max()))
    return longest


def feature_matrix(masks) -> np.ndarray:
    """Return FEATURES (N, F) of masks (an iterable) with voxels of 1 mm."""
    return np.array([list(shape_features(mask).values()) for mask in masks])


# --- two samples ----------------------------------------------------------------


def mmd(x: np.ndarray, y: np.ndarray, bandwidth: float) -> float:
    """Return the maximum mean discrepancy of samples (N, F) and (M, F) with a Gaussian kernel.

    The square root of the biased estimate (Gretton et al. 2012, eq. 5): 0 for a sample and itself, above 0
    for two samples of one distribution, by an amount that falls with their size. Compare equal sizes only.
    """
    xx, yy, xy = (
        np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2)).mean() for a, b in ((x, x), (y, y), (x, y))
    )
    return float(np.sqrt(max(xx + yy - 2 * xy, 0)))


def match_diameters(generated_mm: np.ndarray, real_mm: np.ndarray, tolerance: float = 0.1):
    """Return indices (generated, real) of pairs of like diameter; each mask is in one pair at most.

    The sum of |log ratio| over all pairs is as small as can be; then pairs whose diameters differ by more
    than the share `tolerance` are dropped. ValueError when fewer than 4 pairs are left.
    """
    ratio = np.abs(np.log(np.asarray(generated_mm)[:, None] / np.asarray(real_mm)[None]))
    generated, real = linear_sum_assignment(ratio)
    close = ratio[generated, real] <= np.log1p(tolerance)
    if close.sum() < 4:
        spans = [f"{np.min(d):.1f}-{np.max(d):.1f} mm" for d in (generated_mm, real_mm)]
        raise UserError(
            f"only {close.sum()} generated masks have the diameter of a real one within {tolerance:.0%}: "
            f"they span {spans[0]}, the real ones {spans[1]}"
        )
    return generated[close], real[close]


def _centred(masks) -> sparse.csr_array:
    """Return the masks (N, 128^3) as sparse rows, their centroids moved to the middle by whole voxels."""
    rows = []
    for mask in masks:
        points = np.argwhere(mask)
        # Not np.rint, which sends halves to even numbers: equal shapes at two places would differ.
        points = points - np.floor(points.mean(axis=0) + 0.5 + 1e-6).astype(int) + 64
        if (points < 0).any() or (points >= 128).any():
            raise UserError(f"a mask of shape {np.shape(mask)} reaches more than 64 voxels from its centroid")
        rows.append(points @ (128 * 128, 128, 1))
    starts = np.cumsum([0, *map(len, rows)])
    cells = np.concatenate(rows)
    return sparse.csr_array((np.ones(len(cells), np.float32), cells, starts), (len(rows), 128**3))


def centred_dice(masks, others) -> np.ndarray:
    """Return the Dice (N, M) of every two masks with their centroids on one another (to a whole voxel)."""
    one, other = _centred(masks), _centred(others)
    common = (one @ other.T).toarray()
    return 2 * common / (one.sum(axis=1)[:, None] + other.sum(axis=1)[None])


def pair_dice(masks, neighbours: int = 5) -> float:
    """Return the mean centred Dice of each mask with the next larger ones: high when all look alike."""
    order = np.argsort([np.count_nonzero(mask) for mask in masks], kind="stable")
    dice = centred_dice([masks[i] for i in order], [masks[i] for i in order])
    return float(np.mean([np.diagonal(dice, k).mean() for k in range(1, min(neighbours, len(dice) - 1) + 1)]))


# --- table ----------------------------------------------------------------------


def shape_table(
    generated: dict,
    real_held_out,
    training=None,
    splits: int = 50,
    seed=0,
) -> dict[str, dict[str, float]]:
    """Compare masks with real ones that were not trained on. Returns column -> measure -> value.

    generated: name -> masks, one column each. Each is matched in diameter with the held-out masks first; more
        masks than held-out ones give closer pairs.
    The column `real` is the floor: real against real.

    Measures: `n` (pairs), `<feature>` (its mean), `<feature> KS` (Kolmogorov-Smirnov statistic), `MMD` (over
    SHAPE_FEATURES standardised by the held-out masks; bandwidth = median of their distances), `pair Dice`
    (diversity: lower is more diverse) and, with `training`, `nearest training Dice` (memorisation).

    KS and MMD depend on the size of the samples. So in each of `splits` the held-out masks fall into random
    halves A and B; the floor compares A with B, a column the partners of A with B; means over the splits are
    returned.
    """
    real_held_out = list(real_held_out)
    real = feature_matrix(real_held_out)
    if len(real) < 8:
        raise UserError(f"{len(real)} held-out masks are too few for two samples")
    shape = [FEATURES.index(name) for name in SHAPE_FEATURES]
    centre, scale = real[:, shape].mean(axis=0), real[:, shape].std(axis=0)
    scale = np.where(scale > 0, scale, 1)
    bandwidth = float(np.median(pdist((real[:, shape] - centre) / scale)))
    training = None if training is None else list(training)

    table = {}
    for name, masks in {"real": real_held_out, **generated}.items():
        masks = list(masks)
        if name == "real":
            features, partners, here = real, real, masks
        else:
            features = feature_matrix(masks)
            chosen, matched = match_diameters(features[:, -1], real[:, -1])
            features, partners, here = features[chosen], real[matched], [masks[i] for i in chosen]
        column = {"n": len(here)} | dict(zip(FEATURES, features.mean(axis=0).tolist(), strict=True))
        rng = np.random.default_rng(seed)
        statistics = []
        for _ in range(splits):
            order = rng.permutation(len(here))
            a, b = features[order[: len(here) // 2]], partners[order[len(here) // 2 : len(here) // 2 * 2]]
            standard = [(half[:, shape] - centre) / scale for half in (a, b)]
            ks = [ks_2samp(a[:, k], b[:, k], method="asymp").statistic for k in range(len(FEATURES))]
            statistics.append([*ks, mmd(*standard, bandwidth)])
        labels = [*(f"{feature} KS" for feature in FEATURES), "MMD"]
        column |= dict(zip(labels, np.mean(statistics, axis=0).tolist(), strict=True))
        column["pair Dice"] = pair_dice(here)
        if training is not None:
            column["nearest training Dice"] = float(centred_dice(here, training).max(axis=1).mean())
        table[name] = column
    return table


def markdown(table: dict[str, dict[str, float]]) -> str:
    """Return `shape_table`'s result as Markdown: a line a measure, KS in brackets behind a feature's mean."""
    names = list(table)
    rows = []
    for measure in table[names[0]]:
        if measure.endswith(" KS"):
            continue
        cells = []
        for name in names:
            value, ks = table[name][measure], table[name].get(f"{measure} KS")
            text = (
                f"{value:d}" if isinstance(value, int) else f"{value:.3g}" if value >= 10 else f"{value:.3f}"
            )
            cells.append(text + (f" ({ks:.2f})" if ks is not None else ""))
        rows.append([measure, *cells])
    return markdown_table(["", *names], rows)
