"""Pictures of judged cases: real and predicted outlines on slices, box plots, learning curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from evaluation_pipeline.cases.evaluation import spacing_mm
from LeFusion.dataset.scans import read_volume
from LeFusion.dataset.storage import atomic_file
from LeFusion.runtime.pictures import save_contact_sheet

CASES_SHOWN = 20
LOWER_IS_BETTER = ("HD95", "Error")


@dataclass(frozen=True)
class PicturedCase:
    """title: left of the row. predictions: one file for each method, in the order of the columns."""

    title: str
    image: Path
    label: Path
    predictions: tuple[Path, ...]


def worst_first(rows: Sequence[dict], metric: str) -> list[dict]:
    """Rows of cases in the order of a metric, the worst first; those where it is nan come last."""
    return sorted(rows, key=lambda row: (np.isnan(row[metric]), badness(metric, row[metric]), row["Case"]))


def badness(metric: str, value: float) -> float:
    """A number that is lower for worse values: distances and errors turned round."""
    return -value if any(word in metric for word in LOWER_IS_BETTER) else value


def save_cases_sheet(
    path: Path,
    cases: Sequence[PicturedCase],
    classes: dict[str, Sequence[int]],
    methods: Sequence[str],
) -> None:
    """A row for each case: the image, then for each class the real outline and each method's.

    The slice is the one in which real and predicted lesions together are largest, across the axis of the
    largest spacing (the shortest axis where all are equal). Grey values run from the volume's 0.5th to its
    99.5th percentile.

    classes: name -> label values that are drawn as one mask.
    """
    rows, outlines = [], []
    for case in cases:
        volume = read_volume(case.image)
        label_maps = [read_volume(file).values for file in (case.label, *case.predictions)]
        axis = _depth_axis(volume.raw.shape, spacing_mm(volume))
        lesions = np.isin(label_maps, [value for values in classes.values() for value in values])
        areas = np.moveaxis(lesions.any(axis=0), axis, 0).sum(axis=(1, 2))
        # without any lesion the middle shows more than the first slice
        number = int(areas.argmax()) if areas.any() else len(areas) // 2
        darkest, brightest = np.percentile(volume.values, (0.5, 99.5))
        picture = (_slice(volume.values, axis, number) - darkest) / max(brightest - darkest, 1e-6)
        masks = [
            _slice(np.isin(labels, list(values)), axis, number)
            for values in classes.values()
            for labels in label_maps
        ]
        rows.append([picture] * (1 + len(masks)))
        outlines.append([None, *masks])
    several = len(classes) > 1
    titles = [f"{m}, {name}" if several else m for name in classes for m in ("real", *methods)]
    save_contact_sheet(
        path, rows, outlines, ["image", *titles], [case.title for case in cases], window=(0, 1)
    )


def save_box_plot(path: Path, values: dict[str, Sequence[float]], metric: str, baseline: str | None) -> None:
    """A box with its quartiles, all points and the mean (diamond) for each experiment; PNG.

    values: experiment -> one number a case, nan left out. The baseline's median is drawn across.
    """
    shown = {name: np.array(numbers)[~np.isnan(numbers)] for name, numbers in values.items()}
    figure = Figure(figsize=(max(4, 1.1 * len(shown) + 1.5), 4.2), layout="constrained")
    axis = figure.subplots()
    positions = range(1, len(shown) + 1)
    axis.boxplot(
        list(shown.values()),
        positions=positions,
        showmeans=True,
        showfliers=False,
        widths=0.5,
        medianprops={"color": "#c1440e"},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 5},
    )
    rng = np.random.default_rng(0)  # the points' sideways scatter
    for position, numbers in zip(positions, shown.values(), strict=True):
        axis.scatter(position + rng.uniform(-0.15, 0.15, len(numbers)), numbers, s=8, alpha=0.5, color="C0")
    if baseline is not None and len(shown[baseline]):
        axis.axhline(np.median(shown[baseline]), color="0.6", linewidth=0.8, linestyle="--")
    axis.set_xticks(positions, shown, rotation=30, ha="right")
    axis.set_ylabel(metric)
    axis.grid(axis="y", alpha=0.3)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def save_learning_curves(
    path: Path, tables: Mapping[int, Sequence[dict]], metric: str, baseline: str | None
) -> None:
    """A metric against the number of real training cases, a curve for each experiment; PNG. With a baseline
    also the difference from it. Bars are the 95 % intervals.

    tables: number -> rows of experiments.compare.
    """
    several = len({row["Model"] for rows in tables.values() for row in rows}) > 1
    curves: dict[str, list[tuple[int, dict]]] = {}
    for count, rows in tables.items():
        for row in rows:
            name = f"{row['Experiment']}, {row['Model']}" if several else row["Experiment"]
            curves.setdefault(name, []).append((count, row))
    panels = (
        {metric: metric} if baseline is None else {metric: metric, "difference": f"{metric} - {baseline}"}
    )
    figure = Figure(figsize=(5.2 * len(panels), 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (column, title) in zip(axes, panels.items(), strict=True):
        for place, (name, points) in enumerate(curves.items()):
            shown = [(count, row) for count, row in points if not np.isnan(row[column])]
            # side by side, or the bars would hide one another
            x = [count * (1 + 0.03 * (place - (len(curves) - 1) / 2)) for count, _ in shown]
            y, low, high = (
                np.array([row[c] for _, row in shown]) for c in (column, f"{column} low", f"{column} high")
            )
            axis.errorbar(
                x, y, (y - low, high - y), marker="o", markersize=4, capsize=2, color=f"C{place}", label=name
            )
        axis.set_xscale("log")
        axis.set_xticks(list(tables), [str(count) for count in tables])
        axis.set_xticks([], minor=True)
        axis.set_xlabel("real training cases")
        axis.set_ylabel(title)
        axis.grid(axis="y", alpha=0.3)
    if baseline is not None:
        axes[1].axhline(0, color="0.6", linewidth=0.8, linestyle="--")
    axes[0].legend(fontsize="small")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _depth_axis(shape: tuple[int, ...], spacing: tuple[float, ...]) -> int:
    return min(range(3), key=lambda axis: (-spacing[axis], shape[axis]))


def _slice(volume: np.ndarray, axis: int, number: int) -> np.ndarray:
    """As shown: rows and columns where depth comes first, else turned upright, as NIfTI stores x first."""
    picture = np.moveaxis(volume, axis, 0)[number]
    return picture if axis == 0 else np.rot90(picture)
