"""What an inference run leaves beside its images: the manifest (CSV) and the preview (PNG)."""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from LeFusion.dataset.cases import Layout
from LeFusion.dataset.intensity import IntensityMap
from LeFusion.dataset.scans import read_volume
from LeFusion.inference.job import Host
from LeFusion.runtime.pictures import around, lesion_slice, save_contact_sheet
from LeFusion.runtime.processes import Share
from LeFusion.runtime.tables import Table, markdown_table
from LeFusion.textures.histograms import jensen_shannon, wasserstein_distance
from LeFusion.viewer.manifest import layout_text

OUTSIDE = "max_abs_difference_outside"  # column: of voxels that painting may not change
HASHES = ("image_sha256", "label_sha256", "edit_sha256")  # columns: of the files, as they were written
NAMES = {  # of columns in the summary
    "wasserstein": "Wasserstein distance to the histogram asked for",
    "jensen_shannon": "Jensen-Shannon distance to it",
    OUTSIDE: "largest change outside the edit mask",
}
PREVIEW_SIDE = 64  # voxels of a slice shown around the lesion, at least


class Manifest:
    """One row for each output, by case and type.

    Distances, means and deviations are in the images' unit or, where that is "", in shares of each volume's
    range; with several lesion labels, means and deviations are given for each as well. Rows of earlier runs
    in the same folder are kept until their output is painted again.
    """

    def __init__(
        self,
        path: Path,
        bins: int,
        labels: Sequence[int],
        unit: str,
        settings: dict,
        share: Share = Share(),  # noqa: B008 (frozen)
        layout: Layout | None = None,
    ):
        self.layout = "" if layout is None else layout_text(layout)
        self.path, self.bins, self.labels, self.unit = path, bins, labels, unit
        self.settings = {k: str(v) for k, v in settings.items()}
        suffixes = ["", *(f"_{label}" for label in labels)] if len(labels) > 1 else [""]
        self.intensities = [
            f"{of}_{what}{suffix}"
            for suffix in suffixes
            for of in ("lesion", "source")
            for what in ("mean", "sd")
        ]
        self.columns = [
            "case",
            "type",
            "texture",
            "scores",
            "donor",
            "made_from",
            "unit",
            *settings,
            "wasserstein",
            "jensen_shannon",
            *self.intensities,
            "max_abs_difference_rim",
            OUTSIDE,
            "seconds",
            "requested_histogram",
            "obtained_histogram",
            "image",
            "label",
            *HASHES,
            "source",
            "layout",
        ]
        # What manifests of earlier versions, which a run may find, lack
        newer = {"scores", "made_from", "max_abs_difference_rim", *HASHES, "source", "layout"}
        wanted = set(self.columns) - {*newer, *settings}
        self.table = Table(path, lambda row: (row["case"], int(row["type"])), wanted, share)

    @property
    def rows(self) -> dict[tuple[str, int], dict[str, str]]:
        return self.table.rows

    def has(self, case: str, kind: int) -> bool:
        return (case, kind) in self.rows

    def texture(self, case: str, kind: int) -> str:
        """What an output was painted with, as a reader would call it."""
        name = self.rows[case, kind]["texture"]
        return {"own": "its own texture", "given": "the bins given"}.get(name, name)

    def made_from(self, host: Host, requested: Tensor) -> str:
        """16 hexadecimal digits over what makes an output's voxels: image, mask, weights, settings and the
        histogram asked for."""
        loaded = host.loaded
        labels = hashlib.sha256(np.ascontiguousarray(loaded.labels_dhw)).hexdigest() if host.donor else ""
        content = [loaded.volume.sha256, loaded.mask_volume.sha256, labels, requested.tolist(), self.settings]
        if loaded.layout.orientation is not None:
            content.append(loaded.layout.orientation)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def is_stale(self, case: str, kind: int, made_from: str) -> bool:
        """Whether an output was made from something else; of rows of earlier versions that is not known."""
        stored = self.rows.get((case, kind), {}).get("made_from")
        return bool(stored) and stored != made_from

    def add(
        self,
        case,
        kind,
        *,
        texture,
        scores,
        donor,
        made_from,
        requested,
        obtained,
        window,
        lesions,
        values,
        source,
        max_rim,
        max_outside,
        seconds,
        files,
        hashes,
    ) -> None:
        """requested, obtained: (cond_dim,) histograms. lesions: (K, N) bool, of the N voxels of all lesions.
        scores: of the real lesion that was drawn, of each part of the case. values, source: (N,) of the
        painted image and of what was there, in the manifest's unit. files: paths of the image and the label.
        hashes: by column of HASHES; an edit mask that is not saved has none."""
        distance = wasserstein_distance(requested, obtained, self.bins, window)
        measured = {
            "wasserstein": f"{distance:.5g}",
            "jensen_shannon": f"{jensen_shannon(requested, obtained, self.bins):.4f}",
            "max_abs_difference_rim": f"{max_rim:g}",
            OUTSIDE: f"{max_outside:g}",
            "seconds": "" if seconds is None else f"{seconds:.2f}",
        }
        parts = {"": lesions.any(axis=0)}
        if len(self.labels) > 1:
            parts |= {f"_{label}": lesion for label, lesion in zip(self.labels, lesions, strict=True)}
        for suffix, where in parts.items():
            for of, image in (("lesion", values), ("source", source)):
                inside = image[where]
                measured[f"{of}_mean{suffix}"] = f"{inside.mean():.5g}" if inside.size else ""
                measured[f"{of}_sd{suffix}"] = f"{inside.std():.5g}" if inside.size else ""
        histograms = {
            "requested_histogram": " ".join(f"{v:.5f}" for v in requested.tolist()),
            "obtained_histogram": " ".join(f"{v:.5f}" for v in obtained.tolist()),
        }
        paths = dict(zip(("image", "label", "source"), files, strict=True))
        names = {"case": case, "type": str(kind), "texture": texture, "scores": scores, "donor": donor}
        names |= {"made_from": made_from, "unit": self.unit, "layout": self.layout}
        hashes = {column: hashes.get(column, "") for column in HASHES}
        self.table.add(names | self.settings | measured | histograms | paths | hashes)

    def write(self) -> None:
        """Saves what was added, for a run that goes on after this one was killed."""
        self.table.write()

    def join(self) -> None:
        """Makes one file of what all processes wrote."""
        self.table.join(self.columns)

    def made_otherwise(self, keys: set[tuple[str, int]]) -> int:
        """How many of these rows, of those that do not say what they were made from, have other settings."""
        rows = [self.rows[key] for key in keys if key in self.rows and not self.rows[key].get("made_from")]
        return sum(any(row.get(name) != value for name, value in self.settings.items()) for row in rows)

    def summary(self) -> str:
        """A Markdown table: the means of each type, a column each."""
        by_type: dict[int, list[dict[str, str]]] = defaultdict(list)
        for case, kind in sorted(self.rows):
            by_type[kind].append(self.rows[case, kind])
        header = [f"means, {self.unit or 'shares of the range of each volume'}"]
        for kind, rows in sorted(by_type.items()):
            header.append(f"{_head(self.texture(row['case'], kind) for row in rows)} (Image_{kind})")
        table = [["images", *(str(len(by_type[kind])) for kind in sorted(by_type))]]
        for column in ("wasserstein", "jensen_shannon", *self.intensities, OUTSIDE, "seconds"):
            name = NAMES.get(column, re.sub(r" (?=\d)", ", label ", column.replace("_", " ")))
            of_types = [[float(row[column]) for row in by_type[k] if row[column]] for k in sorted(by_type)]
            mean = np.max if column == OUTSIDE else np.mean
            table.append([name, *(f"{mean(found):.3g}" if found else "" for found in of_types)])
        return markdown_table(header, table)


def _head(textures: Iterable[str]) -> str:
    """What stands over a column of images that were painted with these textures."""
    several = set(textures)
    return several.pop() if len(several) == 1 else "drawn"


def save_preview(path: Path, outputs, job, manifest: Manifest, most_cases: int) -> Path:
    """A contact sheet: source, mask outline and every type, in the slice where the lesion is largest.

    Each row in its own intensity window; of larger slices the part around the lesion is shown. A column is
    headed by the texture of its images or, where these have several, "drawn", with each image's own below it.
    """
    by_case = defaultdict(list)
    for output in outputs:
        by_case[output.case].append(output)
    rows, outlines, names, textures = [], [], [], []
    shown = list(by_case)[:most_cases]
    for case in shown:
        host = job.host(case)
        loaded = host.loaded
        lesion = loaded.stored_lesion()
        level = lesion_slice(lesion)
        part = around(lesion[level], PREVIEW_SIDE)
        images = [read_volume(output.image_path) for output in by_case[case]]
        volumes = (loaded.volume, loaded.volume, *images)
        slices = [loaded.axes.to_dhw(volume.values)[level][part] for volume in volumes]
        rows.append([_for_display(values, slices[0], loaded.intensity_map, job.unit) for values in slices])
        labels = np.where(lesion[level], loaded.labels_dhw[level], 0)[part]
        outlines.append([None, labels, *(None for _ in images)])
        textures.append([manifest.texture(case.name, output.kind) for output in by_case[case]])
        names.append(f"{case.name}\nlesion of {host.donor}" if host.donor else case.name)
    heads = [_head(column) for column in zip(*textures, strict=True)]
    folders = [f"Image_{output.kind}" for output in by_case[shown[0]]]
    titles = ["source", "mask", *map("{}\n{}".format, heads, folders)]
    captions = [["", "", *row] for row in textures] if "drawn" in heads else None
    save_contact_sheet(path, rows, outlines, titles, names, (-1, 1), captions)
    return path


def _for_display(
    values: np.ndarray, source: np.ndarray, intensity_map: IntensityMap, unit: str
) -> np.ndarray:
    """In [-1, 1]: by the window or, where that is a volume's whole range, by what is seen of the source."""
    if not unit:
        low, high = (float(v) for v in np.percentile(source, (1, 99)))
        intensity_map = IntensityMap(low, high) if low < high else intensity_map
    return intensity_map.to_network(values)
