"""Is the synthetic data faithful, diverse and not memorised? Judges the images of any method.

    python evaluate_synthesis.py --real_dir ../data/LIDC/Pathological \
        --synthetic_dir datasets/LeFusion_H_N_prime --source_dir ../data/LIDC/Normal --output_dir report

Writes report.html (one page that needs no other file), report.json, report.md and report.csv. A question that
the data cannot answer (too few lesions, no sources) is left out, with its reason.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from evaluation_pipeline.fidelity import plots
from evaluation_pipeline.fidelity.border import seam
from evaluation_pipeline.fidelity.cnn import cnn_discriminate
from evaluation_pipeline.fidelity.common_grid import common_spacing, median_spacing, median_volume_ml
from evaluation_pipeline.fidelity.compared import Compared, read_compared
from evaluation_pipeline.fidelity.data_types import add_data_flags, data_type_of
from evaluation_pipeline.fidelity.discriminator import discriminate, groups_for, real_halves_auc
from evaluation_pipeline.fidelity.distances import feature_rows, realism
from evaluation_pipeline.fidelity.diversity import diversity
from evaluation_pipeline.fidelity.features import GROUPS, NAMES, REALISM, columns, feature_table
from evaluation_pipeline.fidelity.lesions import Background, Lesion, TooLittleData, scale_of
from evaluation_pipeline.fidelity.lung import told_in_like_lung
from evaluation_pipeline.fidelity.memorisation import memorisation
from evaluation_pipeline.fidelity.profile import compare_profiles
from evaluation_pipeline.fidelity.report import write_report
from evaluation_pipeline.fidelity.seeds import address_generator
from evaluation_pipeline.fidelity.summary import summary_rows
from evaluation_pipeline.fidelity.texture import pooled, requested_against_obtained
from LeFusion.data_types import DataType
from LeFusion.errors import UserError
from LeFusion.runtime.commandline import command_parser, run_with_flags

OTHER_SIZE = 2.0  # times the volume, from where it is said
WORST = 10  # cases listed whose background differs


def run(arguments: argparse.Namespace) -> dict:
    """Reads, measures and writes; returns the report."""
    data_type = data_type_of(arguments, arguments.real_dir)
    as_written = read_compared(arguments, data_type)
    voxels = _voxels(as_written, arguments.spacing_mm)
    compared = as_written.on_grid(voxels["common_mm"])
    print(f"measuring {len(compared.synthetic)} synthetic and {len(compared.real)} real lesions")
    scale = scale_of(data_type)
    features = {name: feature_table(getattr(compared, name), scale) for name in ("real", "synthetic")}
    sections, left_out = {}, {}
    for name, measure in _measures(compared, as_written, features, data_type, arguments).items():
        try:
            sections[name] = measure()
        except TooLittleData as error:
            sections[name], left_out[name] = None, str(error)
    report = {
        "folders": {
            "real": str(arguments.real_dir),
            "synthetic": str(arguments.synthetic_dir),
            "source": str(arguments.source_dir) if arguments.source_dir else None,
        },
        "seed": arguments.seed,
        "data_type": data_type.name,
        "lesion_labels": list(data_type.layout.lesion_labels),
        "unit": data_type.unit,
        "scale": list(scale),
        "lesions": _counts(compared),
        "voxels": voxels,
        "volume_ml": {name: median_volume_ml(getattr(compared, name)) for name in ("real", "synthetic")},
        "without_lesion": compared.without_lesion,
        "sections": sections,
        "left_out": left_out,
    }
    report["notes"] = _notes(report)
    figures = _figures(report, features, compared, data_type.fixed_window)
    written = write_report(Path(arguments.output_dir), report, figures)
    _print(report, written)
    return report


def _measures(
    compared: Compared,
    as_written: Compared,
    features: dict[str, np.ndarray],
    data_type: DataType,
    arguments: argparse.Namespace,
) -> dict[str, Callable[[], dict]]:
    """The sections of the report: what measures each. They raise TooLittleData where that cannot be done."""
    real, synthetic, scale = compared.real, compared.synthetic, scale_of(data_type)
    of_realism = _of_realism(features)
    drawn = partial(address_generator, arguments.seed)
    return {
        "background": lambda: _background(compared.backgrounds),
        "requested_texture": lambda: _requested(as_written, data_type),
        "texture": lambda: pooled(synthetic, real, scale, drawn("texture")),
        "seam": lambda: seam(synthetic, real),
        "profile": lambda: compare_profiles(real, synthetic, drawn("profile")),
        "realism": lambda: (
            realism(*of_realism, [lesion.patient for lesion in real], drawn("realism"))
            | {"features": feature_rows(features["real"], features["synthetic"], NAMES)}
        ),
        "diversity": lambda: diversity(synthetic, of_realism[1], of_realism[0], scale[1] - scale[0]),
        "memorisation": lambda: memorisation(
            synthetic, compared.training, compared.held_out, partial(tqdm, unit="lesion", desc="memorisation")
        ),
        "discriminator": lambda: _discriminator(features, real, synthetic, data_type, arguments.seed),
        "cnn": lambda: _cnn(real, synthetic, scale, arguments),
    }


def _of_realism(features: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The features by which distances are measured, of real and of synthetic lesions."""
    return tuple(features[name][:, columns(REALISM)] for name in ("real", "synthetic"))


def _counts(compared: Compared) -> dict[str, int]:
    lesions = {part: len(getattr(compared, part)) for part in ("real", "training", "held_out", "synthetic")}
    return lesions | {
        "cases": len({lesion.case for lesion in compared.synthetic}),
        "types": len({lesion.kind for lesion in compared.synthetic}),
    }


def _voxels(compared: Compared, given: list[float] | None) -> dict:
    """Sizes (depth, height, width), medians; common_mm: what all are brought to, None: nothing is."""
    if given is not None and not min(given) > 0:
        raise UserError(f"--spacing_mm {' '.join(map(str, given))}: must be above 0")
    real, synthetic = compared.real, compared.synthetic
    return {
        "real_mm": median_spacing(real),
        "synthetic_mm": median_spacing(synthetic),
        "common_mm": tuple(given) if given else common_spacing(real, synthetic),
    }


def _background(backgrounds: list[Background] | None) -> dict:
    if backgrounds is None:
        raise TooLittleData("give --source_dir, the scans that the lesions were painted into")
    if not backgrounds:
        raise TooLittleData("insert with save_edit_mask=true, which says what was painted")
    ranked = sorted(backgrounds, key=lambda found: (-found.largest, found.case, found.kind))
    worst = [
        {"case": b.case, "type": b.kind, "max": b.largest, "mean": b.mean, "changed_voxels": b.changed_voxels}
        for b in ranked[:WORST]
        if b.changed_voxels
    ]
    return {
        "max": ranked[0].largest,
        "mean": sum(b.mean for b in backgrounds) / len(backgrounds),
        "images_changed": sum(b.changed_voxels > 0 for b in backgrounds),
        "images": len(backgrounds),
        "worst": worst,
    }


def _requested(as_written: Compared, data_type: DataType) -> dict:
    if as_written.requested is None:
        raise TooLittleData("give --manifest, the histograms that were asked for")
    return requested_against_obtained(as_written.synthetic, as_written.requested, data_type)


def _groups(real: list[Lesion], synthetic: list[Lesion]) -> tuple[list[str], str]:
    patients = ([lesion.patient for lesion in lesions] for lesions in (real, synthetic))
    return groups_for(*patients, [lesion.case for lesion in synthetic])


def _cnn(
    real: list[Lesion], synthetic: list[Lesion], scale: tuple[float, float], arguments: argparse.Namespace
) -> dict:
    if arguments.no_cnn:
        raise TooLittleData("left out by --no_cnn")
    groups, _ = _groups(real, synthetic)
    generator = address_generator(arguments.seed, "cnn")

    def shown(folds: list, what: str) -> tqdm:
        return tqdm(folds, unit="fold", desc=what)

    return cnn_discriminate(real, synthetic, groups, scale, generator, arguments.seed, shown)


def _discriminator(
    features: dict[str, np.ndarray],
    real: list[Lesion],
    synthetic: list[Lesion],
    data_type: DataType,
    seed: int,
) -> dict:
    patients = [lesion.patient for lesion in real]
    groups, words = _groups(real, synthetic)
    feature_groups = {"all": range(len(NAMES))} | {name: columns(names) for name, names in GROUPS.items()}
    generator = address_generator(seed, "discriminator")
    found = discriminate(features["real"], features["synthetic"], groups, feature_groups, generator, seed)
    try:
        floor = real_halves_auc(features["real"], patients, generator, seed)
    except TooLittleData:
        floor = None
    lung = None
    if data_type.unit == "HU":
        measure = partial(feature_table, scale=scale_of(data_type))
        lung = told_in_like_lung(real, synthetic, measure, groups, address_generator(seed, "lung"), seed)
    return {"groups": words, "features": found, "real_halves": floor, "lung": lung}


def _notes(report: dict) -> dict[str, str]:
    notes, sections, voxels = {}, report["sections"], report["voxels"]
    real, synthetic, common = (
        " x ".join(f"{mm:.3g}" for mm in voxels[key]) + " mm" if voxels[key] else ""
        for key in ("real_mm", "synthetic_mm", "common_mm")
    )
    notes["voxels"] = f"real {real}, synthetic {synthetic} (slices, rows, columns; medians)" + (
        f"; all lesions were brought to {common}, where voxels get larger as means over them"
        if common
        else ""
    )
    volumes = report["volume_ml"]
    if max(volumes.values()) > OTHER_SIZE * min(volumes.values()):
        notes["sizes"] = (
            f"median volume real {volumes['real']:.2g} ml, synthetic {volumes['synthetic']:.2g} ml; "
            "intensities, layers and grain depend on it, so that sizes alone tell these lesions apart"
        )
    if report["without_lesion"]:
        names = report["without_lesion"]
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        notes["without these lesion labels"] = shown
    if sections["memorisation"]:
        part = sections["memorisation"]
        notes["memorisation"] = (
            f"the real column is {part['real_is']}; {part['compared']} of {part['lesions']} synthetic "
            "lesions have a training lesion of like size and shape to be compared with"
        )
    if sections["discriminator"]:
        notes["discriminator"] = f"cross-validated in groups: {sections['discriminator']['groups']}"
    return notes


def _figures(
    report: dict,
    features: dict[str, np.ndarray],
    compared: Compared,
    window: tuple[float, float] | None,
) -> dict[str, Figure]:
    """Figures by section; several of one section as section/number."""
    found, unit = report["sections"], report["unit"]
    figures = {"grid": plots.grid_figure(compared.real, compared.synthetic, window)}
    if found["requested_texture"]:
        figures["requested_texture"] = plots.requested_figure(found["requested_texture"], unit)
    if found["texture"]:
        figures["texture"] = plots.intensity_figure(found["texture"], report["scale"], unit)
    if found["seam"]:
        figures["seam"] = plots.seam_figure(found["seam"], unit)
    if found["realism"]:
        figures["realism/1"] = plots.feature_figure(found["realism"]["features"])
        kinds = [lesion.kind for lesion in compared.synthetic]
        figures["realism/2"] = plots.scatter_figure(*_of_realism(features), kinds)
    if found["diversity"]:
        figures["diversity"] = plots.diversity_figure(found["diversity"])
    if found["memorisation"]:
        figures["memorisation"] = plots.memorisation_figure(found["memorisation"])
    if found["discriminator"]:
        figures["discriminator"] = plots.roc_figure(found["discriminator"]["features"])
    return figures


def _print(report: dict, written: list[Path]) -> None:
    rows = summary_rows(report)
    widths = [max(len(row[name]) for row in rows) for name in ("question", "measure")]
    for row in rows:
        real = f"   (real: {row['real']})" if row["real"] else ""
        print(f"{row['question']:<{widths[0]}}  {row['measure']:<{widths[1]}}  {row['synthetic']}{real}")
    for name, text in report["notes"].items():
        print(f"note: {name}: {text}")
    print(f"wrote {', '.join(str(path) for path in written)}")


def parser() -> argparse.ArgumentParser:
    described = command_parser(
        __doc__.split("\n")[0] + " Paths are relative to the folder that the command starts in."
    )
    add = described.add_argument
    add("--real_dir", required=True, help="real images with lesions and their masks")
    add(
        "--synthetic_dir",
        required=True,
        help="folder of imagesTr/Image_1.. and labelsTr/Mask_1.. (or Image, Mask), or what lefusion insert "
        "wrote: each lesion of its scans is judged",
    )
    add("--source_dir", help="the scans painted into; without it the background is not judged")
    add("--training_dir", help="the real lesions that the method has seen (default: those of --real_dir)")
    add(
        "--test_txt_path",
        help="names of the real cases that no method has seen, one a line (default: test.txt in --real_dir)",
    )
    add(
        "--manifest",
        help="CSV with case, type and requested_histogram, as LeFusion writes it (default: manifest.csv "
        "beside Image_1, if it has these)",
    )
    add("--types", type=int, help="judge the first so many types (default: all)")
    add(
        "--spacing_mm",
        type=float,
        nargs=3,
        metavar=("DEPTH", "HEIGHT", "WIDTH"),
        help="voxels on which all lesions are judged (default: as stored; where real and synthetic ones "
        "differ, the larger of both along each axis)",
    )
    add("--output_dir", default="fidelity_report", help="(default: %(default)s)")
    add("--seed", type=int, default=0, help="of subsets and folds (default: %(default)s)")
    add("--no_cnn", action="store_true", help="leave the 3D network out, which takes a minute or more")
    add_data_flags(described)
    return described


def main(argv: list[str] | None = None) -> None:
    run_with_flags(parser(), run, argv)


if __name__ == "__main__":
    main()
