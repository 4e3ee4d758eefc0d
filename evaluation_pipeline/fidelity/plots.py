"""The figures of the report about synthetic data."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from evaluation_pipeline.fidelity.distances import standardise
from evaluation_pipeline.fidelity.diversity import BINS
from evaluation_pipeline.fidelity.lesions import Lesion

REAL, SYNTHETIC = "#33658a", "#d1495b"
# Lines beside one in the colour SYNTHETIC: no other red, and to be told apart by the colour-blind
OTHERS = ("#0072b2", "#e69f00", "#009e73", "#444444")
SIDE_MM = 44.0  # of the pictures in the grid
COLUMNS = 8


def intensity_figure(texture: dict, scale: tuple[float, float], unit: str) -> Figure:
    """Shares of the lesions' intensities, real and synthetic."""
    figure, axis = _one(6, 3.2)
    for name, colour in (("real", REAL), ("synthetic", SYNTHETIC)):
        shares = np.array(texture["histograms"][name])
        edges = np.linspace(*scale, len(shares) + 1)
        axis.stairs(shares / np.diff(edges), edges, color=colour, fill=True, alpha=0.25)
        axis.stairs(shares / np.diff(edges), edges, color=colour, label=name)
    axis.set(xlabel=f"intensity in the lesion ({unit})", ylabel="density", xlim=scale)
    axis.legend(frameon=False)
    return figure


def requested_figure(requested: dict, unit: str) -> Figure:
    """The mean histogram asked for and obtained, for each type."""
    kinds, scale = requested["mean_histograms"], requested["scale"]
    figure = Figure(figsize=(2.9 * len(kinds), 2.6), layout="constrained")
    for axis, (kind, (wanted, obtained)) in zip(
        figure.subplots(1, len(kinds), squeeze=False)[0], kinds.items(), strict=True
    ):
        edges = np.linspace(*scale, len(wanted) + 1)
        axis.stairs(wanted, edges, color="0.4", fill=True, alpha=0.4, label="requested")
        axis.stairs(obtained, edges, color=SYNTHETIC, linewidth=1.5, label="obtained")
        axis.set_title(f"texture type {kind}", fontsize=9)
        axis.set(xlabel=unit, xlim=scale)
        _bare(axis)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("share of voxels")
    return figure


def seam_figure(seam: dict, unit: str) -> Figure:
    """Intensity and gradient magnitude over the signed distance to the border, with quartiles."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axis, what, label in zip(
        figure.subplots(1, 2),
        ("intensity_profile", "gradient_profile"),
        (f"intensity ({unit})", f"gradient magnitude ({unit} / mm)"),
        strict=True,
    ):
        for name, colour in (("real", REAL), ("synthetic", SYNTHETIC)):
            low, high = (np.array(q, float) for q in seam[name][f"{what}_quartiles"])
            axis.fill_between(seam["distance_mm"], low, high, color=colour, alpha=0.18, linewidth=0)
            mean = np.array(seam[name][what], float)
            axis.plot(seam["distance_mm"], mean, color=colour, marker="o", markersize=3, label=name)
        axis.axvline(0, color="0.5", linewidth=0.8, linestyle="--")
        axis.set(xlabel="distance to the border (mm; negative: inside)", ylabel=label)
        _bare(axis)
    figure.axes[0].legend(frameon=False)
    return figure


def feature_figure(rows: Sequence[dict]) -> Figure:
    """How far each feature's mean lies from the real lesions' mean, in their standard deviations."""
    figure, axis = _one(6, 0.22 * len(rows) + 0.7)
    differences = [row["difference_in_sd"] for row in rows]
    shown = np.clip(differences, -4, 4)
    axis.barh(range(len(rows)), shown, color=SYNTHETIC, height=0.65)
    for place, (value, length) in enumerate(zip(differences, shown, strict=True)):
        if value != length:
            axis.text(
                length, place, f" {value:+.0f} ", va="center", ha="right" if value > 0 else "left", fontsize=7
            )
    axis.set_yticks(range(len(rows)), [row["feature"] for row in rows], fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set(xlabel="synthetic mean - real mean, in real standard deviations", xlim=(-4, 4))
    return figure


def scatter_figure(real: np.ndarray, synthetic: np.ndarray, kinds: Sequence[int]) -> Figure:
    """The two main directions of the standardised real features, and the synthetic ones among them."""
    real, synthetic = standardise(real, synthetic)
    _, sizes, directions = np.linalg.svd(real, full_matrices=False)
    figure, axis = _one(5.2, 4.2)
    axis.scatter(*(real @ directions[:2].T).T, s=16, color="0.6", label="real")
    for number, kind in enumerate(sorted(set(kinds))):
        chosen = synthetic[np.asarray(kinds) == kind] @ directions[:2].T
        axis.scatter(
            *chosen.T,
            s=16,
            marker="^",
            color=OTHERS[number % len(OTHERS)],
            label=f"synthetic, type {kind}",
            alpha=0.8,
        )
    shares = sizes**2 / max((sizes**2).sum(), 1e-12)
    axis.set(
        xlabel=f"component 1 ({shares[0]:.0%} of the real variance)",
        ylabel=f"component 2 ({shares[1]:.0%})" if len(shares) > 1 else "",
    )
    axis.legend(frameon=False, fontsize=8)
    return figure


def diversity_figure(diversity: dict) -> Figure:
    """How far apart the features of two lesions lie: of one case, of several cases, and of real ones."""
    figure, axis = _one(6, 3)
    edges = np.linspace(0, diversity["largest_distance"], BINS + 1)
    for name, label, style in (
        ("real", "real", {"color": REAL, "fill": True, "alpha": 0.3}),
        ("over_cases", "synthetic, two cases and one type", {"color": SYNTHETIC, "fill": True, "alpha": 0.3}),
        ("within_case", "synthetic, two types of one case", {"color": "0.25", "linewidth": 1.3}),
    ):
        if diversity["distances"][name]:
            axis.stairs(diversity["distances"][name], edges, label=label, **style)
    axis.set(xlabel="distance of the features", ylabel="share of pairs", xlim=(0, edges[-1]))
    axis.legend(frameon=False, fontsize=8)
    return figure


def memorisation_figure(memorisation: dict) -> Figure:
    """How like the nearest training lesion is: synthetic lesions and real ones."""
    figure, axis = _one(6, 3)
    edges = np.linspace(0, 1, 41)
    for name, colour in (("real", REAL), ("synthetic", SYNTHETIC)):
        values = np.clip(memorisation["correlations"][name], 0, 1)
        if len(values):
            shares = np.histogram(values, edges)[0] / len(values)
            label = memorisation["real_is"] if name == "real" else "synthetic"
            axis.stairs(shares, edges, color=colour, fill=True, alpha=0.3, label=label)
    axis.axvline(memorisation["threshold"], color="0.3", linestyle="--", linewidth=1, label="copy above")
    axis.set(
        xlabel="correlation with the nearest training lesion", ylabel="share of lesions", xlim=(0, 1.005)
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def roc_figure(discriminator: dict[str, dict]) -> Figure:
    """The classifier's ROC curve for each group of features."""
    figure, axis = _one(4.8, 4.4)
    colours = cycle(OTHERS)
    for name, found in discriminator.items():
        every = name == "all"
        style = (
            {"linewidth": 2.2, "color": SYNTHETIC} if every else {"linewidth": 1.3, "color": next(colours)}
        )
        axis.plot(*found["roc"], label=f"{name}: {found['auc']:.2f}", **style)
    axis.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=0.8)
    axis.set(xlabel="real taken for synthetic", ylabel="synthetic recognised", aspect="equal")
    axis.legend(frameon=False, fontsize=8, title="features: AUC", title_fontsize=8)
    return figure


def grid_figure(
    real: Sequence[Lesion], synthetic: Sequence[Lesion], window: tuple[float, float] | None, rows: int = 4
) -> Figure:
    """Real lesions above, synthetic ones below, each in the slice where it is largest; mask as an outline.

    Evenly spread over the given order. Left of each pair without, right with the outline. window: (black,
    white); None: the 1st and 99th percentile of what is seen of the real images.
    """
    if window is None:
        window = tuple(np.percentile(np.concatenate([lesion.image.ravel() for lesion in real]), (1, 99)))
    chosen = [_spread_out(lesions, rows * COLUMNS // 2) for lesions in (real, synthetic)]
    counts = [max(1, -(-len(part) * 2 // COLUMNS)) for part in chosen]
    figure = Figure(figsize=(1.35 * COLUMNS, 1.65 * sum(counts)))
    axes = figure.subplots(sum(counts), COLUMNS, squeeze=False)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.25 / sum(counts), wspace=0.04, hspace=0.3)
    for axis in axes.flat:
        axis.set_axis_off()
    for part, first, name in zip(chosen, (0, counts[0]), ("real", "synthetic"), strict=True):
        cells = axes[first:].flat
        for lesion in part:
            image, mask = _picture(lesion)
            plain, outlined = next(cells), next(cells)
            for axis in (plain, outlined):
                axis.imshow(image, cmap="gray", vmin=window[0], vmax=window[1], interpolation="nearest")
            if not mask.all():
                outlined.contour(mask, levels=[0.5], colors="#ffb000", linewidths=0.9)
            label = name if name == "real" else f"synthetic, type {lesion.kind}"
            plain.set_title(f"{label}\n{_shorten(lesion.case)}", fontsize=7.5, loc="left")
    return figure


def _picture(lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
    """A square of SIDE_MM around the lesion (larger if it is); beyond the cut: the darkest value there."""
    level = int(lesion.mask.sum(axis=(1, 2)).argmax())
    image, mask = lesion.image[level], lesion.mask[level]
    step = lesion.spacing_mm[1]
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    side = max(round(SIDE_MM / step), np.ptp(rows) + 7, np.ptp(columns) + 7)
    centre = [(line[0] + line[-1] + 1) // 2 for line in (rows, columns)]
    pad = [(side, side), (side, side)]
    part = tuple(slice(c + side - side // 2, c + side - side // 2 + side) for c in centre)
    return np.pad(image, pad, constant_values=image.min())[part], np.pad(mask, pad)[part]


def _spread_out(lesions: Sequence[Lesion], count: int) -> list[Lesion]:
    places = np.unique(np.linspace(0, len(lesions) - 1, min(count, len(lesions))).round().astype(int))
    return [lesions[place] for place in places]


def _shorten(name: str, longest: int = 22) -> str:
    name = name.replace("$", r"\$")  # matplotlib would read it as mathematics
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _one(width: float, height: float) -> tuple[Figure, object]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    _bare(axis)
    return figure, axis


def _bare(axis) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)  # no grid lines over bars
