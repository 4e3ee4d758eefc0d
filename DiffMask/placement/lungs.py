"""Where the lung is in a CT, and what in it is no place for a lesion: large vessels and airways.

Works on a whole chest CT and on a region cut out of one. Arrays are depth first (D, H, W), slices first, in
HU; `spacing_mm` is the size of a voxel along each axis.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from LeFusion.errors import UserError

AERATED_HU = -400  # half way between lung and soft tissue
GAS_HU = -950  # free gas: around the body, in the bowel; lung, even emphysema, is denser on average
NO_TISSUE_HU = -1100  # below air: no measurement
PADDING_SHARE = 0.01  # of the sides of the volume: so much of one value, up to GAS_HU, may be padding
SMOOTH_MM = 1.0  # sd, against noise, before the thresholds
CLOSING_MM = (
    6.0  # what is thinner than twice this and lies between lung is lung: vessels, dents of the pleura
)
MIN_LUNG_ML = 2.0  # less lung than this is a bubble
SMALLEST_SHARE = 0.05  # of the largest part; smaller ones are bowel, folds of the skin, noise
GAS_SHARE = 0.1  # in a whole CT, a part with more free gas than this must have vessels to be lung:
VESSEL_SHARE = 0.003  # so much of its inside is denser than VESSEL_HU;
INSIDE_MM, INSIDE_SHARE = 6.0, 0.2  # so much of a part is that far from its border, or it is a fold
BODY_SHARE = (
    0.5  # of the surface of a lung: this much is the body, not the table nor the border of the volume
)
CUT_BODY_SHARE = 0.25  # the same of a lung that the side of a whole CT, wider than WHOLE_MM, cuts
WHOLE_MM = 200

AIRWAY_HU = -930  # the gas of large airways, and at least AIRWAY_CONTRAST_HU below the lung's median
AIRWAY_CONTRAST_HU = 80
AIRWAY_MM, AIRWAY_ML = 5.0, 1.0  # thickness and size of the airways that are not lung; bubbles are smaller
AIRWAY_WALL_MM = 4.0  # and the blurred border of the gas

BODY_MM = 3.0  # the body need not be finer than this

VESSEL_HU = -300
VESSEL_MM = 3.0  # thickness; thinner ones run through real lesions, too

MANY_VOXELS, COARSE_MM = 2e7, 1.5  # larger volumes are averaged to voxels of at most this size


def lung_mask(
    hu_dhw: np.ndarray, spacing_mm: Sequence[float], lesions_dhw: np.ndarray | None = None
) -> np.ndarray:
    """Return the lungs as bool mask (D, H, W), with vessels, small bronchi and dents of the pleura in them.

    What is aerated is lung, unless it is gas that reaches the side of the volume (around the body), lies in
    the trachea or the bowel, or is not in the body (a hollow table). So a region may be cut out of the lung.
    Where it is cut, the lung ends at the border of the volume, or of the round field of view.

    lesions_dhw: bool, what is known to lie in the lung although it is dense; None: nothing. Raises ValueError
    when no lung is found.
    """
    assert hu_dhw.ndim == 3 and len(spacing_mm) == 3, f"{hu_dhw.shape} voxels of {spacing_mm} mm"
    factors = _coarsening(hu_dhw.shape, spacing_mm)
    spacing = np.multiply(spacing_mm, factors)
    hu, outside = _smoothed(hu_dhw, factors, spacing)
    aerated = (hu < AERATED_HU) & ~outside
    body = _body(~aerated & ~outside, spacing)
    lung = _lung_like(aerated, hu, body, outside, spacing)
    airways = _airways(lung, hu, spacing)
    lung = _lung_like(lung & ~airways, hu, body, outside, spacing)
    millilitres = lung.sum() * np.prod(spacing) / 1000
    if millilitres < MIN_LUNG_ML:
        air = f"{aerated.mean():.0%} of the volume is below {AERATED_HU} HU"
        raise UserError(
            f"no lung found: {air}, {millilitres:.1f} ml of it like lung; is it a chest CT in HU?"
        )
    if lesions_dhw is not None:
        lung |= block_mean(lesions_dhw, factors) >= 0.5
    lung = ndimage.binary_fill_holes(_closed(lung, CLOSING_MM, spacing)) & ~airways & ~outside
    lung = _enlarged(lung, factors, hu_dhw.shape)
    return lung if lesions_dhw is None else lung | lesions_dhw


def vessel_mask(hu_dhw: np.ndarray, lung: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return what in the lung (D, H, W) is dense, or free gas, and at least 3 mm thick in every direction.

    These are large vessels and airways, tissue that closing took into the lung, and dense lesions.
    """
    assert hu_dhw.shape == lung.shape, f"image {hu_dhw.shape}, lung {lung.shape}"
    vessels = np.zeros(lung.shape, bool)
    box = _box(lung, [int(VESSEL_MM / s) + 1 for s in spacing_mm])
    if box is not None:
        # The margin shows how the vessel goes on behind the lung's border.
        hu, inside = hu_dhw[box], lung[box]
        smooth = ndimage.gaussian_filter(hu, np.divide(SMOOTH_MM, spacing_mm), output=np.float32)
        for tubes in (hu > VESSEL_HU, smooth < _gas_below(smooth, inside)):
            vessels[box] |= _opened(tubes, VESSEL_MM / 2, spacing_mm) & inside
    return vessels


def depth_mm(mask: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Return how far each voxel of a mask (D, H, W) lies from its border, 0 outside: float32.

    The border runs half a voxel from the nearest voxel outside. Behind the border of the volume all may go on
    as it is: it is no border of the mask. A mask that fills the volume has none: inf.
    """
    if mask.all():
        return np.full(mask.shape, np.inf, np.float32)
    depth = np.zeros(mask.shape, np.float32)
    box = _box(mask, 1)
    if box is not None:
        far = ndimage.distance_transform_edt(mask[box], spacing_mm).astype(np.float32)
        depth[box] = np.maximum(far - min(spacing_mm) / 2, 0)
    return depth


def padding_mask(hu_dhw: np.ndarray) -> np.ndarray:
    """Return what lies outside a scan's field of view, which may be round: bool (D, H, W).

    It reaches the sides of the volume and is below air, or has one value up to that of gas, in whole blocks
    of voxels. Air in the field of view has noise, even where it is clipped at -1000 or -1024 HU.
    """
    outside = np.zeros(hu_dhw.shape, bool)
    sides = [hu_dhw[:, 0], hu_dhw[:, -1], hu_dhw[:, :, 0], hu_dhw[:, :, -1]]
    values, counts = np.unique(np.concatenate([side.ravel() for side in sides]), return_counts=True)
    common = values[(counts > PADDING_SHARE * counts.sum()) & (values >= NO_TISSUE_HU) & (values <= GAS_HU)]
    for value in (None, *common):
        same = hu_dhw < NO_TISSUE_HU if value is None else hu_dhw == value
        block = np.ones((3, 3, 3), bool)
        solid = ndimage.binary_erosion(same, block, border_value=1)
        solid = ndimage.binary_dilation(solid, block, iterations=2, mask=same)
        parts, count = ndimage.label(solid)
        reaching = np.zeros(count + 1, bool)
        for side in (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]):
            reaching[np.unique(side)] = True
        reaching[0] = False
        outside |= reaching[parts]
    return outside


def _smoothed(
    hu_dhw: np.ndarray, factors: Sequence[int], spacing: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Means over blocks of voxels, smoothed, of what lies in the field of view; bool, where nothing does."""

    def smooth(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, SMOOTH_MM / spacing, mode="nearest")

    outside = padding_mask(hu_dhw)
    if not outside.any():
        return smooth(block_mean(hu_dhw, factors)), np.zeros(1, bool)
    weights = block_mean(~outside, factors)
    hu = smooth(block_mean(np.where(outside, 0, hu_dhw), factors)) / np.maximum(smooth(weights), 1e-6)
    return hu, weights < 0.5


def _lung_like(
    aerated: np.ndarray, hu: np.ndarray, body: np.ndarray, outside: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """The components that may be lung: not gas on average, in the body, not far smaller than the largest.

    A component that reaches a side of the volume (not its first or last slice) or of the field of view need
    not be in the body, or less so in a whole CT: the lung may be cut there.
    """
    whole = min(np.multiply(hu.shape, spacing)[1:]) > WHOLE_MM
    cut_share = CUT_BODY_SHARE if whole else 0.0
    parts, count = ndimage.label(aerated)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    sizes[0] = 0
    at_side = np.zeros(count + 1, bool)
    for side in (parts[:, 0], parts[:, -1], parts[:, :, 0], parts[:, :, -1]):
        at_side[np.unique(side)] = True
    if outside.any():
        at_side[np.unique(parts[ndimage.binary_dilation(outside)])] = True
    kept = []
    boxes = ndimage.find_objects(parts)
    for index in np.argsort(-sizes, kind="stable"):
        if sizes[index] == 0 or (kept and sizes[index] < SMALLEST_SHARE * sizes[kept[0]]):
            break
        if sizes[index] * np.prod(spacing) < (100 if kept else 1000 * MIN_LUNG_ML):  # mm3
            break
        part = parts == index
        if np.median(hu[part]) < GAS_HU:
            continue
        needed = cut_share if at_side[index] else BODY_SHARE
        in_body = needed == 0 or _share_of_surface(part, boxes[index - 1], body) >= needed
        if in_body and not (whole and _without_vessels(part, hu, spacing)):
            kept.append(int(index))
    return np.isin(parts, kept)


def _body(tissue: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """The largest component of what is not aerated, without what hangs on it by a thin bridge (the table)."""
    factors = tuple(max(1, round(BODY_MM / s)) for s in spacing)
    coarse = block_mean(tissue, factors) >= 0.5
    parts, count = ndimage.label(_opened(coarse, BODY_MM, np.multiply(spacing, factors)))
    if count == 0:
        return tissue
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return _enlarged(ndimage.binary_dilation(parts == largest), factors, tissue.shape)


def _without_vessels(part: np.ndarray, hu: np.ndarray, spacing: np.ndarray) -> bool:
    """Whether a component holds much free gas and, unlike lung with emphysema, no vessels, or hardly any
    inside: stomach, bowel, trachea, folds of the skin, the table and the air between it and the body."""
    if (hu[part] < GAS_HU).mean() <= GAS_SHARE:
        return False
    box = _box(part, [int(CLOSING_MM / s) + 1 for s in spacing])
    around = np.pad(_closed(part, CLOSING_MM, spacing)[box], 1, mode="edge")
    inside = _distance(around, spacing)[1:-1, 1:-1, 1:-1] > INSIDE_MM
    thin = np.count_nonzero(inside) < INSIDE_SHARE * np.count_nonzero(part)
    return thin or float((hu[box][inside] > VESSEL_HU).mean()) < VESSEL_SHARE


def _share_of_surface(part: np.ndarray, box: tuple, body: np.ndarray) -> float:
    """How much of the layer around a component is body."""
    box = tuple(slice(max(s.start - 3, 0), s.stop + 3) for s in box)
    around = ndimage.binary_dilation(part[box], iterations=3) & ~part[box]
    return float(body[box][around].mean()) if around.any() else 0.0


def _airways(lung: np.ndarray, hu: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Gas in large tubes, with their walls."""
    if not lung.any():
        return lung
    gas = lung & (hu < _gas_below(hu, lung))
    parts, count = ndimage.label(_opened(gas, AIRWAY_MM / 2, spacing))
    large = np.bincount(parts.ravel()) * np.prod(spacing) > AIRWAY_ML * 1000
    large[0] = False
    return _grown(large[parts], AIRWAY_WALL_MM, spacing)


def _gas_below(hu: np.ndarray, lung: np.ndarray) -> float:
    """The HU that only airways are below. It falls with the lung's own, so that emphysema is no airway."""
    return min(AIRWAY_HU, float(np.median(hu[lung])) - AIRWAY_CONTRAST_HU)


def _closed(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    """Closing by a ball. The volume goes on behind its border as it ends there, so nothing clings to it."""
    margins = [int(radius_mm / s) + 1 for s in spacing]
    box = _box(mask, margins)
    if box is None:
        return mask
    wide = np.pad(mask[box], [(m, m) for m in margins], mode="edge")
    wide = _distance(_grown(wide, radius_mm, spacing), spacing) > radius_mm
    closed = mask.copy()
    closed[box] |= wide[tuple(slice(m, -m) for m in margins)]
    return closed


def _opened(mask: np.ndarray, radius_mm: float, spacing: Sequence[float]) -> np.ndarray:
    """Opening by a ball: what is thicker than twice its radius. Counts from the voxels' borders."""
    radius_mm += min(spacing) / 2
    core = ndimage.binary_erosion(mask, _ball(radius_mm - 1e-6, spacing), border_value=1)
    return mask & ndimage.binary_dilation(core, _ball(radius_mm + 1e-6, spacing))


def _ball(radius_mm: float, spacing: Sequence[float]) -> np.ndarray:
    """A structuring element: the voxels whose centres are within the radius."""
    reach = [np.arange(-int(radius_mm / s), int(radius_mm / s) + 1) * s for s in spacing]
    return sum(r**2 for r in np.meshgrid(*reach, indexing="ij")) <= radius_mm**2


def _grown(mask: np.ndarray, radius_mm: float, spacing: Sequence[float]) -> np.ndarray:
    """What is at most `radius_mm` away from the mask, from voxel centre to voxel centre."""
    grown = mask.copy()
    box = _box(mask, [int(radius_mm / s) + 1 for s in spacing])
    if box is not None:
        grown[box] = _distance(~mask[box], spacing) <= radius_mm
    return grown


def _distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Of each voxel in a mask to the nearest one outside, in mm; inf when there is none."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, spacing)


def _box(mask: np.ndarray, margin: int | Sequence[int]) -> tuple[slice, ...] | None:
    """The bounding box with a margin of voxels, cut at the border of the volume; None when it is empty."""
    found = ndimage.find_objects(mask.astype(np.uint8))
    if not found:
        return None
    margins = np.broadcast_to(margin, 3)
    return tuple(
        slice(max(s.start - m, 0), min(s.stop + m, n))
        for s, m, n in zip(found[0], margins, mask.shape, strict=True)
    )


def _coarsening(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    if np.prod(shape) <= MANY_VOXELS:
        return 1, 1, 1
    return tuple(max(1, int(COARSE_MM / s)) for s in spacing_mm)


def block_mean(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean over blocks of `factors` voxels, float32; the last block of an axis may repeat the last voxel."""
    if all(f == 1 for f in factors):
        return values.astype(np.float32)
    pad = [(0, -n % f) for n, f in zip(values.shape, factors, strict=True)]
    padded = np.pad(values, pad, mode="edge")
    blocks = [m for n, f in zip(padded.shape, factors, strict=True) for m in (n // f, f)]
    return padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)


def _enlarged(mask: np.ndarray, factors: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """The inverse of `block_mean` for a mask."""
    for axis, factor in enumerate(factors):
        mask = mask.repeat(factor, axis=axis)
    return mask[tuple(slice(n) for n in shape)]
