"""Tables of real lesions as JSON files: writing, reading and checking them."""

import json
from os import PathLike
from pathlib import Path

import numpy as np

from LeFusion.dataset.storage import atomic_file, read_json
from LeFusion.errors import UserError
from LeFusion.textures.layers import RIM_MM, SMOOTH_MM
from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.scores import HIGHEST_SCORES

KEYS = ("data_type", "window", "bins", "voxels", "masks", "source", "textures", "depths_mm", "lesions")
OF_HEARTS = "classes"  # a key that tables of hearts have, too
LAYER_BINS, SCORES = "layer_bins", "scores"  # keys that a table may have
SMOOTH = "smooth_mm"  # a key of tables with layers: how smooth the border is that they are counted from
RIM = "rim"  # a key that they may have, too: what is around each lesion
OF_SCANS = ("noise", "lung")  # keys that it may have, too: a number for each lesion
MAY_HAVE = {OF_HEARTS, *OF_SCANS, LAYER_BINS, SCORES, SMOOTH, RIM}


def write_lesion_table(path: str | PathLike, table: LesionTable) -> None:
    """JSON, a line for each lesion: index of its texture, volume in mm3, then the bins of one layer after the
    other, from the border inwards (of hearts: of one label after the other), in ten-thousandths of the
    lesion."""
    head = {key: getattr(table, key) for key in KEYS if key != "lesions"}
    head |= {OF_HEARTS: table.classes} if table.classes else {}
    head |= {SMOOTH: SMOOTH_MM} if table.depths_mm else {}
    head |= {LAYER_BINS: table.layer_bins} if table.layer_bins != table.bins else {}
    rows = [
        json.dumps([int(kind), round(float(volume), 1), *np.rint(row * 1e4).astype(int).flatten().tolist()])
        for kind, volume, row in zip(table.texture, table.volume_mm3, table.layers, strict=True)
    ]
    text = json.dumps(head, indent=2)[:-2]
    for name in OF_SCANS:
        if (values := getattr(table, name)) is not None:
            text += f',\n  "{name}": {json.dumps(np.round(values, 1).tolist())}'
    if table.rim is not None:
        beside = [json.dumps(np.rint(row * 1e4).astype(int).flatten().tolist()) for row in table.rim]
        text += f',\n  "{RIM}": [\n' + ",\n".join(beside) + "\n  ]"
    if table.scores:
        rounded = {name: values.astype(int).tolist() for name, values in table.scores.items()}
        lines = ",\n".join(f"    {json.dumps(name)}: {values}" for name, values in rounded.items())
        text += f',\n  "{SCORES}": {{\n{lines}\n  }}'
    text += ',\n  "lesions": [\n' + ",\n".join(rows) + "\n  ]\n}\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_lesion_table(path: str | PathLike) -> LesionTable:
    """Reads and checks the file; UserError with the file and what is amiss."""
    path = Path(path)
    content = _content(path)
    names, bins = content["textures"], content["bins"]
    fine = content.get(LAYER_BINS, bins)
    if not (isinstance(bins, int) and isinstance(fine, int) and bins > 0 and fine > 0 and fine % bins == 0):
        raise UserError(f"{path}: layer_bins={fine} must be a multiple of bins={bins}, whole numbers above 0")
    try:
        rows = np.array(content["lesions"], dtype=np.float64)
        scans = {name: np.array(content[name], dtype=np.float64) for name in OF_SCANS if name in content}
        window, depths = (tuple(float(v) for v in content[key]) for key in ("window", "depths_mm"))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: lesions, window, {', '.join(OF_SCANS)} and depths_mm must hold numbers ({error})"
        ) from error
    if list(depths) != sorted(set(depths)) or not np.isfinite(depths).all():
        raise UserError(f"{path}: depths_mm={list(depths)} must rise")
    classes = content.get(OF_HEARTS, 0)
    if not isinstance(classes, int) or classes < 0 or (classes and depths):
        raise UserError(f"{path}: classes={classes} must be the number of lesion labels, without depths_mm")
    if depths and content.get(SMOOTH) != list(SMOOTH_MM):
        raise UserError(
            f"{path}: its layers are counted from a border smoothed by {content.get(SMOOTH, 0)} mm, this "
            f"version takes {list(SMOOTH_MM)}; make the table again with fit_lesion_table.py"
        )
    count = classes or len(depths) + 1
    if rows.ndim != 2 or rows.shape[1] != 2 + count * fine:
        raise UserError(f"{path}: each lesion needs a texture, a volume and {count} x {fine} bins")
    _check_scans(path, scans, len(rows))
    kind, volume, layers = rows[:, 0], rows[:, 1], rows[:, 2:].reshape(len(rows), count, -1)
    totals = layers.sum(axis=(1, 2), keepdims=True)
    if not (np.isfinite(rows).all() and (volume > 0).all() and (layers >= 0).all() and (totals > 0).all()):
        raise UserError(f"{path}: volumes must be above 0, bins at least 0 and not all 0")
    scores = _scores(path, content.get(SCORES, {}), len(rows))
    rim = _rim(path, content[RIM], len(rows), fine) if RIM in content else None
    missing = set(range(len(names))) ^ set(kind.tolist())
    if missing:
        raise UserError(f"{path}: textures {sorted(missing)} have no lesion, or no name")
    return LesionTable(
        content["data_type"],
        window,
        bins,
        *(content[key] for key in ("voxels", "masks", "source")),
        tuple(names),
        kind.astype(int),
        volume,
        layers / totals,
        depths,
        classes,
        scores=scores,
        rim=rim,
        **scans,
    )


def _content(path: Path) -> dict:
    """What the file holds, with the keys that it must have."""
    content = read_json(path, "no such file of lesion textures")
    if not isinstance(content, dict) or set(content) - MAY_HAVE != set(KEYS):
        raise UserError(f"{path}: must have the keys {', '.join(KEYS)}")
    return content


def _check_scans(path: Path, scans: dict[str, np.ndarray], count: int) -> None:
    for name, values in scans.items():
        right = values.shape == (count,) and np.isfinite(values).all()
        if not right or (name == "noise" and (values < 0).any()) or (name == "lung" and (values > 0).any()):
            limit = "from 0" if name == "noise" else "up to 0"
            raise UserError(f"{path}: {name} must hold a number {limit} for each of the {count} lesions")


def _rim(path: Path, given: object, count: int, bins: int) -> np.ndarray:
    try:
        rim = np.array(given, dtype=np.float64).reshape(count, len(RIM_MM) + 1, bins)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{path}: {RIM} must hold {len(RIM_MM) + 1} x {bins} numbers for each of the {count} "
            f"lesions ({error})"
        ) from error
    if not (np.isfinite(rim).all() and (rim >= 0).all()):
        raise UserError(f"{path}: {RIM} must hold numbers from 0")
    return rim / np.maximum(rim.sum(axis=2, keepdims=True), 1e-12)


def _scores(path: Path, given: object, count: int) -> dict[str, np.ndarray]:
    if not isinstance(given, dict) or set(given) - set(HIGHEST_SCORES):
        raise UserError(f"{path}: scores may have the keys {', '.join(HIGHEST_SCORES)}, each a list")
    for name, values in given.items():
        right = isinstance(values, list) and len(values) == count
        highest = HIGHEST_SCORES[name]
        if not right or not all(type(v) is int and 0 <= v <= highest for v in values):
            raise UserError(
                f"{path}: scores of {name} must be whole numbers from 0 (not known) to {highest}, one for "
                f"each of the {count} lesions"
            )
    return {name: np.array(values) for name, values in given.items()}


def load_lesion_table(
    path: str | PathLike, data_type: str, window: object, bins: int, classes: int = 1
) -> LesionTable:
    """A table that must be for this data type, window, bins and number of lesion labels; UserError otherwise.

    One of hearts fits any window and number of bins.
    """
    table = read_lesion_table(path)
    stated = {"data_type": table.data_type, "lesion labels": table.classes or 1}
    wanted = {"data_type": data_type, "lesion labels": classes}
    if not table.classes:
        stated |= {"window": list(table.window), "bins": table.bins}
        wanted |= {"window": window, "bins": bins}
    for key, value in stated.items():
        given = list(map(float, wanted[key])) if isinstance(wanted[key], list | tuple) else wanted[key]
        if given != value:
            raise UserError(
                f"{path}: is for {key}={value}, this run has {key}={given}: its bins mean other intensities"
            )
    return table
