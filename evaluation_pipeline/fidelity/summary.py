"""The main figures of a report, one row each."""

from collections.abc import Callable, Iterator

from evaluation_pipeline.fidelity.memorisation import COPY_CORRELATION
from evaluation_pipeline.fidelity.profile import ALIKE, STRANDS_MM

COLUMNS = ("question", "measure", "synthetic", "real", "ideal")
BOTH = ("synthetic", "real")
Rows = Iterator[tuple[str, str, str, str]]  # measure, synthetic, real, ideal


def summary_rows(report: dict) -> list[dict]:
    """The report's main figures, by COLUMNS; a section that could not be had says why."""
    rows = [(name, "not computed", reason, "", "") for name, reason in report["left_out"].items()]
    for name, (question, rows_of) in SECTIONS.items():
        if part := report["sections"][name]:
            rows += [(question, *row) for row in rows_of(part, report["unit"])]
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def _background(part: dict, _: str) -> Rows:
    yield "largest difference outside the masks", f"{part['max']:g}", "", "0"
    yield "mean difference outside the masks", f"{part['mean']:.3g}", "", "0"


def _requested(part: dict, unit: str) -> Rows:
    text = f"{part['mean']:.4g} ± {part['sd']:.2g}"
    yield f"requested to obtained histogram, Wasserstein ({unit})", text, "", "0"


def _texture(part: dict, unit: str) -> Rows:
    size = part["lesions_per_set"]
    measure = f"pooled intensities to real ones, Wasserstein ({unit}), {size} lesions a set"
    yield measure, *(_spread(part[who]) for who in BOTH), "as real"


def _seam(part: dict, unit: str) -> Rows:
    cells = (
        f"{part[who]['border_gradient_mean']:.4g} ± {part[who]['border_gradient_sd']:.3g}" for who in BOTH
    )
    yield f"gradient magnitude at the border ({unit}/mm)", *cells, "as real"


def _profile(part: dict, unit: str) -> Rows:
    for row in part["layers"]:
        where = f"layer {abs(row['layer'])} {'inside' if row['layer'] < 0 else 'outside'} the border"
        yield from _told_apart(f"{where}, share of the contrast", row)
    near, far = STRANDS_MM
    for measure, name in (
        ("grain of the core over the scan's", "grain"),
        (f"the same, real ones of the {ALIKE} scans most alike in noise", "grain_in_like_scans"),
        (f"unevenness of the core, smoothed ({unit})", "unevenness"),
        ("sharpness across slices at the border over the scan's", "sharpness"),
        (f"strands: likeness from {near:g} to {far:g} mm outside", "strands"),
        ("darkest dot, below all six voxels beside it, over the scan's grain", "dots"),
    ):
        yield from _told_apart(measure, part[name])


def _told_apart(measure: str, row: dict) -> Rows:
    """The medians, and how well the value alone tells synthetic from real."""
    yield f"{measure}, median", *(_number(row[who]) for who in BOTH), "as real"
    if row["auc"] is not None:
        yield f"{measure}, AUC", _auc(row), "", "0.5"


def _realism(part: dict, _: str) -> Rows:
    for name, title in (("frechet", "Fréchet"), ("kernel", "kernel (MMD²)")):
        measure = f"{title} distance of features, {part['lesions_per_set']} lesions a set"
        yield measure, *(_spread(part[name][who]) for who in BOTH), "as real"


def _diversity(part: dict, _: str) -> Rows:
    yield "PSNR between the types of a case (dB)", _number(part["psnr_within_case_db"]), "", "low"
    if part["identical_pairs"]:
        yield "types of a case that are equal (pairs)", str(part["identical_pairs"]), "", "0"
    yield "feature distance within a case", _number(part["feature_distance_within_case"]), "", "high"
    cells = (_number(part[f"feature_distance_{of}"]) for of in ("over_cases", "real"))
    yield "feature distance over cases", *cells, "as real"


def _memorisation(part: dict, _: str) -> Rows:
    nearest = "correlation with the nearest training lesion, median"
    for measure, key in ((nearest, "median"), ("the same, highest", "max")):
        yield measure, *(f"{part[who][key]:.3f}" if part[who] else "–" for who in BOTH), "as real"
    of = part["above"]
    real = [f"{_share(of['held_out'])} held out"] if of["held_out"]["lesions"] else []
    real.append(f"{_share(of['training'])} training, with those of other patients")
    measure = f"lesions above {COPY_CORRELATION} with a training lesion"
    yield measure, _share(of["synthetic"]), "; ".join(real), "as real"
    yield f"copies (above {part['threshold']:.3f})", f"{part['copies']} of {part['lesions']}", "", "0"


def _discriminator(part: dict, _: str) -> Rows:
    floor = part["real_halves"]
    for name, told in part["features"].items():
        by_chance = _auc(floor, "mean") if name == "all" and floor else ""
        yield f"AUC, {name} features", _auc(told), by_chance, "0.5"
    if lung := part["lung"]:
        moved = f"real ones moved from lung of {lung['real_hu']:.0f} to {lung['synthetic_hu']:.0f} HU"
        yield f"AUC, all features, {moved}", _auc(lung["lesions"]), _auc(lung["scan"]), "as real"


def _cnn(part: dict, _: str) -> Rows:
    for name, title in (
        ("lesion", "lesion and surroundings"),
        ("surroundings", "lesion blanked: the scan"),
        ("alone", "surroundings blanked: the lesion and 3 mm around it"),
    ):
        yield f"AUC, {title}", _auc(part[name]), "", "0.5"


# Section of the report -> the question that it answers, and its rows
SECTIONS: dict[str, tuple[str, Callable[[dict, str], Rows]]] = {
    "background": ("background", _background),
    "requested_texture": ("texture", _requested),
    "texture": ("texture", _texture),
    "seam": ("seam", _seam),
    "profile": ("profile", _profile),
    "realism": ("realism", _realism),
    "diversity": ("diversity", _diversity),
    "memorisation": ("memorisation", _memorisation),
    "discriminator": ("discriminator", _discriminator),
    "cnn": ("3D network", _cnn),
}


def _auc(found: dict, key: str = "auc") -> str:
    return f"{found[key]:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


def _spread(found: dict) -> str:
    return f"{found['mean']:.4g} [{found['low']:.3g}, {found['high']:.3g}]"


def _share(counts: dict[str, int]) -> str:
    above, lesions = counts["above"], counts["lesions"]
    return f"{above} of {lesions} ({above / lesions:.1%})" if lesions else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
