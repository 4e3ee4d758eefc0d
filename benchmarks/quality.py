"""Quality over network calls: which sampler, how many levels, how much around the lesion.

    python benchmarks/quality.py --data data/LIDC/Pathological --out outputs/quality \\
        test_txt_dir=data/LIDC/Pathological/test.txt split=test
    python benchmarks/quality.py --data ... --out ... ddim:10 ddim:10,margin=8 ddim:10,region=whole@0

Repaints real lesions in place under their own histograms with every setting, so that each painted lesion has
a real one of its shape, place and texture to be compared with. A setting is
sampler:levels[:jump_length:jump_n_sample], then overrides of LeFusion/inference/inference.py with commas,
then the seed if not all (@0). A word with an "=" before any ":" is an override of all settings. Outputs in
--out are kept: several processes may share the settings out, and the one that is started last with all of
them makes the table.

texture: Wasserstein distance of the intensities to the histogram asked for, HU. seam: mean difference of the
gradient at the border from the real lesion's, HU/mm. features: root mean square difference of first-order
and GLCM features from the real lesion's, in standard deviations over the real lesions. Frechet: distance of
the two sets in these features. Lower is better in all. A value is within the noise of --reference when it is
above it by less than twice the standard error of the difference, from the variance between seeds pooled over
all settings with several.
"""

import math
import re
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from painted import paint, write_tables

from evaluation_pipeline.fidelity.border import gradient_at_border
from evaluation_pipeline.fidelity.distances import frechet_distance, standardise
from evaluation_pipeline.fidelity.features import FIRST_ORDER, GLCM, columns, feature_table
from evaluation_pipeline.fidelity.lesions import Lesion, read_lesion, scale_of
from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import find_cases
from LeFusion.dataset.storage import atomic_file
from LeFusion.runtime.commandline import command_parser

LIDC = load_data_type("lidc")
REFERENCE = "repaint:300:5:5"
PAPER = ["repaint:300:1:1", "repaint:300:2:2", REFERENCE, "repaint:300:10:10@0"]
FEW = [f"{name}:{steps}" for name in ("ddim", "dpmpp") for steps in (10, 15, 25, 50)]
OTHERS = ["ddim:5", "ddim:25,eta=1", "ddim:10,spacing=trailing", "ddim:10,spacing=quadratic", "ddim:10:2:2"]
METRICS = {"texture": "HU", "seam": "HU/mm", "features": "sd", "Frechet": ""}


def overrides_of(setting: str) -> list[str]:
    """ddim:10:2:2,eta=1 -> overrides of the inference command."""
    walk, *others = setting.split(",")
    name, steps, *jumps = walk.split(":")
    jump_length, jump_n_sample = jumps or (1, 1)
    return [
        f"sampler={name}",
        f"num_steps={steps}",
        f"schedule_jump_params.jump_length={jump_length}",
        f"schedule_jump_params.jump_n_sample={jump_n_sample}",
        *others,
    ]


def measure(rows: list[dict], real: dict[str, Lesion], real_features: dict[str, np.ndarray]) -> dict:
    """The metrics of one setting and seed, from the rows of its manifest."""
    painted = {}
    for row in rows:
        painted[row["case"]], _, _ = read_lesion(Path(row["image"]), Path(row["label"]), LIDC, row["case"], 1)
    cases = sorted(painted)
    features = feature_table([painted[case] for case in cases], scale_of(LIDC))
    features = features[:, columns((*FIRST_ORDER, *GLCM))]
    theirs, ours = standardise(np.array([real_features[case] for case in cases]), features)
    seams = [abs(gradient_at_border(painted[case]) - gradient_at_border(real[case])) for case in cases]
    return {
        "texture": float(np.mean([float(row["wasserstein"]) for row in rows])),
        "seam": float(np.mean(seams)),
        "features": float(np.sqrt(((ours - theirs) ** 2).mean())),
        "Frechet": frechet_distance(theirs, ours),
        "calls": int(rows[0]["network_calls"]),
        "seconds": [float(row["seconds"]) for row in rows if row["seconds"]],
        "outside": max(float(row["max_abs_difference_outside"]) for row in rows),
    }


def pooled_sd(found: dict[str, list[dict]], metric: str) -> float:
    """Standard deviation between seeds, pooled over the settings that have several."""
    groups = [[run[metric] for run in runs] for runs in found.values() if len(runs) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return math.nan
    return math.sqrt(sum(np.var(group) * len(group) for group in groups) / freedom)


def table_of(found: dict[str, list[dict]], reference: str) -> list[dict]:
    """One row for each setting, fewest calls first; in bold what is within the noise of the reference."""
    table = []
    for setting, runs in sorted(found.items(), key=lambda item: item[1][0]["calls"]):
        row = {"setting": setting, "network calls": runs[0]["calls"], "seeds": len(runs)}
        within_all = reference in found
        for metric, unit in METRICS.items():
            value = np.mean([run[metric] for run in runs])
            text = f"{value:.3g}"
            if reference in found:
                base = found[reference]
                error = pooled_sd(found, metric) * math.sqrt(1 / len(runs) + 1 / len(base))
                within = value <= np.mean([run[metric] for run in base]) + 2 * error
                text, within_all = f"**{text}**" if within else text, within_all and within
            row[f"{metric}, {unit}".removesuffix(", ")] = text
        row["all within noise"] = "yes" if within_all else ""
        seconds = [value for run in runs for value in run["seconds"]]
        row["s / image"] = f"{np.mean(seconds):.2f}" if seconds else ""
        row["largest change outside"] = f"{max(run['outside'] for run in runs):g}"
        table.append(row)
    noise = {"setting": "sd between seeds", "network calls": "", "seeds": ""}
    values = [f"{pooled_sd(found, metric):.2g}" for metric in METRICS]
    names = [name for name in table[0] if name not in noise]
    return [*table, noise | dict(zip(names, [*values, "", "", ""], strict=True))]


def save_plot(path: Path, found: dict[str, list[dict]], reference: str) -> None:
    """Each metric over the number of network calls, every run a point; the reference's level as a line."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    families = sorted({setting.split(":")[0] for setting in found})
    for axis, (metric, unit) in zip(figure.subplots(2, 2).flat, METRICS.items(), strict=True):
        for number, family in enumerate(families):
            points = sorted(
                (run["calls"], run[metric], setting)
                for setting, runs in found.items()
                for run in runs
                if setting.split(":")[0] == family
            )
            axis.scatter(
                [p[0] for p in points], [p[1] for p in points], label=family, color=f"C{number}", s=22
            )
            for calls, value, setting in points:
                text = setting.removeprefix(f"{family}:")
                axis.annotate(text, (calls, value), fontsize=6, xytext=(3, 3), textcoords="offset points")
        if reference in found:
            level, noise = np.mean([run[metric] for run in found[reference]]), pooled_sd(found, metric)
            axis.axhline(level, color="grey", lw=1)
            if np.isfinite(noise):
                axis.axhspan(level - 2 * noise, level + 2 * noise, color="grey", alpha=0.15)
        axis.set(xscale="log", xlabel="network calls", ylabel=f"{metric}, {unit}".removesuffix(", "))
        axis.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.suptitle(f"lower is better; grey: {reference}, two standard deviations between seeds")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Image/ and Mask/, real lesions")
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--reference", default=REFERENCE)
    parser.add_argument("words", nargs="*", help="settings and overrides")
    arguments = parser.parse_args()
    common = [word for word in arguments.words if "=" in word.split(":")[0].split(",")[0]]
    settings = [word for word in arguments.words if word not in common] or [*PAPER, *FEW, *OTHERS]
    common = ["condition=own", "types=1", *common]
    real = {}
    for case in find_cases(arguments.data, LIDC.layout):
        real[case.name], _, _ = read_lesion(case.image_path, case.mask_path, LIDC, case.name, 0)
    found: dict[str, list[dict]] = {}
    features: dict[str, np.ndarray] = {}
    for setting in settings:
        walk, _, only = setting.partition("@")
        runs = []
        for seed in [int(only)] if only else arguments.seeds:
            folder = arguments.out / re.sub("[^A-Za-z0-9.]", "-", walk) / f"seed{seed}"
            rows = paint(folder, arguments.data, [*overrides_of(walk), f"seed={seed}", *common])
            new = [row["case"] for row in rows if row["case"] not in features]
            if new:
                table = feature_table([real[case] for case in new], scale_of(LIDC))
                features |= dict(zip(new, table[:, columns((*FIRST_ORDER, *GLCM))], strict=True))
            runs.append(measure(rows, real, features))
        found[walk] = runs
    write_tables(arguments.out, "quality", table_of(found, arguments.reference), common)
    save_plot(arguments.out / "quality.png", found, arguments.reference)
    print(f"wrote {arguments.out / 'quality.png'}")


if __name__ == "__main__":
    main()
