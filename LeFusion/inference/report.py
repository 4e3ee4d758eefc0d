"""What an inference run leaves beside its images: the manifest (CSV) and the preview (PNG)."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from LeFusion.dataset.dataset import load_case
from LeFusion.dataset.nifti import atomic_file, read_volume
from LeFusion.dataset.transforms import to_depth_first
from LeFusion.histogram import wasserstein_distance
from LeFusion.pictures import lesion_slice, save_contact_sheet

MEASURES = (
    "wasserstein",
    "lesion_mean",
    "lesion_sd",
    "source_mean",
    "source_sd",
    "max_abs_difference_outside",
    "seconds",
)


class Manifest:
    """One row for each output, by case and type. Distances, means and deviations are in the images' units.

    Rows of earlier runs in the same folder are kept until their output is painted again.
    """

    def __init__(self, path: Path, bins: int, settings: dict):
        self.path, self.bins, self.settings = path, bins, {k: str(v) for k, v in settings.items()}
        self.columns = [
            "case",
            "type",
            *settings,
            *MEASURES,
            "requested_histogram",
            "obtained_histogram",
            "image",
            "label",
        ]
        self.rows: dict[tuple[str, int], dict] = {}
        if path.exists():
            with open(path, newline="") as file:
                for row in csv.DictReader(file):
                    if set(self.columns) - set(row):
                        raise ValueError(f"{path} was not written by this command; move it away")
                    self.rows[row["case"], int(row["type"])] = row

    def has(self, case: str, kind: int) -> bool:
        return (case, kind) in self.rows

    def add(
        self,
        case,
        kind,
        *,
        requested,
        obtained,
        window,
        lesion_values,
        source_values,
        max_outside,
        seconds,
        files,
    ) -> None:
        """requested, obtained: (cond_dim,) histograms. lesion_values, source_values: voxels in the lesion."""
        measured = {
            "wasserstein": f"{wasserstein_distance(requested, obtained, self.bins, window):.2f}",
            "lesion_mean": f"{lesion_values.mean():.2f}",
            "lesion_sd": f"{lesion_values.std():.2f}",
            "source_mean": f"{source_values.mean():.2f}",
            "source_sd": f"{source_values.std():.2f}",
            "max_abs_difference_outside": f"{max_outside:g}",
            "seconds": "" if seconds is None else f"{seconds:.2f}",
        }
        histograms = {
            "requested_histogram": " ".join(f"{v:.5f}" for v in requested.tolist()),
            "obtained_histogram": " ".join(f"{v:.5f}" for v in obtained.tolist()),
        }
        paths = dict(zip(("image", "label"), files, strict=True))
        self.rows[case, kind] = (
            {"case": case, "type": str(kind)} | self.settings | measured | histograms | paths
        )

    def write(self) -> None:
        with atomic_file(self.path) as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows[key] for key in sorted(self.rows))

    def made_otherwise(self, keys: set[tuple[str, int]]) -> int:
        """How many of these rows were made with other settings than this run's."""
        rows = [self.rows[key] for key in keys]
        return sum(any(row[name] != value for name, value in self.settings.items()) for row in rows)

    def summary(self) -> str:
        """A Markdown table: the means of each type."""
        by_type = defaultdict(list)
        for (_, kind), row in self.rows.items():
            by_type[kind].append(row)
        lines = [
            "| type | images | Wasserstein | lesion mean | lesion sd | source mean | source sd "
            "| max difference outside | s / image |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for kind, rows in sorted(by_type.items()):
            mean = {
                name: np.mean([float(row[name]) for row in rows if row[name] != ""] or [np.nan])
                for name in MEASURES
            }
            outside = max(float(row["max_abs_difference_outside"]) for row in rows)
            intensities = " | ".join(
                f"{mean[name]:.0f}" for name in MEASURES if name.endswith(("_mean", "_sd"))
            )
            lines.append(
                f"| {kind} | {len(rows)} | {mean['wasserstein']:.1f} | {intensities} | {outside:g} | "
                f"{mean['seconds']:.2f} |"
            )
        return "\n".join(lines)


def save_preview(path: Path, outputs, job, most_cases: int) -> Path:
    """A contact sheet: source, mask outline and every type, in the slice where the lesion is largest."""
    by_case = defaultdict(list)
    for output in outputs:
        by_case[output.case].append(output)
    rows, outlines = [], []
    shown = list(by_case)[:most_cases]
    for case in shown:
        loaded = load_case(case, job.layout, job.window)
        lesion = loaded.lesions_dhw.any(dim=0).numpy()
        level = lesion_slice(lesion)
        source = loaded.volume
        images = [read_volume(output.image_path) for output in by_case[case]]
        slices = [to_depth_first(v.values, job.layout.depth_axis)[level] for v in (source, source, *images)]
        rows.append(slices)
        outlines.append([None, lesion[level], *(None for _ in images)])
        window = (loaded.intensity_map.low, loaded.intensity_map.high)
    titles = ["source", "mask", *(f"Image_{output.kind}" for output in by_case[shown[0]])]
    save_contact_sheet(path, rows, outlines, titles, [case.name for case in shown], window)
    return path
