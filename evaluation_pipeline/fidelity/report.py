"""The report about synthetic data: JSON, one self-contained HTML page, Markdown and CSV."""

import base64
import io
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evaluation_pipeline.fidelity.memorisation import COPY_CORRELATION
from evaluation_pipeline.fidelity.profile import ALIKE, STRANDS_MM
from LeFusion.dataset.storage import write_text
from LeFusion.runtime.tables import markdown_table

COLUMNS = ("question", "measure", "synthetic", "real", "ideal")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; }
body { margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem; }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .7rem; text-align: left; vertical-align: top; }
.summary td:nth-child(n+4) { white-space: nowrap; } .summary td:nth-child(3) { min-width: 12em; }
th { background: #f4f4f4; } img { max-width: 100%; height: auto; } code { overflow-wrap: anywhere; }
.note { color: #666; } .bad { color: #b3202c; font-weight: 600; }
"""


def summary_rows(report: dict) -> list[dict]:
    """The report's main figures, one row each; a figure that could not be had says why."""
    unit, found = report["unit"], report["sections"]
    rows = []

    def add(section: str, measure: str, synthetic: str, real: str, ideal: str) -> None:
        rows.append(dict(zip(COLUMNS, (section, measure, synthetic, real, ideal), strict=True)))

    for name, reason in report["left_out"].items():
        if name in found and found[name] is None:
            add(name, "not computed", reason, "", "")
    if part := found["background"]:
        add("background", "largest difference outside the masks", f"{part['max']:g}", "", "0")
        add("background", "mean difference outside the masks", f"{part['mean']:.3g}", "", "0")
    if part := found["requested_texture"]:
        text = f"{part['mean']:.4g} ± {part['sd']:.2g}"
        add("texture", f"requested to obtained histogram, Wasserstein ({unit})", text, "", "0")
    if part := found["texture"]:
        cells = [_spread(part[who]) for who in ("synthetic", "real")]
        size = part["lesions_per_set"]
        measure = f"pooled intensities to real ones, Wasserstein ({unit}), {size} lesions a set"
        add("texture", measure, *cells, "as real")
    if part := found["seam"]:
        cells = [
            f"{part[who]['border_gradient_mean']:.4g} ± {part[who]['border_gradient_sd']:.3g}"
            for who in ("synthetic", "real")
        ]
        add("seam", f"gradient magnitude at the border ({unit}/mm)", *cells, "as real")
    if part := found["profile"]:
        for row in part["layers"]:
            where = f"layer {abs(row['layer'])} {'inside' if row['layer'] < 0 else 'outside'} the border"
            _add_told_apart(add, f"{where}, share of the contrast", row)
        _add_told_apart(add, "grain of the core over the scan's", part["grain"])
        alike = f"the same, real ones of the {ALIKE} scans most alike in noise"
        _add_told_apart(add, alike, part["grain_in_like_scans"])
        _add_told_apart(add, f"unevenness of the core, smoothed ({unit})", part["unevenness"])
        _add_told_apart(add, "sharpness across slices at the border over the scan's", part["sharpness"])
        near, far = STRANDS_MM
        _add_told_apart(add, f"strands: likeness from {near:g} to {far:g} mm outside", part["strands"])
        _add_told_apart(
            add, "darkest dot, below all six voxels beside it, over the scan's grain", part["dots"]
        )
    if part := found["realism"]:
        for name, title in (("frechet", "Fréchet"), ("kernel", "kernel (MMD²)")):
            cells = [_spread(part[name][who]) for who in ("synthetic", "real")]
            add(
                "realism",
                f"{title} distance of features, {part['lesions_per_set']} lesions a set",
                *cells,
                "as real",
            )
    if part := found["diversity"]:
        value = part["psnr_within_case_db"]
        add("diversity", "PSNR between the types of a case (dB)", _number(value), "", "low")
        if part["identical_pairs"]:
            add("diversity", "types of a case that are equal (pairs)", str(part["identical_pairs"]), "", "0")
        add(
            "diversity",
            "feature distance within a case",
            _number(part["feature_distance_within_case"]),
            "",
            "high",
        )
        cells = [_number(part[f"feature_distance_{of}"]) for of in ("over_cases", "real")]
        add("diversity", "feature distance over cases", *cells, "as real")
    if part := found["memorisation"]:
        cells = [f"{part[who]['median']:.3f}" if part[who] else "–" for who in ("synthetic", "real")]
        add("memorisation", "correlation with the nearest training lesion, median", *cells, "as real")
        cells = [f"{part[who]['max']:.3f}" if part[who] else "–" for who in ("synthetic", "real")]
        add("memorisation", "the same, highest", *cells, "as real")
        of = part["above"]
        real = [f"{_share(of['held_out'])} held out"] if of["held_out"]["lesions"] else []
        real.append(f"{_share(of['training'])} training, with those of other patients")
        measure = f"lesions above {COPY_CORRELATION} with a training lesion"
        add("memorisation", measure, _share(of["synthetic"]), "; ".join(real), "as real")
        add(
            "memorisation",
            f"copies (above {part['threshold']:.3f})",
            f"{part['copies']} of {part['lesions']}",
            "",
            "0",
        )
    if part := found["discriminator"]:
        floor = part["real_halves"]
        for name, auc in part["features"].items():
            cells = f"{auc['auc']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]", ""
            if name == "all" and floor:
                cells = cells[0], f"{floor['mean']:.3f} [{floor['low']:.3f}, {floor['high']:.3f}]"
            add("discriminator", f"AUC, {name} features", *cells, "0.5")
        if lung := part["lung"]:
            both = lung["lesions"], lung["scan"]
            cells = (f"{auc['auc']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]" for auc in both)
            moved = f"real ones moved from lung of {lung['real_hu']:.0f} to {lung['synthetic_hu']:.0f} HU"
            add("discriminator", f"AUC, all features, {moved}", *cells, "as real")
    if part := found["cnn"]:
        for name, title in (
            ("lesion", "lesion and surroundings"),
            ("surroundings", "lesion blanked: the scan"),
            ("alone", "surroundings blanked: the lesion and 3 mm around it"),
        ):
            auc = part[name]
            text = f"{auc['auc']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]"
            add("3D network", f"AUC, {title}", text, "", "0.5")
    return rows


def _add_told_apart(add: Callable, measure: str, row: dict) -> None:
    """Two rows: the medians, and how well the value alone tells synthetic from real."""
    add("profile", f"{measure}, median", _number(row["synthetic"]), _number(row["real"]), "as real")
    if row["auc"] is not None:
        text = f"{row['auc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        add("profile", f"{measure}, AUC", text, "", "0.5")


def write_report(folder: Path, report: dict, figures: dict[str, Figure]) -> list[Path]:
    """Writes report.json, report.html, report.md and report.csv; returns their paths.

    figures: by section; one not in the sections ("grid") comes first.
    """
    rows = summary_rows(report)
    files = {
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        "report.md": markdown(report, rows),
        "report.csv": _csv(rows),
        "report.html": html(report, rows, figures),
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return [folder / name for name in files]


def markdown(report: dict, rows: Sequence[dict]) -> str:
    """The main table and what was left out."""
    lines = ["# Synthetic lesions against real ones", "", _counts(report), ""]
    lines += [markdown_table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]), ""]
    lines += [f"- {name}: {text}".replace("\n", " ") for name, text in report["notes"].items()]
    return "\n".join(lines) + "\n"


def html(report: dict, rows: Sequence[dict], figures: dict[str, Figure]) -> str:
    """One page that needs no other file, no network and no scripts."""
    sections = report["sections"]
    parts = [
        "<h1>Synthetic lesions against real ones</h1>",
        f"<p>{escape(_counts(report))}</p>",
        _table(
            ("real", "synthetic", "painted into"),
            [
                [
                    f"<code>{escape(str(report['folders'][k] or '–'))}</code>"
                    for k in ("real", "synthetic", "source")
                ]
            ],
        ),
        _table(COLUMNS, [[escape(row[name]) for name in COLUMNS] for row in rows], "summary"),
        *(f'<p class="note"><b>{escape(k)}</b>: {escape(v)}</p>' for k, v in report["notes"].items()),
        "<h2>Lesions</h2>",
        _image(figures.get("grid"), "Real and synthetic lesions"),
    ]
    for name, title, text in SECTIONS:
        if name not in sections:
            continue
        parts += [f"<h2>{title}</h2>", f'<p class="note">{text}</p>']
        if sections[name] is None:
            parts.append(f"<p>Not computed: {escape(report['left_out'][name])}</p>")
            continue
        parts += [_image(figure, title) for key, figure in figures.items() if key.split("/")[0] == name]
        parts.append(_details(name, sections[name]))
    head = (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Synthetic lesions</title>'
        f"<style>{STYLE}</style></head><body>"
    )
    return head + "\n".join(parts) + "</body></html>\n"


SECTIONS = (
    (
        "background",
        "Background",
        "Outside of what was painted (the masks, and a rim where the manifest has an edit margin) "
        "a synthetic image should be its source, bit for bit.",
    ),
    (
        "requested_texture",
        "Texture: requested and obtained",
        "The histogram that was asked for and the one measured on the written image.",
    ),
    (
        "texture",
        "Texture: real and synthetic",
        "Intensities in the lesions; each lesion weighs the same. Distances are between equally large random "
        "subsets; the real column is the same between two halves of the real lesions.",
    ),
    (
        "seam",
        "Seam",
        "Means and quartiles over lesions. A visible seam is a gradient that real borders lack.",
    ),
    (
        "profile",
        "Profile and grain",
        "Layers of voxels across the border (0: the surroundings, 1: the core), and the noise of the core "
        "over that of the scan. A lesion that ends at its mask has nothing in the first layer outside.",
    ),
    (
        "realism",
        "Realism",
        "Distances over standardised radiomics features between equally large random subsets; the real "
        "column is the same between two halves of the real lesions, the least that can be reached. In square "
        "brackets: 95 % over the subsets.",
    ),
    (
        "diversity",
        "Diversity",
        "Distances are between standardised features; a method that paints one lesion again and again has "
        "low ones. PSNR is taken where both masks are.",
    ),
    (
        "memorisation",
        "Memorisation",
        "The highest normalised correlation with a training lesion, aligned by centroid, flips, turns by 90 "
        "degrees and shifts of a voxel, away from the border where the lesion is large enough. A copy lies "
        "above every real lesion and above 0.95. How many real lesions are above 0.95 by chance: those held "
        "out, and those of the training compared with other patients.",
    ),
    (
        "discriminator",
        "Discriminator",
        "A logistic regression told to separate synthetic from real lesions, scored on groups that it has "
        "not seen. Below 0.5: features taken over from real lesions, such as the shapes of masks. The real "
        "column: two random halves of the real lesions (range over repeats). Lung that is denser than "
        "that of the real lesions tells, too: the last row is against real lesions moved to it, and its real "
        "column says how well these are told from themselves as they were.",
    ),
    (
        "cnn",
        "3D network",
        "A small convolutional network on cubes of 24 mm around the lesion, scored on groups that it has not "
        "seen. It also sees the scan: where the same network does as well on cubes whose lesion is blanked, "
        "it tells the scans apart and not the lesions. On cubes in which only the lesion and 3 mm around it "
        "are left it sees the lesion and its noise.",
    ),
)


def _details(name: str, section: dict) -> str:
    if name == "background":
        worst = [
            [escape(r["case"]), str(r["type"]), f"{r['max']:g}", str(r["changed_voxels"])]
            for r in section["worst"]
        ]
        return (
            _table(("case", "type", "largest difference", "changed voxels"), worst)
            if worst
            else ("<p>No voxel outside the masks differs.</p>")
        )
    if name == "requested_texture":
        rows = [[str(kind), f"{value:.4g}"] for kind, value in section["by_type"].items()]
        return _table(("type", "mean Wasserstein distance"), rows)
    if name == "realism":
        names = ("real_mean", "real_sd", "synthetic_mean", "synthetic_sd", "difference_in_sd")
        rows = [[row["feature"], *(f"{row[key]:.4g}" for key in names)] for row in section["features"]]
        return _table(("feature", *(key.replace("_", " ") for key in names)), rows)
    if name == "diversity":
        counts = (
            ("pairs of types of a case that were compared", section["psnr_pairs"]),
            ("pairs that are equal", section["identical_pairs"]),
            ("pairs whose masks do not meet", section["pairs_without_common_voxels"]),
        )
        return _table(("PSNR", ""), [[text, str(number)] for text, number in counts])
    if name == "memorisation":
        ranked = sorted(
            (row for row in section["nearest"] if row["correlation"] is not None),
            key=lambda r: -r["correlation"],
        )
        rows = [
            [
                escape(row["case"]),
                str(row["type"]),
                escape(row["nearest"]),
                f"{row['correlation']:.3f}",
                '<span class="bad">copy</span>' if row["copy"] else "",
            ]
            for row in ranked[:15]
        ]
        return _table(("synthetic", "type", "nearest training lesion", "correlation", ""), rows)
    return ""


def _image(figure: Figure | None, title: str) -> str:
    if figure is None:
        return ""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    coded = base64.b64encode(data.getvalue()).decode()
    return f'<p><img alt="{escape(title)}" src="data:image/png;base64,{coded}"></p>'


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML already. kind: the class of the table in STYLE."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{head}</tr>{body}</table>'


def _counts(report: dict) -> str:
    n = report["lesions"]
    return (
        f"{n['synthetic']} synthetic lesions ({n['types']} types of {n['cases']} cases) and {n['real']} real "
        f"ones; {n['training']} training lesions, {n['held_out']} held out. Intensities in {report['unit']}."
    )


def _csv(rows: Sequence[dict]) -> str:
    return pd.DataFrame(rows, columns=COLUMNS).to_csv(index=False, lineterminator="\n")


def _spread(found: dict) -> str:
    return f"{found['mean']:.4g} [{found['low']:.3g}, {found['high']:.3g}]"


def _share(counts: dict[str, int]) -> str:
    above, lesions = counts["above"], counts["lesions"]
    return f"{above} of {lesions} ({above / lesions:.1%})" if lesions else "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
