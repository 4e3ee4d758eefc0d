"""Make the small hearts of `data/demo/EMIDEC`: invented late-enhancement MR phantoms with labels.

    python data/make_heart_demo.py --out data/demo --seed 0

No voxel comes from a patient: chambers, infarcts, fat, lung, diaphragm, chest wall, blur and noise are drawn
from formulas and `--seed`. Arrays are (96, 96, slices): the first axis runs from the patient's right to left,
the second from front to back, the slices from apex to base. Labels: 0 background, 1 cavity of the left
ventricle, 2 its myocardium, 3 infarct, 4 no-reflow.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from phantoms.volumes import smooth_noise, write_bytes, write_picture, write_volume
from scipy import ndimage

SIZE = 96  # pixels in plane
SPACING_MM = (1.458, 1.458, 10.0)
AFFINE = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])  # gives spacing, not patient position
FINE = 2  # fine grid points per pixel: drawn finely and averaged down, which gives partial volume
SLAB_MM = (-2.7, 0.0, 2.7)  # where a slice of 8 mm is sampled through its thickness
BLUR_MM = 1.0  # sd of the scanner's point spread
NOISE = 2.8  # sd of the two noise channels, in grey levels
FLOOR = 60  # grey level of no signal: the 8-bit scale of the real files does not start at zero signal either
CAVITY, MYOCARDIUM, INFARCT, NO_REFLOW = 1, 2, 3, 4
# Grey levels. Healthy myocardium is nulled by the inversion, so it is darker than blood; contrast agent stays
# in the infarct, which is brighter; where no blood flows, none arrived, and the core is dark.
AIR, LUNG, GAS, MUSCLE, HEART_MUSCLE, STALLED, LIVER = 61, 97, 76, 140, 131, 137, 151
BLOOD, SCAR, FAT, MARROW = 166, 188, 204, 185


@dataclass(frozen=True)
class Infarct:
    """A wedge of the wall. Angles start at the middle of the septum and grow towards the front."""

    centre_deg: float
    half_width_deg: float
    levels: tuple  # its lower and upper end between apex (0) and base (1)
    transmurality: float  # share of the wall's thickness at its deepest; 1 is all
    no_reflow: float = 0  # size of the core without flow as a share of the infarct; 0 is none


@dataclass(frozen=True)
class Case:
    """One heart. Lengths are in mm at the base of the left ventricle."""

    name: str
    slices: int
    centre_mm: tuple  # of the left ventricle from the middle of the image, (to the left, to the back)
    cavity_mm: float  # radius
    wall_mm: float
    septum_deg: float  # how far the septum's direction is turned from the patient's right towards the front
    infarct: Infarct | None = None


CASES = (
    Case("DEMO-P01", 8, (12, -6), 25, 9.2, 28, Infarct(48, 62, (-0.2, 0.72), 0.95, 0.62)),  # LAD
    Case("DEMO-P02", 7, (7, 10), 22, 9.0, 18, Infarct(-88, 50, (0.22, 1.1), 0.75)),  # right coronary
    Case("DEMO-P03", 9, (-4, -9), 27, 9.6, 36, Infarct(168, 54, (0.12, 0.98), 0.88, 0.56)),  # circumflex
    Case("DEMO-P04", 6, (15, 4), 23, 8.6, 24, Infarct(14, 42, (0.1, 0.9), 0.5)),  # septal, thin
    Case("DEMO-N01", 7, (9, -8), 21, 9.4, 22),
    Case("DEMO-N02", 9, (-6, 6), 19, 9.0, 34),
    Case("DEMO-N03", 6, (14, 8), 23, 10.4, 14),
    Case("DEMO-N04", 8, (4, -12), 20, 8.6, 40),
)
TEST_CASES = ("DEMO-P03", "DEMO-P04")


# --- anatomy ---------------------------------------------------------------
# Positions (x, y) are in mm from the middle of the image: x to the patient's left, y to the back. `level` is
# 0 at the apex and 1 at the base. Depths are in mm, positive inside, and only about right far from the edge.


def wobble(rng, orders: range):
    """Return a smooth random function of an angle and the level, periodic in the angle, sd about 1."""
    phase, drift = rng.uniform(0, 2 * np.pi, len(orders)), rng.uniform(-2, 2, len(orders))

    turn = np.linspace(0, 2 * np.pi, 721)  # a table, as a sum of waves at every point is slow

    def field(angle, level):
        waves = [np.cos(k * turn + p + d * level) for k, p, d in zip(orders, phase, drift, strict=True)]
        return np.interp(angle % (2 * np.pi), turn, sum(waves) * np.sqrt(2 / len(orders)))

    return field


def ellipse_depth(x, y, centre, radii, turn_deg: float = 0):
    turn = np.deg2rad(turn_deg)
    along = (x - centre[0]) * np.cos(turn) + (y - centre[1]) * np.sin(turn)
    across = (y - centre[1]) * np.cos(turn) - (x - centre[0]) * np.sin(turn)
    return (1 - np.hypot(along / radii[0], across / radii[1])) * min(radii)


def joined(a, b, radius_mm: float):
    """Depth in the union of two bodies; the notch between them is filled, rounded with `radius_mm`."""
    share = np.clip(0.5 + 0.5 * (a - b) / radius_mm, 0, 1)
    return share * a + (1 - share) * b + radius_mm * share * (1 - share)


class Heart:
    """The shapes of one case; the random ones are drawn once, so that neighbouring slices fit together."""

    def __init__(self, case: Case, rng):
        self.case = case
        self.rounded, self.ragged = wobble(rng, range(2, 5)), wobble(rng, range(7, 15))
        self.thick, self.fatty, self.patchy = (wobble(rng, range(1, 6)) for _ in range(3))
        self.drift_mm = rng.normal(0, 3, 2)  # from apex to base; the long axis is not quite upright
        self.septum = np.deg2rad(case.septum_deg) - np.pi
        self.chest_deg, self.rib_phase, self.dome = (
            rng.uniform(-80, -58),
            rng.uniform(0, 48),
            rng.uniform(-4, 4),
        )
        self.stomach_mm = rng.normal((24, 22), 4), rng.normal((27, 19), 3)
        self.stomach_grey, self.liver_edge_mm = rng.uniform(GAS, GAS + 30), rng.uniform(4, 34)

    def centre(self, level: float) -> np.ndarray:
        return np.array(self.case.centre_mm) + self.drift_mm * (level - 0.5)

    def cavity_radius(self, level: float) -> float:
        return self.case.cavity_mm * np.sqrt(max(1 - (1 - min(level, 1)) ** 2.3, 0))

    def outer_radius(self, level: float) -> float:
        return self.cavity_radius(level) + self.case.wall_mm * (0.72 + 0.28 * min(max(level, 0) / 0.5, 1))

    def wall(self, x, y, level: float):
        """Return angle from the septum, radius in mm, and the radii of endocardium and epicardium there."""
        cx, cy = self.centre(level)
        angle = np.arctan2(y - cy, x - cx) - self.septum
        inner = self.cavity_radius(level) * (1 + 0.025 * self.rounded(angle, level))
        wall = self.outer_radius(level) - self.cavity_radius(level)
        wall = wall * (1 + 0.07 * self.thick(angle, level) + 0.06 * np.cos(angle))
        wall = wall * (1 - 0.16 * np.clip(1 - self.infarct_reach(angle, level), 0, 1))  # an infarct thins
        return angle, np.hypot(x - cx, y - cy), inner, inner + wall

    def infarct_reach(self, angle, level: float):
        """Return 0 in the middle of the infarct's sector and 1 at its border."""
        infarct = self.case.infarct
        if infarct is None:
            return np.full_like(angle, np.inf)
        centre, half_width = np.deg2rad(infarct.centre_deg), np.deg2rad(infarct.half_width_deg)
        sideways = (angle - centre + np.pi) % (2 * np.pi) - np.pi
        low, high = infarct.levels
        upwards = (2 * level - low - high) / (high - low)
        return np.hypot(sideways / half_width, upwards) * (1 + 0.07 * self.patchy(angle, level))

    def labels(self, angle, radius, inner, outer, level: float) -> np.ndarray:
        """Label the points of one level; the arguments are what `wall` returns."""
        labels = np.where(radius < inner, CAVITY, np.where(radius < outer, MYOCARDIUM, 0)).astype(np.uint8)
        infarct = self.case.infarct
        if infarct:
            depth = (radius - inner) / (outer - inner)  # 0 at the endocardium, 1 at the epicardium
            reach = self.infarct_reach(angle, level)
            deep = infarct.transmurality * np.clip(1 - reach**2, 0, 1) ** 0.4 * 1.05
            labels[(labels == MYOCARDIUM) & (depth < deep)] = INFARCT
            if infarct.no_reflow:
                core = np.clip(1 - (reach / infarct.no_reflow) ** 2, 0, 1) ** 0.5
                labels[(labels == INFARCT) & (depth < 0.62 * infarct.transmurality * core)] = NO_REFLOW
        return labels

    def right_ventricle(self, x, y, level: float):
        """Depth in the right ventricle with its wall, before the left one is taken away."""
        outer = self.outer_radius(level)
        size = np.sqrt(np.clip((level - 0.08) / 0.6, 0, 1))
        way = np.array([np.cos(self.septum), np.sin(self.septum)])
        centre = self.centre(level) + way * outer * (0.25 + 0.68 * size)
        radii = outer * (0.55 + 0.42 * size), outer * (0.7 + 0.38 * size)
        return ellipse_depth(x, y, centre, radii, self.case.septum_deg) - 12 * (size == 0)

    def papillary(self, x, y, level: float):
        """Depth in the two papillary muscles; they lie in the cavity, and are labelled as cavity."""
        if not 0.3 < level < 0.82:
            return np.full_like(x, -9.0)
        depth = []
        for angle in np.deg2rad((118, -128)) + self.septum:
            place = self.cavity_radius(level) * (0.74 - 0.1 * level)
            centre = self.centre(level) + place * np.array([np.cos(angle), np.sin(angle)])
            radii = 4.6 - 2.5 * abs(level - 0.5), 3.2 - 2 * abs(level - 0.5)
            depth.append(ellipse_depth(x, y, centre, radii, np.rad2deg(angle)))
        return np.maximum(*depth)


def draw_lung(rng, x, y) -> np.ndarray:
    """Grey levels of the lung: dark, with bright vessels cut across and along."""
    grey = LUNG + 4 * smooth_noise(rng, x.shape, 8) + 4 * smooth_noise(rng, x.shape, 2)
    for _ in range(90):
        centre, turn = rng.uniform(-70, 70, 2), rng.uniform(0, 180)
        width = 0.4 + rng.exponential(0.4)
        length = width * (1 + rng.exponential(1.5))
        brightness = rng.uniform(130, 215)
        rows, columns = (np.flatnonzero(abs(p) <= length) for p in (x[:, 0] - centre[0], y[0] - centre[1]))
        box = np.ix_(rows, columns)
        grey[box] = np.where(
            ellipse_depth(x[box], y[box], centre, (length, width), turn) > 0, brightness, grey[box]
        )
    return grey


def wall_depth(heart: Heart, x, y, level: float):
    """Depth in the chest wall, and arc length along it. The apex almost touches it, the base is far off."""
    towards = np.deg2rad(heart.chest_deg)
    distance = heart.outer_radius(0.05) + 12 + 42 * level - 112
    centre = heart.centre(0) + distance * np.array([np.cos(towards), np.sin(towards)])
    arc = 112 * np.arctan2(y - centre[1], x - centre[0])
    return np.hypot(x - centre[0], y - centre[1]) - 112, arc


def draw_chest_wall(grey, heart: Heart, x, y, level: float, texture) -> np.ndarray:
    """Muscle, ribs, fat and air in front and to the left."""
    depth, arc = wall_depth(heart, x, y, level)
    depth = depth + 1.5 * texture
    across = (arc + 30 * level + heart.rib_phase) % 48 - 24  # ribs are cut aslant, every 48 mm along the wall
    rib = np.hypot((depth - 8.5) / 5, across / 14)
    layers = np.select(
        [depth < 1.2, depth < 15 + 2 * texture, depth < 36 + 3 * texture, depth < 38 + 3 * texture],
        [FAT - 40, MUSCLE + 7 * texture, FAT + 4 * texture, MUSCLE + 10],
        AIR,
    )
    layers = np.where(rib < 0.8, MARROW - 12 + 4 * texture, np.where(rib < 1, MUSCLE - 26, layers))
    return np.where(depth > 0, layers, grey)


def draw_below(grey, heart: Heart, x, y, level: float, texture) -> np.ndarray:
    """The diaphragm with liver and stomach under it; the heart lies on it. At the base, the aorta."""
    cx, cy = heart.centre(level)
    rise = 34 * max(level - 0.55, 0)  # the base lies above the dome
    depth = y - cy - heart.outer_radius(level) - 4 - rise
    depth = depth + 0.25 * (x - cx) * (x > cx) - 0.0035 * (x - cx - 8) ** 2 + heart.dome + 0.8 * texture
    grey = np.where(depth > -1.2, FAT - 34, grey)  # a film of fat, then the muscle of the diaphragm
    grey = np.where(depth > 0.6, MUSCLE - 12, grey)
    inside = depth > 2.4
    grey = np.where(inside, FAT - 36 + 7 * texture, grey)
    liver = inside & (x - cx + 0.3 * (y - cy) < heart.liver_edge_mm + 4 * texture)
    grey = np.where(liver, LIVER + 3 * texture, grey)
    offset, radii = heart.stomach_mm
    centre = cx + offset[0], cy + heart.outer_radius(level) + 6 + offset[1] + 1.6 * rise
    radii = radii * np.sqrt(max(1 - (level / 0.6) ** 4, 1e-6))
    stomach = ellipse_depth(x, y, centre, radii, 20) + 0.9 * texture * (level < 0.58)
    folds = np.clip(np.sin(3.5 * texture), 0, 1) * np.clip(1 - stomach / 12, 0, 1)
    grey = np.where(inside & (stomach > 0), MUSCLE + 4, grey)
    grey = np.where(inside & (stomach > 2.5), heart.stomach_grey + 30 * folds + 5 * texture, grey)
    if level > 0.62:
        aorta = ellipse_depth(x, y, (cx + 25, cy + heart.outer_radius(1) + 19), (11.5, 11))
        grey = np.where(aorta > -5 - 2 * texture, FAT - 45 + 6 * texture, grey)
        grey = np.where(aorta > -1.2, MUSCLE, grey)
        grey = np.where(aorta > 0, BLOOD + 3, grey)
    return grey


def draw_heart(grey, heart: Heart, x, y, level: float, texture) -> np.ndarray:
    """The two ventricles in their fat. The fat in front of the right one reaches the chest wall."""
    angle, radius, inner, outer = heart.wall(x, y, level)
    left = outer - radius
    right = heart.right_ventricle(x, y, level) + 0.9 * texture
    body = joined(left, right, 14)
    # Fat fills the grooves and lies in front of the right ventricle; there is hardly any on the free wall.
    fat_mm = 1.6 + 0.7 * heart.fatty(angle, level) + 3 * np.clip(np.cos(angle - 0.9), 0, 1)
    fat_mm = np.maximum(fat_mm, 0.5)
    to_the_right = 1 / (1 + np.exp((x - heart.centre(level)[0] + 6) / 7))
    chest, _ = wall_depth(heart, x, y, level)
    mediastinum = joined(body + fat_mm, chest, 4 + 46 * to_the_right) > 0
    grey = np.where(mediastinum & (chest < 0), FAT - 34 + 9 * texture, grey)
    grey = np.where(body > -fat_mm - 1.3, HEART_MUSCLE - 16, grey)  # pericardium
    grey = np.where(body > -fat_mm, FAT - 10 + 4 * texture, grey)
    grey = np.where(right > 0, HEART_MUSCLE + 6, grey)
    trabeculae = 3 + 0.8 * heart.ragged(angle, level) + 0.6 * texture
    grey = np.where(right > trabeculae, BLOOD + 2 + 2 * texture, grey)

    labels = heart.labels(angle, radius, inner, outer, level)
    levels = np.array([0, BLOOD, HEART_MUSCLE, SCAR, STALLED])
    grey = np.where(labels > 0, levels[labels] + np.where(labels == CAVITY, 2, 3) * texture, grey)
    # The inner surface is ragged, but is outlined smoothly.
    strands = (labels == CAVITY) & (radius > inner - 0.9 - 0.7 * heart.ragged(angle, level))
    grey = np.where(strands & (heart.infarct_reach(angle, level) > 1), HEART_MUSCLE + 12, grey)
    return np.where((labels == CAVITY) & (heart.papillary(x, y, level) > 0), HEART_MUSCLE + 5, grey)


def make_heart(case: Case, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a phantom: image (96, 96, slices) int16, 0 to 255, and labels (96, 96, slices) uint8."""
    rng = np.random.default_rng([seed, *case.name.encode()])
    heart = Heart(case, rng)
    pixel = SPACING_MM[0]
    ticks = (np.arange(SIZE * FINE) + 0.5) * pixel / FINE - SIZE * pixel / 2
    shape = (SIZE * FINE,) * 2
    coils = np.exp(0.05 * smooth_noise(rng, (SIZE, SIZE), 30))
    image, labels = [], []
    for number in range(case.slices):
        # Each slice is a breath-hold of its own: a little shift, a little gain.
        shift = rng.normal(0, 0.7, 2)
        x, y = np.meshgrid(ticks - shift[0], ticks - shift[1], indexing="ij")
        texture = smooth_noise(rng, shape, 6)
        lung = draw_lung(rng, x, y)
        middle = 0.05 + 0.93 * (number + 0.4) / case.slices
        grey = np.zeros(shape)
        for offset_mm in SLAB_MM:
            level = middle + offset_mm / (SPACING_MM[2] * case.slices)
            layer = draw_chest_wall(lung, heart, x, y, level, texture)
            layer = draw_below(layer, heart, x, y, level, texture)
            grey += draw_heart(layer, heart, x, y, level, texture) / len(SLAB_MM)
        grey = ndimage.gaussian_filter(grey, BLUR_MM * FINE / pixel, mode="nearest")
        signal = grey.reshape(SIZE, FINE, SIZE, FINE).mean(axis=(1, 3)) - FLOOR
        signal = signal * coils * rng.normal(1, 0.02)
        # The magnitude of a complex signal: noise is Rician. It is correlated, as in an interpolated matrix.
        real, imaginary = (NOISE * smooth_noise(rng, (SIZE, SIZE), 0.55) for _ in range(2))
        image.append(FLOOR + np.hypot(signal + real, imaginary))
        labels.append(outline(heart.labels(*heart.wall(x, y, middle), middle)))
    image = np.rint(np.clip(np.stack(image, -1), 0, 255)).astype(np.int16)
    return image, np.stack(labels, -1)


def outline(fine_labels: np.ndarray) -> np.ndarray:
    """Return for each pixel the label of most of its fine points; no-reflow keeps off healthy myocardium."""
    fine = fine_labels.reshape(SIZE, FINE, SIZE, FINE)
    votes = [(fine == label).sum(axis=(1, 3)) for label in range(NO_REFLOW + 1)]
    labels = np.argmax(votes, axis=0).astype(np.uint8)
    healthy = (labels == 0) | (labels == MYOCARDIUM)
    labels[(labels == NO_REFLOW) & ndimage.binary_dilation(healthy)] = INFARCT
    return labels


# --- files -----------------------------------------------------------------


def write_preview(path: Path, hearts: list, zoom: int = 2) -> None:
    """Draw a row for each (image, labels): four slices from apex to base, then again with lesion outlines."""
    rows = []
    for image, labels in hearts:
        panels = []
        for k in np.rint(np.linspace(0.08, 0.92, 4) * (image.shape[2] - 1)).astype(int):
            # Right to left along the first axis: a picture wants it across, and front to back down.
            grey, classes = (np.kron(a[..., k].T, np.ones((zoom, zoom), int)) for a in (image, labels))
            grey = np.rint(np.clip((grey - 60) / 165, 0, 1) * 23) / 23  # 24 greys keep the file small
            panel = np.repeat(grey[..., None], 3, axis=2)
            for inside, colour in (
                (classes >= INFARCT, (1, 0.8, 0.1)),
                (classes == NO_REFLOW, (1, 0.2, 0.2)),
            ):
                panel[inside & ~ndimage.binary_erosion(inside)] = colour
            panel[0] = panel[:, 0] = 1
            panels.append(panel)
        rows.append(np.hstack(panels))
    half = len(rows) // 2
    picture = np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])
    write_picture(path, picture)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "demo", help="folder to write into"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    root = options.out / "EMIDEC"
    hearts = []
    for case in CASES:
        image, labels = make_heart(case, options.seed)
        folder = root / ("Pathological" if case.infarct else "Normal")
        write_volume(folder / "images" / f"Case_{case.name}.nii.gz", image, AFFINE)
        write_volume(folder / "labels" / f"Case_{case.name}.nii.gz", labels, AFFINE)
        hearts.append((image, labels))
        ml = np.bincount(labels.ravel(), minlength=5) * np.prod(SPACING_MM) / 1000
        print(
            f"{case.name}: {case.slices} slices, cavity {ml[CAVITY]:.0f} ml,"
            f" wall {ml[MYOCARDIUM:].sum():.0f} ml with infarct {ml[INFARCT]:.1f} ml"
            f" and no-reflow {ml[NO_REFLOW]:.1f} ml"
        )
    names = "".join(f"Case_{name}\n" for name in TEST_CASES)
    write_bytes(root / "Pathological" / "test.txt", names.encode())
    write_preview(options.out / "preview_emidec.png", hearts)
    print(f"wrote {len(hearts)} hearts and preview_emidec.png to {options.out}")


if __name__ == "__main__":
    main()
