"""What the check of a data set leaves behind: report (Markdown), table of the cases (CSV) and picture."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from LeFusion.check.facts import SAMPLE, CaseFacts, CheckSettings, Finding, relative, triple
from LeFusion.check.files import patients_of
from LeFusion.check.findings import bins_in_use, merged
from LeFusion.dataset.axes import Axes
from LeFusion.dataset.boxes import crop, lesion_box
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.volume import on_grid_of
from LeFusion.errors import UserError
from LeFusion.runtime.pictures import lesion_slice, save_contact_sheet
from LeFusion.runtime.tables import markdown_table, write_csv

AXES = ("depth", "height", "width")
MOST_ROWS = 10  # of a table


def findings_text(findings: Sequence[Finding]) -> str:
    """A line for each kind of finding, errors first."""
    lines = ["## Findings", ""]
    for finding, times in merged(findings):
        count = f" ({times})" if times > 1 else ""
        lines.append(f"- **{finding.level}**: {finding.what}{count}: {finding.where}. Fix: {finding.fix}.")
    return "\n".join(lines if len(lines) > 2 else [*lines, "Nothing is wrong."])


def overview(facts: Sequence[CaseFacts], settings: CheckSettings, unit: str | None) -> str:
    """What the data set holds, as Markdown tables. unit: of the intensities, None if there is none."""
    images = [case for case in facts if case.image_path is not None]
    sections = {
        "Cases": _cases_table(facts, images, settings),
        "Geometry": _geometry_tables(images, settings),
        "Labels": _labels_table(images, settings),
        f"Intensities{f', {unit}' if unit else ''}": _intensities_table(images, settings),
        "Lesions": _lesions_tables(images, settings),
        "Histograms of the lesions": _histograms_table(images, settings),
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)


def _cases_table(facts: Sequence[CaseFacts], images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    patients, rule = patients_of([case.name for case in images], settings.layout)
    split_known = any(case.split for case in images)
    rows = [
        ("images", len(images)),
        ("... with a mask", sum(case.mask_path is not None for case in images)),
        ("... with a lesion", sum(case.lesion_voxels(settings.layout) > 0 for case in images)),
        ("... with an error", sum(any(f.level == "error" for f in case.findings) for case in images)),
        ("masks without an image", len(facts) - len(images)),
        *((split, sum(case.split == split for case in images)) for split in ("train", "test") if split_known),
        (f"patients (guess: {rule})", len(set(patients.values()))),
    ]
    return _table(("", "number"), rows)


def _geometry_tables(images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    read = [case for case in images if case.shape]
    spacings = np.array([case.spacing_mm for case in read if case.spacing_mm])
    if not len(spacings):
        return ""
    layout = settings.layout
    if layout.orientation is None and layout.cavity_label is not None:
        where = ["slices", "to the left", "to the back"]
    elif layout.orientation is None:
        where = [
            f"stored axis {axis}" for axis in sorted(range(3), key=lambda axis: axis != layout.depth_axis)
        ]
    else:
        where = [f"to {letter}" for letter in layout.orientation]
    rows = []
    for index, axis in enumerate(AXES):
        voxels = [case.shape[index] for case in read]
        rows.append((f"{axis} ({where[index]})", *_spread(spacings[:, index]), *_spread(voxels)))
    head = ("axis", "mm: min", "median", "max", "voxels: min", "median", "max")
    shapes = Counter(" x ".join(map(str, case.shape)) for case in read)
    kinds = Counter(
        (case.orientation, case.dtype or "-", case.mask_dtype or "-") for case in read if case.orientation
    )
    return "\n\n".join(
        [
            _table(head, rows),
            _table(("shape (depth x height x width)", "cases"), shapes.most_common()),
            _table(
                ("orientation of the stored axes", "image type", "mask type", "cases"),
                [(*kind, number) for kind, number in kinds.most_common()],
            ),
        ]
    )


def _labels_table(images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    layout = settings.layout
    if not any(case.mask_dtype for case in images):
        return ""
    roles = {label: "other" for label in layout.other_labels}
    named = ("cavity", "myocardium", "reference")
    for name in named:
        label = getattr(layout, f"{name}_label", None)
        if label is not None:
            roles[label] = name if roles[label] == "other" else f"{roles[label]}, {name}"
    roles |= {label: f"lesion {number}" for number, label in enumerate(layout.lesion_labels, start=1)}
    found = {label for case in images for label in case.labels}
    rows = [
        (
            f"{label:g}",
            roles.get(label, "unknown"),
            sum(label in case.labels for case in images),
            f"{sum(case.labels.get(label, 0) for case in images):,}",
        )
        for label in sorted({*found, *roles})
    ]
    return _table(("label", "role in the layout", "cases", "voxels"), rows)


def _intensities_table(images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    rows = []
    read = [case for case in images if case.sample is not None]
    if not read:
        return ""
    voxels = sum(math.prod(case.shape) for case in read if case.window)
    clipped = sum(case.clipped for case in read)
    ranges, samples = [case.range for case in read], [case.sample for case in read]
    rows.append(("whole images", *_intensity_row(ranges, samples, clipped, voxels)))
    lesions = [case for case in read if case.lesion_sample is not None]
    if lesions:
        voxels = sum(case.lesion_voxels(settings.layout) for case in lesions)
        clipped = sum(case.lesion_clipped for case in lesions)
        ranges, samples = [case.lesion_range for case in lesions], [case.lesion_sample for case in lesions]
        rows.append(("in lesions", *_intensity_row(ranges, samples, clipped, voxels)))
    head = ("", "min", "1 %", "50 %", "99 %", "max", "below the window", "above")
    note = f"Window: {settings.window}. Percentiles are estimated from at most {SAMPLE} voxels of each case."
    return f"{note}\n\n{_table(head, rows)}"


def _intensity_row(ranges, samples, clipped: np.ndarray, voxels: int) -> list[str]:
    lows, highs = zip(*ranges, strict=True)
    percentiles = np.percentile(np.concatenate(samples), [1, 50, 99])
    numbers = [_short(value) for value in (min(lows), *percentiles, max(highs))]
    return numbers + [f"{count / max(voxels, 1):.1%}" for count in clipped]


def _lesions_tables(images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    rows = []
    for label in settings.layout.lesion_labels:
        having = [case for case in images if case.labels.get(label) and case.spacing_mm]
        if having:
            voxels = [case.labels[label] for case in having]
            ml = [case.labels[label] * case.voxel_ml for case in having]
            rows.append((label, len(having), *_spread(voxels), *_spread(ml)))
    extents = np.array([case.grid_extent for case in images if case.grid_extent])
    if not len(extents):
        return ""
    volumes = _table(
        ("label", "cases", "voxels: min", "median", "max", "ml: min", "median", "max"),
        rows,
    )
    boxes = [
        (axis, *_spread(extents[:, index]), size, int((extents[:, index] > size).sum()))
        for index, (axis, size) in enumerate(zip(AXES, settings.size, strict=True))
    ]
    unfit = int((extents > np.array(settings.size)).any(axis=1).sum())
    boxes.append(("any", "", "", "", "", unfit))
    grid = "" if settings.spacing_mm is None else f" of {triple(settings.spacing_mm)} mm"
    head = (f"extent, voxels{grid}", "min", "median", "max", "the network's region", "do not fit")
    return f"{volumes}\n\n{_table(head, boxes)}"


def _histograms_table(images: Sequence[CaseFacts], settings: CheckSettings) -> str:
    mean, used = bins_in_use(images)
    rows = [
        (label, f"{bins} of {settings.bins}", " ".join(f"{100 * share:.0f}" for share in shares))
        for label, bins, shares in zip(settings.layout.lesion_labels, used, mean, strict=False)
    ]
    return _table(("label", "bins with at least 1 %", "mean share of each bin, in %"), rows) if rows else ""


def write_cases(path: Path, facts: Sequence[CaseFacts], settings: CheckSettings) -> None:
    """A row for each image, and for each mask without one."""
    labels = sorted(
        {*settings.layout.lesion_labels, *settings.layout.other_labels, *(v for c in facts for v in c.labels)}
    )
    rows = []
    for case in facts:
        low, high = case.range or (0, 0)
        problems = (f"{f.level}: {f.what}" + (f": {f.where}" if f.where else "") for f in case.findings)
        measured = bool(case.mask_dtype)
        voxels = case.lesion_voxels(settings.layout)
        rows.append(
            {
                "case": case.name,
                "image": relative(case.image_path, settings.root) if case.image_path else "",
                "mask": relative(case.mask_path, settings.root) if case.mask_path else "",
                "shape": " ".join(map(str, case.shape or ())),
                "spacing_mm": " ".join(f"{mm:.6g}" for mm in case.spacing_mm or ()),
                "orientation": case.orientation,
                "dtype": case.dtype,
                "min": f"{low:.6g}" if case.range else "",
                "max": f"{high:.6g}" if case.range else "",
                **{f"voxels_{label:g}": case.labels.get(label, 0) if measured else "" for label in labels},
                "lesion_ml": f"{voxels * case.voxel_ml:.6g}" if measured and case.spacing_mm else "",
                "extent": " ".join(map(str, case.extent or ())),
                "split": case.split,
                "problem": "; ".join(problems).replace("note: ", ""),
            }
        )
    write_csv(path, rows)


def save_picture(path: Path, facts: Sequence[CaseFacts], settings: CheckSettings, most: int = 12) -> int:
    """Some cases in the slice where their lesions are largest, half of them with findings; -> how many."""
    rows, outlines, names = [], [], []
    for case in _chosen(facts, settings, most):
        image, labels = _stored_arrays(case, settings)
        lesions = np.where(np.isin(labels, settings.layout.lesion_labels), labels, 0)
        region, inside = _network_region(image, labels, lesions, case, settings)
        (level, plane, outline), (_, *zoomed) = _largest(image, lesions), _largest(region, inside)
        rows.append([plane, plane, zoomed[0]])
        outlines.append([None, outline, zoomed[1]])
        ml = case.lesion_voxels(settings.layout) * case.voxel_ml
        name = f"{case.name}\n{ml:.3g} ml, slice {level + 1} of {len(image)}"
        names.append(name + "".join(f"\n{finding.what[:36]}" for finding in case.findings[:1]))
    if rows:
        titles = ["slice along the depth axis", "lesions", "the network's region"]
        save_contact_sheet(path, rows, outlines, titles, names, (0, 1))
    return len(rows)


def _chosen(facts: Sequence[CaseFacts], settings: CheckSettings, most: int) -> list[CaseFacts]:
    """Sorted by lesion volume, over which those without findings are spread evenly."""

    def volume(case: CaseFacts) -> float:
        return case.lesion_voxels(settings.layout) * case.voxel_ml

    shown = sorted((case for case in facts if case.window and case.spacing_mm), key=volume)
    clean = [case for case in shown if not case.findings]
    faulty = [case for case in shown if case.findings][: most - min(len(clean), most // 2)]
    count = min(len(clean), most - len(faulty))
    spread = np.linspace(0, len(clean) - 1, count).round().astype(int)
    return sorted([*faulty, *(clean[index] for index in spread)], key=volume)


def _stored_arrays(case: CaseFacts, settings: CheckSettings) -> tuple[np.ndarray, np.ndarray]:
    """(D, H, W): the image in [0, 1] over the case's window, and its labels, 0 if they can't be used."""
    volume = read_volume(case.image_path)
    axes = Axes.of(volume, settings.layout)
    image = (case.window.to_network(axes.to_dhw(volume.values)) + 1) / 2
    if case.mask_dtype:
        with suppress(UserError):
            return image, axes.to_dhw(on_grid_of(read_volume(case.mask_path), volume).labels)
    return image, np.zeros(image.shape, np.float32)


def _network_region(image, labels, lesions, case: CaseFacts, settings: CheckSettings) -> tuple:
    """What the network sees of image and lesions, in stored voxels; all where the lesions don't fit into it.

    The place is that of LoadedCase.region: around a heart, or around the lesions.
    """
    wanted = settings.spacing_mm or case.spacing_mm
    size = [math.ceil(n * w / s) for n, w, s in zip(settings.size, wanted, case.spacing_mm, strict=True)]
    around = [labels > 0, lesions > 0] if settings.layout.hearts else [lesions > 0]
    for mask in around:
        with suppress(ValueError):
            box = lesion_box(mask, size)
            return crop(image, box, 0.0), crop(lesions, box, 0)
    return image, lesions


def _largest(image: np.ndarray, lesions: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
    """The slice with most lesion voxels, the middle one without: its number, image and lesions."""
    level = lesion_slice(lesions > 0) if lesions.any() else len(image) // 2
    return level, image[level], lesions[level]


def _spread(numbers) -> tuple[str, str, str]:
    return tuple(_short(value) for value in (np.min(numbers), np.median(numbers), np.max(numbers)))


def _short(value: float) -> str:
    """Four digits, none of them an exponent for large numbers."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Markdown; a long one is cut."""
    more = [[f"and {len(rows) - MOST_ROWS} more", *[""] * (len(head) - 1)]] if len(rows) > MOST_ROWS else []
    return markdown_table(head, [*rows[:MOST_ROWS], *more])
