"""Finds the texture types of a data set from the histograms of its lesions.

    python LeFusion/inference/fit_textures.py data_type=lidc dataset_root_dir=... test_txt_dir=... \\
        output=textures.json
    python LeFusion/inference/fit_textures.py data_type=lidc histograms_csv=... types=3 output=textures.json

Writes the types (.json, see LeFusion/textures/fitted.py), a picture of them (.png) and the type of each
lesion (.csv). All keys: --help, or configs/fit_textures.yaml.
"""

from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from LeFusion.dataset.cases import Case, find_cases
from LeFusion.dataset.dataset import LesionDataset
from LeFusion.errors import MissingFileError, UserError
from LeFusion.runtime.commandline import (
    absolute_path,
    given_path,
    given_test_list,
    output_folder,
    plain,
    run_command,
)
from LeFusion.runtime.overrides import any_path
from LeFusion.runtime.tables import markdown_table, read_csv, write_csv
from LeFusion.settings import FitTexturesSettings
from LeFusion.textures.fitted import Textures, write_textures
from LeFusion.textures.fitting import Fit, describe, fit_textures
from LeFusion.textures.histograms import condition_from_counts, shift_histogram
from LeFusion.textures.picture import ExampleImages, save_texture_picture


def run(settings: FitTexturesSettings) -> Path:
    """Fits as the settings say; returns the path of the .json file."""
    output = _output(settings.output)
    layout, bins, window = settings.layout, settings.histogram_bins, settings.window
    picture, table = output.with_suffix(".png"), output.with_suffix(".csv")
    source, images, reference_mean = given_path(settings.histograms_csv), None, None
    if source:
        if table.exists() and source.exists() and table.samefile(source):
            raise UserError(f"{table} would be written over histograms_csv; choose another output")
        names, histograms = read_histograms(source, settings.cond_dim, bins)
    else:
        source = given_path(settings.dataset_root_dir)
        cases = find_cases(source, layout, given_test_list(settings.test_txt_dir), settings.split)
        names = [case.name for case in cases]
        histograms, reference_mean = _histograms_of(cases, settings)
        images = ExampleImages(cases, layout, window) if settings.show_lesions else None
    try:
        fit = fit_textures(histograms, bins, settings.types, settings.seed)
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
    textures = describe(fit, histograms, names, settings.data_type, bins, window, reference_mean)
    share_of_range = isinstance(window, str | dict)
    unit = "share of the volume's range" if share_of_range else settings.unit or "image units"
    label_names = {label: name for name, label in (settings.label_names or {}).items()}
    class_names = [label_names.get(label, f"label {label}") for label in layout.lesion_labels]
    save_texture_picture(picture, textures, fit, histograms, class_names, unit, images)
    _write_table(table, names, fit)
    write_textures(output, textures)
    _report(textures, fit, len(names), unit)
    print(f"wrote {output}\nwrote {picture}\nwrote {table}")
    return output


def read_histograms(path: Path, cond_dim: int, bins: int) -> tuple[list[str], np.ndarray]:
    """Names and histograms (N, cond_dim) of a table with columns h00, h01, ... and perhaps name.

    Counts or shares; each class is brought to sum 1. Sorted by name; without names, row 1, row 2, ...
    """
    columns = [f"h{number:02d}" for number in range(cond_dim)]
    try:
        header, rows = read_csv(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path}: no such file; check histograms_csv") from None
    found = [name for name in header if name[:1] == "h" and name[1:].isdigit()]
    if found != columns:
        raise UserError(
            f"{path}: needs the columns {columns[0]} to {columns[-1]} (cond_dim={cond_dim}), "
            f"has {', '.join(found) or 'none of them'}"
        )
    if not rows:
        raise UserError(f"{path}: has no lesion, only a header")
    lesions = {}
    for number, (line, row) in enumerate(rows, start=1):
        name = row["name"] if "name" in header else f"row {number}"
        if not name or name in lesions:
            raise UserError(f"{path}: line {line}: the name {name!r} must be there and occur only once")
        try:
            if None in row:
                raise UserError(f"has {len(row[None])} values more than the header")
            counts = [float(row[column] or "nan") for column in columns]
            lesions[name] = condition_from_counts(counts, cond_dim, bins).double().numpy()
        except ValueError as error:
            raise UserError(f"{path}: line {line}: {error}") from error
    names = sorted(lesions) if "name" in header else list(lesions)
    return names, np.stack([lesions[name] for name in names])


def _histograms_of(cases: list[Case], settings: FitTexturesSettings) -> tuple[np.ndarray, float | None]:
    """(N, cond_dim) of the lesions, whatever their size, and the reference mean that they are stated for.

    With a reference label, each is shifted as if the case's healthy tissue had the mean of all cases: scans
    that are brighter as a whole are no texture of their own.
    """
    layout, bins = settings.layout, settings.histogram_bins
    dataset = LesionDataset(
        cases,
        layout,
        size=settings.region_size,
        window=settings.window,
        bins=bins,
        region="random",  # the histogram is of the whole lesion even where it is larger than the region
        spacing_mm=settings.spacing_mm,
        cache_bytes=0,
    )
    items = [dataset[index] for index in tqdm(range(len(dataset)), unit="case", desc="reading", leave=False)]
    histograms, reference_mean = [item["histogram"].double() for item in items], None
    if layout.reference_label is not None:
        means = [item["reference_mean"] for item in items]
        reference_mean = round(float(np.mean(means)), 6)
        histograms = [
            shift_histogram(histogram, reference_mean - mean, bins)
            for histogram, mean in zip(histograms, means, strict=True)
        ]
    return np.stack([histogram.numpy() for histogram in histograms]), reference_mean


def _output(given: str) -> Path:
    path = absolute_path(given)
    if path.is_dir():
        raise UserError(f"output={path} must be the path of a .json file, but it is a folder")
    output_folder(path.parent, "output")
    return path


def _write_table(path: Path, names: list[str], fit: Fit) -> None:
    types = zip(names, fit.labels.tolist(), strict=True)
    write_csv(path, [{"case": name, "type": kind + 1} for name, kind in types])


def _report(textures: Textures, fit: Fit, lesions: int, unit: str) -> None:
    def number(value: float) -> str:
        return f"{value:.2f}" if np.isfinite(value) else "-"

    print(f"{lesions} lesions in {len(textures.types)} types")
    header = ["type", "lesions", "share", f"mean intensity ({unit})", "silhouette", "medoid"]
    rows = []
    for index, kind in enumerate(textures.types):
        mean = f"{kind.mean_intensity:.2f}" if isinstance(textures.window, str | dict) else None
        silhouette = number(fit.silhouettes[fit.labels == index].mean())
        intensity = mean or round(kind.mean_intensity)
        rows.append([kind.name, kind.lesions, f"{kind.share:.0%}", intensity, silhouette, kind.medoid])
    print(markdown_table(header, rows))
    if fit.scores:
        scores = ", ".join(f"{count}: {number(score)}" for count, score in fit.scores.items())
        print(f"mean silhouette by number of types: {scores}")


@any_path
@hydra.main(version_base=None, config_path="../configs", config_name="fit_textures")
def main(config: DictConfig) -> None:
    run_command(lambda: run(FitTexturesSettings.of(plain(config))))


if __name__ == "__main__":
    main()
