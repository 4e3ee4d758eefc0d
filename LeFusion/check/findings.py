"""What shows when the cases of a data set are seen together, or against the network's region and window."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from LeFusion.check.facts import CaseFacts, CheckSettings, Finding, relative, triple

PLANE_MULTIPLE = 8  # the network halves height and width three times
MOST_CLIPPED = 0.05  # share of lesion voxels outside the window
FEWEST_BINS = 4
SHARE_OF_A_USED_BIN = 0.01
SPACING_FACTOR = 1.5  # between cases, along one axis
SHOWN = 5


def find_common_faults(facts: Sequence[CaseFacts], settings: CheckSettings) -> list[Finding]:
    """What only shows when cases are compared, or measured against the network's region and the window.

    A fault of single cases is added to their findings, the others are returned.
    """
    _find_same_images(facts)
    _find_misfits(facts, settings)
    cases = [case for case in facts if case.image_path is not None]
    return [
        *_geometry_faults(cases, settings),
        *_label_faults(cases, settings),
        *_window_faults(cases, settings),
    ]


def _find_same_images(facts: Sequence[CaseFacts]) -> None:
    alike = defaultdict(list)
    for case in facts:
        if case.digest:
            alike[case.digest].append(case)
    for cases in alike.values():
        if len(cases) == 1:
            continue
        both = {"test", "train"} <= {case.split for case in cases}
        what = "the same image in test and train" if both else "the same image more than once"
        where = " = ".join(case.name for case in cases)
        cases[0].add("error" if both else "warning", what, where, "keep one of them")
        for case in cases[1:]:
            case.add("note", f"the same image as {cases[0].name}", "", "")


def _find_misfits(facts: Sequence[CaseFacts], settings: CheckSettings) -> None:
    """Lesions larger than the network's region, and images smaller than it."""
    size = settings.size
    large = [case for case in facts if case.grid_extent and (np.array(case.grid_extent) > size).any()]
    if large:
        depth, *plane = np.max([case.grid_extent for case in large], axis=0).tolist()
        side = math.ceil(max(*plane, *size[1:]) / PLANE_MULTIPLE) * PLANE_MULTIPLE
        region = f"diffusion_depth_size={max(depth, size[0])} diffusion_img_size={side}"
    for case in large:
        where = f"{relative(case.mask_path, settings.root)} {triple(case.grid_extent)}"
        if settings.crops:
            what = f"lesion larger than crop_size {triple(size)}, so only parts of it are seen at a time"
            case.add("warning", what, where, f"a larger crop_size, where memory allows ({region} hold all)")
        else:
            what = f"lesion does not fit into the network's region {triple(size)} (depth x height x width)"
            fix = (
                f"{region} would hold all; or bring images to a coarser grid (spacing_mm), train on crops "
                "(crop_size), or leave the case out"
            )
            case.add("error", what, where, fix)
    for case in facts:
        shape = case.grid_shape
        if shape and case.image_path and any(n < s for n, s in zip(shape[1:], size[1:], strict=True)):
            case.add(
                "warning",
                f"slices are smaller than the network's region {size[1]} x {size[2]}: the rest is padded",
                f"{relative(case.image_path, settings.root)} {shape[1]} x {shape[2]}",
                "a smaller diffusion_img_size (a multiple of 8) or images with more surroundings",
            )


def _geometry_faults(cases: Sequence[CaseFacts], settings: CheckSettings) -> list[Finding]:
    findings = []
    if any(length % PLANE_MULTIPLE for length in settings.size[1:]):
        findings.append(
            Finding(
                "error",
                f"height and width of the network's region must be multiples of {PLANE_MULTIPLE}",
                triple(settings.size),
                f"set {'crop_size' if settings.crops else 'diffusion_img_size'} to a multiple of 8",
            )
        )
    shapes = [case.shape for case in cases if case.shape]
    axis = settings.layout.depth_axis
    spacings = np.array([case.spacing_mm for case in cases if case.spacing_mm]).reshape(-1, 3)
    # The slices of a scan are square more often than not, and thicker than their pixels are wide.
    odd = sum(h != w and d in (h, w) for d, h, w in shapes)
    thick = sum(d < 0.7 * max(h, w) for d, h, w in spacings.tolist())
    oriented = settings.layout.orientation is not None or settings.layout.cavity_label is not None
    if not oriented and (odd > len(shapes) / 2 or thick > len(spacings) / 2):
        why = (
            f"in {odd} of {len(shapes)} cases the slices are not square, but would be along another axis"
            if odd > len(shapes) / 2
            else f"in {thick} of {len(spacings)} cases the voxels are longer along another axis"
        )
        fix = (
            "look at check_dataset.png; set layout.depth_axis to the stored axis that counts slices, or let "
            "the affines say it: layout.orientation=SPL layout.depth_axis=null"
        )
        findings.append(Finding("warning", f"layout.depth_axis={axis} may be wrong", why, fix))
    orientations = Counter(case.orientation for case in cases if case.orientation)
    if len(orientations) > 1 and not oriented:
        where = ", ".join(f"{codes} {number}" for codes, number in orientations.most_common())
        fix = "set layout.orientation=SPL layout.depth_axis=null, which brings all to one orientation"
        findings.append(Finding("warning", "orientations of the stored axes differ", f"cases: {where}", fix))
    if len(spacings) and settings.spacing_mm is None:
        ratios = spacings.max(axis=0) / spacings.min(axis=0)
        for name, ratio, low, high in zip(
            ("depth", "height", "width"), ratios, spacings.min(axis=0), spacings.max(axis=0), strict=True
        ):
            if ratio > SPACING_FACTOR:
                middle = ",".join(f"{mm:.3g}" for mm in np.median(spacings, axis=0))
                findings.append(
                    Finding(
                        "warning",
                        "voxel sizes differ between cases, so the network sees one lesion in several sizes",
                        f"{name} {low:.3g} to {high:.3g} mm",
                        f"bring all to one grid, for example spacing_mm=[{middle}]",
                    )
                )
    return findings


def _label_faults(cases: Sequence[CaseFacts], settings: CheckSettings) -> list[Finding]:
    layout, findings = settings.layout, []
    read = [case for case in cases if case.mask_dtype]
    if not read:
        return []
    for label in layout.known_labels[1:]:
        if not any(label in case.labels for case in read):
            lesion = label in layout.lesion_labels
            findings.append(
                Finding(
                    "error" if lesion else "warning",
                    f"{'lesion ' if lesion else ''}label {label} of the layout occurs in no mask",
                    f"{len(read)} masks",
                    f"correct layout.{'lesion' if lesion else 'other'}_labels, or the masks",
                )
            )
    for case in read:
        voxels = case.lesion_voxels(layout)
        if 0 < voxels < settings.bins:
            case.add(
                "warning",
                f"lesion has fewer voxels than the histogram has bins ({settings.bins})",
                f"{relative(case.mask_path, settings.root)} ({voxels})",
                "check that it is no slip of the pen; a finer grid, or leave the case out",
            )
    return findings


def bins_in_use(facts: Sequence[CaseFacts]) -> tuple[np.ndarray, list[int]]:
    """Mean histogram of each class over the cases that have it (classes, bins); how many bins hold 1 %."""
    found = [case.histograms for case in facts if case.histograms is not None]
    if not found:
        return np.zeros((0, 0)), []
    total = np.sum(found, axis=0)
    mean = total / np.maximum(total.sum(axis=1, keepdims=True), 1e-12)
    return mean, [int((shares >= SHARE_OF_A_USED_BIN).sum()) for shares in mean]


def _window_faults(cases: Sequence[CaseFacts], settings: CheckSettings) -> list[Finding]:
    samples = [case.lesion_sample for case in cases if case.lesion_sample is not None]
    if not samples:
        return []
    findings, layout = [], settings.layout
    low, high = (float(value) for value in np.percentile(np.concatenate(samples), [0.5, 99.5]))
    own = isinstance(settings.window, str | dict)
    voxels = sum(case.lesion_voxels(layout) for case in cases if case.lesion_sample is not None)
    clipped = sum(case.lesion_clipped for case in cases).tolist()
    if sum(clipped) > MOST_CLIPPED * voxels:
        wider = [min(low, settings.window[0]), max(high, settings.window[1])] if not own else None
        findings.append(
            Finding(
                "warning",
                f"the window clips {sum(clipped) / voxels:.0%} of the lesion voxels, whose texture is lost",
                f"{clipped[0]} below, {clipped[1]} above of {voxels}",
                f"widen it: {_window(*wider) if wider else 'wider percentiles'} (99 % of them are between "
                f"{low:.4g} and {high:.4g})",
            )
        )
    for label, used in zip(layout.lesion_labels, bins_in_use(cases)[1], strict=True):
        if 0 < used < FEWEST_BINS:
            margin = (high - low) / 4 or 1
            narrower = _window(low - margin, high + margin)
            findings.append(
                Finding(
                    "warning",
                    f"lesions use only {used} of {settings.bins} histogram bins: the window is too wide",
                    f"label {label}",
                    "narrow it: " + ("window={percentiles: [1, 99]} or " if own else "") + narrower,
                )
            )
    return findings


def merged(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """Findings alike but for the file become one that names the first few, and their number; errors first."""
    groups = defaultdict(list)
    for finding in findings:
        if finding.level != "note":
            groups[finding.level, finding.what, finding.fix].append(finding.where)
    result = []
    for (level, what, fix), places in groups.items():
        more = f", and {len(places) - SHOWN} more (check_dataset.csv)" if len(places) > SHOWN else ""
        result.append((Finding(level, what, ", ".join(places[:SHOWN]) + more, fix), len(places)))
    return sorted(result, key=lambda pair: pair[0].level)


def _window(low: float, high: float) -> str:
    return f"window=[{low:.4g},{high:.4g}]"
