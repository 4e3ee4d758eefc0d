"""The report about synthetic data: JSON, one self-contained HTML page, Markdown and CSV."""

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from evaluation_pipeline.fidelity.summary import COLUMNS, summary_rows
from LeFusion.dataset.storage import write_text
from LeFusion.runtime.tables import markdown_table

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
