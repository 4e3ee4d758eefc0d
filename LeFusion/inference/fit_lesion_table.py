"""Writes lesion textures: real lesions with their sizes; nodules by the radiologists' score for texture.

    python LeFusion/inference/fit_lesion_table.py data/LIDC/Pathological --scores cases.csv
    python LeFusion/inference/fit_lesion_table.py data/LIDC/Pathological --nodules lidc_nodule_histograms.csv
    python LeFusion/inference/fit_lesion_table.py data/EMIDEC/Pathological --hearts \
        --test-txt configs/splits/emidec_test.txt

With --scores (columns name and texture, 1 to 5): of the regions' own lesions, which is what inference draws
from. With --nodules: of many more nodules that are not at hand as images (columns name, patient, volume_mm3,
texture and h00 to h15, on native voxels under the masks of single readers); those that are also regions give
a straight line from their HU to the regions'. Either table may have margin and spiculation (1 to 5) and
calcification (1 to 6), which inference can ask for, too; an empty cell is a score not known. With --hearts:
infarct and no-reflow of each case, relative to the healthy tissue of its heart. Test cases, and with
--nodules their patients, are left out.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import Case, find_cases, patient_of
from LeFusion.dataset.edit import edit_masks
from LeFusion.dataset.loading import LoadedCase, load_case
from LeFusion.errors import UserError
from LeFusion.hearts.tissue import BINS as BINS_OF_TISSUE
from LeFusion.hearts.tissue import WINDOW as WINDOW_OF_TISSUE
from LeFusion.hearts.tissue import relative_histograms, tissue_of
from LeFusion.runtime.commandline import run_command
from LeFusion.textures.layers import DEPTHS_MM, layered_histogram, rim_histograms
from LeFusion.textures.realistic import LesionTable
from LeFusion.textures.scores import HIGHEST_SCORES
from LeFusion.textures.surroundings import Around, grown, lesion_and_walls, look_around, near_walls
from LeFusion.textures.table_files import write_lesion_table

CLASSES = {"ground-glass": (1, 2), "part-solid": (3, 4), "solid": (5,)}
LIDC, EMIDEC = load_data_type("lidc"), load_data_type("emidec")
WINDOW, BINS = tuple(map(float, LIDC.fixed_window)), 16
LAYER_BINS = 4 * BINS  # of the regions' lesions: 22 HU, about the noise of a smooth scan
CAVITY_HU, WIDEST_RIM_MM = 200.0, 5.0
EDGES = np.linspace(*WINDOW, BINS + 1)
RANKS = (np.arange(1000) + 0.5) / 1000
SOURCE = "LIDC-IDRI (Armato et al., Medical Physics 38(2), 2011; CC BY 3.0), no test {}"


def of_regions(cases: list[Case], scores: Path) -> LesionTable:
    """The lesions of the cases, by their scores.

    Without those whose innermost layer is darker than another by CAVITY_HU: the new lesion's place for a
    cavity is not the one in the middle that layers would give it.
    """
    given = _columns(scores, ["name", "texture"]).drop_duplicates("name", keep="last").set_index("name")
    missing = [case.name for case in cases if case.name not in given.index]
    if missing:
        raise UserError(f"{scores}: has no row for {missing[0]}")
    given = given.loc[[case.name for case in cases]]
    loaded = [load_case(case, LIDC.layout, WINDOW) for case in cases]
    around = [look_around(one, one.all_lesions) for one in loaded]
    table = LesionTable(
        data_type="lidc",
        window=WINDOW,
        bins=BINS,
        voxels="1 mm",
        masks="of the regions",
        source=SOURCE.format("case"),
        textures=tuple(CLASSES),
        texture=_classes(scores, given["texture"]),
        volume_mm3=np.array([one.lesion_mm3 for one in loaded]),
        layers=np.stack([_layers(*one) for one in zip(loaded, around, strict=True)]),
        **_of_scans(around),
        rim=np.stack([_rim(*one) for one in zip(loaded, around, strict=True)]),
        depths_mm=DEPTHS_MM,
        scores=_scores(scores, given),
    )
    return table.subset(np.array([not _is_cavity(layers) for layers in table.layers]))


def of_nodules(path: Path, cases: list[Case], test_cases: list[Case]) -> LesionTable:
    """The nodules of a table, but for the patients of test cases, as they would look in the regions."""
    bins = [f"h{number:02d}" for number in range(BINS)]
    table = _columns(path, ["name", "patient", "volume_mm3", "texture", *bins])
    table = table[~table["patient"].isin({patient_of(case.name) for case in test_cases})]
    histograms = table[bins].to_numpy()
    regions, pairs = {case.name: case for case in cases}, []
    for name, shares in zip(table["name"], histograms, strict=True):
        case = regions.get(name.replace("_R_", "_Vol_"))
        if case is not None:
            loaded = load_case(case, LIDC.layout, WINDOW)
            found = loaded.intensity_map.to_source(loaded.image_dhw[loaded.lesions_dhw[0]].numpy())
            pairs.append((_quantiles(shares), np.quantile(found, RANKS)))
    if not pairs:
        raise UserError(f"{path}: no nodule of it is one of the regions, so their HU cannot be compared")
    slope, intercept = np.polyfit(*(np.concatenate(values) for values in zip(*pairs, strict=True)), 1)
    moved = [np.clip(slope * _quantiles(shares) + intercept, *WINDOW) for shares in histograms]
    return LesionTable(
        data_type="lidc",
        window=WINDOW,
        bins=BINS,
        voxels=f"native, brought to 1 mm by HU x {slope:.3f} {intercept:+.1f} (from {len(pairs)} in both)",
        masks="one reader each",
        source=SOURCE.format("patient"),
        textures=tuple(CLASSES),
        texture=_classes(path, table["texture"]),
        volume_mm3=table["volume_mm3"].to_numpy(),
        layers=np.stack([np.histogram(values, EDGES)[0] / len(values) for values in moved])[:, None],
        scores=_scores(path, table),
    )


def of_hearts(cases: list[Case]) -> LesionTable:
    """The lesions of hearts, in units of their healthy tissue."""
    layers, volumes = [], []
    for case in cases:
        loaded = load_case(case, EMIDEC.layout, EMIDEC.window)
        tissue = tissue_of(loaded)
        if tissue is None:
            raise UserError(f"{case.image_path}: the blood in the cavity is not brighter than the muscle")
        voxels = loaded.all_lesions.voxels.flatten(1).sum(dim=1)
        shares = (relative_histograms(loaded, tissue) * (voxels / voxels.sum())[:, None]).numpy()
        layers.append(shares)
        volumes.append(loaded.lesion_mm3)
    return LesionTable(
        data_type="emidec",
        window=WINDOW_OF_TISSUE,
        bins=BINS_OF_TISSUE,
        voxels="native",
        masks="of the cases",
        source="EMIDEC (Lalande et al., Data 5(4):89, 2020; CC BY-NC-SA 4.0, non-commercial), no test case",
        textures=("infarct",),
        texture=np.zeros(len(cases), dtype=int),
        volume_mm3=np.array(volumes),
        layers=np.stack(layers),
        classes=len(EMIDEC.layout.lesion_labels),
    )


def _layers(loaded: LoadedCase, around: Around | None) -> np.ndarray:
    """(layers, LAYER_BINS): see LesionTable. Voxels next to a wall are left out: masks often take in some of
    it."""
    image, lesions, walls = lesion_and_walls(loaded, loaded.all_lesions, around, DEPTHS_MM[-1])
    at_wall = lesions & grown(walls)
    if bool((lesions & ~at_wall).any()):
        lesions, walls = lesions & ~at_wall, walls | at_wall.any(dim=0)
    return layered_histogram(image, lesions, loaded.spacing_mm, LAYER_BINS, walls=walls)[0].numpy()


def _rim(loaded: LoadedCase, around: Around | None) -> np.ndarray:
    """(rim layers, LAYER_BINS): see LesionTable. Without voxels at walls, too."""
    image, lesions, walls = lesion_and_walls(loaded, loaded.all_lesions, around, WIDEST_RIM_MM)
    rim = edit_masks(lesions, WIDEST_RIM_MM, loaded.spacing_mm)[0] & ~lesions[0]
    rim &= ~near_walls(walls, loaded.spacing_mm)
    return rim_histograms(image, lesions[0], rim, loaded.spacing_mm, LAYER_BINS).numpy()


def _is_cavity(layers: np.ndarray) -> bool:
    """(layers, bins) of a lesion: the middle of the innermost is far darker than that of another."""
    held = layers[layers.sum(axis=1) > 0]
    middles = (held.cumsum(axis=1) < held.sum(axis=1, keepdims=True) / 2).sum(axis=1)
    return (middles.max() - middles[-1]) * (WINDOW[1] - WINDOW[0]) / layers.shape[1] > CAVITY_HU


def _of_scans(found: list[Around | None]) -> dict[str, np.ndarray]:
    """noise and lung, in HU, 0 where they cannot be told; see LesionTable."""
    half = (WINDOW[1] - WINDOW[0]) / 2
    return {
        "noise": np.array([around.noise * half if around else 0.0 for around in found]),
        "lung": np.array([(around.lung + 1) * half + WINDOW[0] if around else 0.0 for around in found]),
    }


def _columns(path: Path, names: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path}: no such table")
    table = pd.read_csv(path)
    missing = [name for name in names if name not in table]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}; it needs {', '.join(names)}")
    return table


def _scores(path: Path, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Those of HIGHEST_SCORES whose columns the table has (without "_score"); 0 where a cell is empty."""
    found = {}
    for name, highest in HIGHEST_SCORES.items():
        column = name.removesuffix("_score")
        if column in table:
            values = table[column].fillna(0)
            wrong = values[~values.isin(range(highest + 1))]
            if len(wrong):
                raise UserError(f"{path}: {column} {wrong.iloc[0]} must be a score from 1 to {highest}")
            found[name] = values.to_numpy(dtype=int)
    return found


def _classes(path: Path, scores) -> np.ndarray:
    """Scores (N,) 1 to 5 -> indices of CLASSES."""
    index = {score: number for number, held in enumerate(CLASSES.values()) for score in held}
    wrong = [score for score in scores if score not in index]
    if wrong:
        raise UserError(f"{path}: texture {wrong[0]} must be a score from 1 to 5")
    return np.array([index[score] for score in scores])


def _quantiles(shares: np.ndarray) -> np.ndarray:
    """(bins,) -> HU at RANKS, intensities being even within a bin."""
    return np.interp(RANKS, np.concatenate([[0.0], np.cumsum(shares / shares.sum())]), EDGES)


def fit(
    regions: Path, scores: Path | None, nodules: Path | None, output: Path, test_txt: Path | None = None
) -> None:
    """Writes the table; see the module. Without scores and nodules: of hearts."""
    layout = LIDC.layout if scores or nodules else EMIDEC.layout
    listed = test_txt or regions / "test.txt"
    cases, test_cases = (find_cases(regions, layout, listed, split) for split in ("train", "test"))
    if scores:
        table = of_regions(cases, scores)
    else:
        table = of_nodules(nodules, cases, test_cases) if nodules else of_hearts(cases)
    counts = np.bincount(table.texture, minlength=len(table.textures))
    if not counts.all():
        name = table.textures[int(counts.argmin())]
        raise UserError(f"{scores or nodules}: has no {name} lesion (scores {CLASSES[name]}) to draw from")
    write_lesion_table(output, table)
    parts = ", ".join(f"{count} {name}" for count, name in zip(counts, table.textures, strict=True))
    print(f"wrote {len(table.texture)} lesions ({parts}) to {output}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "regions", type=Path, help="the folder of Image/ and Mask/ (hearts: images/ and labels/)"
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--scores", type=Path, help="a table of the regions' scores for texture")
    source.add_argument("--nodules", type=Path, help="a table of nodules with scores and histograms")
    source.add_argument("--hearts", action="store_true", help="infarcts and no-reflow of data_type=emidec")
    parser.add_argument(
        "--test-txt", type=Path, help="names of the test cases (default: test.txt in the folder)"
    )
    parser.add_argument("--output", type=Path, default=Path("lesion_textures.json"))
    args = parser.parse_args()
    run_command(lambda: fit(args.regions, args.scores, args.nodules, args.output, args.test_txt))


if __name__ == "__main__":
    main()
