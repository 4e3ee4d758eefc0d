"""Make a set of invented liver CT phantoms with tumours, to try out the steps for a data set of one's own.

    python data/make_liver_demo.py --out data/my_liver --cases 24 --seed 0 --shape 32 64 64

No voxel comes from a patient. Names are like nnU-Net's: `Tumour/imagesTr/liver_001_0000.nii.gz` with
`Tumour/labelsTr/liver_001.nii.gz` (0 background, 1 liver, 2 tumour); `Tumour/test.txt` names a fifth of the
images. `Normal/` has a third as many livers without a tumour, whose labels have a 2 where one is to be
painted. Arrays are (x, y, z): to the patient's left, to the back, to the head; int16 HU, uint8 labels.
"""

import argparse
from pathlib import Path

import numpy as np
from phantoms.volumes import smooth_noise, write_bytes, write_volume
from scipy import ndimage

SPACING_MM = np.array([1.5, 1.5, 3.0])
AFFINE = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
BLUR_MM, NOISE_HU = 0.8, 11
LIVER, TUMOUR = 1, 2
HU_LUNG, HU_FAT, HU_MUSCLE, HU_BONE = -850, -98, 58, 420
HU_STOMACH, HU_KIDNEY, HU_BLOOD, HU_BILE = 25, 175, 165, 8
# One type a case: HU of rim and of core over the liver's, and the core's radius as a share of the tumour's
TEXTURES = {"hypodense": (-50, -50, 0.5), "hyperdense": (60, 60, 0.5), "necrotic": (25, -85, 0.68)}


class Canvas:
    """HU on a grid with positions (x, y, z) in mm; a body is painted by its depth in mm, positive inside."""

    def __init__(self, shape: tuple):
        self.position = np.meshgrid(
            *(np.arange(n) * mm for n, mm in zip(shape, SPACING_MM, strict=True)), indexing="ij", sparse=True
        )
        self.size_mm = np.array(shape) * SPACING_MM
        self.hu = np.full(shape, float(HU_FAT))

    def ellipsoid(self, centre_mm, radii_mm) -> np.ndarray:
        q = sum(((p - c) / r) ** 2 for p, c, r in zip(self.position, centre_mm, radii_mm, strict=True))
        return (1 - np.sqrt(q)) * min(radii_mm)

    def paint(self, depth, hu) -> None:
        """Paint with a soft edge of about a voxel: partial volume."""
        self.hu += np.clip(depth / SPACING_MM[0] + 0.5, 0, 1) * (hu - self.hu)


def draw_vessels(rng, canvas: Canvas, root, aim, inside) -> None:
    """Paint a tree of tubes that forks from `root` towards `aim`, where the depth `inside` is positive."""
    share = np.full(canvas.hu.shape, -9.0)
    left = [(root, (aim - root) / np.linalg.norm(aim - root), 4.2)]
    while left:
        start, way, radius = left.pop()
        length = radius * rng.uniform(3, 5)
        along = sum((p - s) * w for p, s, w in zip(canvas.position, start, way, strict=True))
        along = np.clip(along, 0, length)
        squares = ((p - s - along * w) ** 2 for p, s, w in zip(canvas.position, start, way, strict=True))
        np.maximum(share, radius * (1 - 0.2 * along / length) - np.sqrt(sum(squares)), out=share)
        for _ in range(2 if radius > 1.2 else 0):
            turned = way + rng.normal(0, 0.55, 3)
            left.append(
                (start + length * way, turned / np.linalg.norm(turned), radius * rng.uniform(0.65, 0.85))
            )
    canvas.paint(np.minimum(share, inside), HU_BLOOD + rng.normal(0, 8))


def place_tumours(rng, canvas: Canvas, liver: np.ndarray) -> list[np.ndarray]:
    """Return the depths in mm of one or two lumps that lie in the liver and do not touch each other."""
    # The border of the region is no edge of the liver, but tumours stay inside of it.
    room = ndimage.distance_transform_edt(np.pad(liver, 1), sampling=SPACING_MM)[1:-1, 1:-1, 1:-1]
    lumps = []
    for _ in range(rng.integers(1, 3)):
        radius = min(rng.uniform(7, 15), 0.7 * room.max())
        places = np.argwhere(room >= 1.2 * radius)
        if radius < 4 or not len(places):
            break
        centre = places[rng.integers(len(places))] * SPACING_MM
        lump = canvas.ellipsoid(centre, radius * rng.uniform(0.8, 1.15, 3))
        lump = lump + 0.12 * radius * smooth_noise(rng, liver.shape, 0.5 * radius / SPACING_MM)
        lump = np.where(liver, lump, np.minimum(lump, -1))
        lumps.append(lump)
        room = np.where(lump > -4, 0, np.minimum(room, np.maximum(-lump, 0)))
    assert lumps, "no room for a tumour"
    return lumps


def make_liver(
    seed: int, number: int, shape: tuple, texture: str | None = "hypodense"
) -> tuple[np.ndarray, np.ndarray]:
    """Return a phantom: image int16 HU and labels uint8, both (width, height, depth) for `shape` (D, H, W).

    `texture` is a key of TEXTURES; with None there is no tumour in the image, but there is one in the labels.
    """
    rng = np.random.default_rng([seed, number])
    canvas = Canvas(shape[::-1])
    width, height, depth = size = canvas.size_mm
    x, y, z = canvas.position
    fields = [smooth_noise(rng, canvas.hu.shape, mm / SPACING_MM) for mm in (14, 6, 3)]
    rough, fine, grain = fields

    # The organs beside the liver, from the middle of the body outwards
    canvas.hu += 8 * fine
    canvas.paint(canvas.ellipsoid(size * (0.95, 0.3, 0.5), (25, 22, 60)) + 2 * rough, HU_STOMACH + 10 * fine)
    canvas.paint(canvas.ellipsoid(size * (0.62, 1.0, 0.12), (19, 17, 34)) + rough, HU_KIDNEY + 10 * grain)
    aorta = 8.5 - np.hypot(x - 0.97 * width, y - 0.86 * height) + 0 * z
    canvas.paint(aorta, HU_BLOOD + 10)

    in_body = 0.86 * width - np.hypot(x - 0.89 * width, 0.8 * (y - 0.5 * height)) + 0 * z + 0.8 * rough
    dome = depth * rng.uniform(0.84, 0.95) - 0.004 * ((x - 0.5 * width) ** 2 + (y - 0.5 * height) ** 2) - z
    centre = size * (rng.uniform(0.4, 0.46), rng.uniform(0.42, 0.5), 0.42)
    liver_depth = canvas.ellipsoid(centre, size * (0.44, rng.uniform(0.42, 0.5), 0.66)) + 3 * rough
    liver_depth = np.minimum(np.minimum(liver_depth, dome - 2), in_body - 15)
    liver_hu = rng.normal(105, 8)
    canvas.paint(liver_depth, liver_hu + 3 * fine + 3 * grain)
    hilum = size * (0.72, 0.58, 0.4)
    draw_vessels(rng, canvas, hilum, centre * (0.7, 0.8, 1), liver_depth - 3)  # portal vein
    veins = size * (0.78, 0.8, 0.9)
    draw_vessels(rng, canvas, veins, centre * (0.8, 1, 1.1), liver_depth - 3)  # hepatic veins
    gallbladder = canvas.ellipsoid(size * (0.62, 0.2, 0.12), (9, 12, 16))
    canvas.paint(gallbladder, HU_BILE)
    liver = (liver_depth > 0) & (gallbladder < 0)

    tumours = place_tumours(rng, canvas, liver)
    labels = np.where(liver, LIVER, 0).astype(np.uint8)
    for lump in tumours:
        labels[lump > 0] = TUMOUR
        if texture is None:
            continue
        rim, core, core_share = TEXTURES[texture]
        canvas.paint(lump, liver_hu + rim + 7 * grain)
        canvas.paint(lump - (1 - core_share) * lump.max() + fine, liver_hu + core + 7 * grain)

    # Lung over the dome, then the wall: muscle with ribs, fat, air
    canvas.paint(np.minimum(-dome, in_body - 13), HU_LUNG + 25 * fine)
    canvas.paint(13 - in_body, HU_MUSCLE + 10 * fine)
    along = y + 0.7 * z + rng.uniform(0, 30)
    ribs = (1 - np.hypot((in_body - 9) / 3.5, (along % 30 - 15) / 7)) * 3.5
    canvas.paint(ribs, HU_BONE + 60 * grain)
    canvas.paint(5 - in_body, HU_FAT + 8 * fine)
    canvas.paint(-in_body, -1000)

    hu = ndimage.gaussian_filter(canvas.hu, BLUR_MM / SPACING_MM, mode="nearest")
    hu += NOISE_HU * smooth_noise(rng, hu.shape, (0.6, 0.6, 0.3))
    return np.rint(np.clip(hu, -1024, 3071)).astype(np.int16), labels


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--cases", type=int, default=24, help="livers with a tumour; a third as many without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shape", type=int, nargs=3, default=(32, 64, 64), metavar=("DEPTH", "HEIGHT", "WIDTH")
    )
    options = parser.parse_args(arguments)
    if options.cases < 1:
        parser.error(f"--cases {options.cases}: at least one is needed")
    if min(options.shape[0], options.shape[1] // 2, options.shape[2] // 2) < 16:
        parser.error(f"--shape {options.shape}: at least 16 slices of 32 x 32 are needed")
    shape, textures = tuple(options.shape), list(TEXTURES)
    normals = max(1, options.cases // 3)
    for number in range(1, options.cases + normals + 1):
        has_tumour = number <= options.cases
        texture = textures[(number - 1) % len(textures)] if has_tumour else None
        image, labels = make_liver(options.seed, number, shape, texture)
        folder = options.out / ("Tumour" if has_tumour else "Normal")
        write_volume(folder / "imagesTr" / f"liver_{number:03d}_0000.nii.gz", image, AFFINE)
        write_volume(folder / "labelsTr" / f"liver_{number:03d}.nii.gz", labels, AFFINE)
        ml = np.bincount(labels.ravel(), minlength=3) * SPACING_MM.prod() / 1000
        kind = texture or "to be painted"
        print(f"liver_{number:03d}: liver {ml[LIVER]:.0f} ml, tumour {ml[TUMOUR]:.1f} ml, {kind}")
    # The last ones; the textures take turns, so all occur in a fifth of 15 cases or more.
    tested = range(options.cases - max(1, options.cases // 5) + 1, options.cases + 1)
    names = "".join(f"liver_{number:03d}_0000\n" for number in tested)
    write_bytes(options.out / "Tumour" / "test.txt", names.encode())
    print(f"wrote {options.cases} livers with and {normals} without a tumour to {options.out}")


if __name__ == "__main__":
    main()
