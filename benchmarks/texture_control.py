"""How well painted lesions obey the histogram asked for.

    python benchmarks/texture_control.py --data data/LIDC/Normal --out outputs/texture_control
    python benchmarks/texture_control.py --data data/LIDC/Pathological --out outputs/control_own \
        condition=own types=1 test_txt_dir=data/LIDC/Pathological/test.txt split=test

Paints --data once for each classifier-free guidance scale (--scales) with and without intensity guidance
(--intensity), with every texture type of the data type. A word with an "=" is an override of
LeFusion/inference/inference.py. Distances are between the histogram asked for and the one obtained; "pairs in
order" is the share of (region, pair of types) in which the type that was asked to be brighter is brighter in
the mean; "types in order" is the share in which the type of the higher number is brighter: with real lesions
of like size, what is asked for is not always in the order of the types. Outputs in --out are kept, so that an
interrupted run goes on; tables (Markdown, CSV) go to --out.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from painted import paint, write_tables

from LeFusion.runtime.commandline import command_parser


def measure(scale: float, intensity: float, data: Path, out: Path, overrides: list[str]) -> dict:
    """Paints with one setting. -> one row of the table."""
    setting = [f"guidance_scale={scale:g}", f"intensity_guidance={intensity:g}"]
    rows = paint(out / f"scale-{scale:g}-intensity-{intensity:g}", data, [*overrides, *setting])
    table = {"guidance_scale": f"{scale:g}", "intensity_guidance": f"{intensity:g}", "images": len(rows)}
    for kind in sorted({row["type"] for row in rows}, key=int):
        of_type = [row for row in rows if row["type"] == kind]
        for name, title in (("wasserstein", "Wasserstein"), ("jensen_shannon", "Jensen-Shannon")):
            table[f"{title} {kind}"] = f"{np.mean([float(row[name]) for row in of_type]):.3g}"
    table["mean Wasserstein"] = f"{np.mean([float(row['wasserstein']) for row in rows]):.3g}"
    table["pairs in order"] = in_order(rows)
    table["types in order"] = in_order(rows, number_of)
    seconds = [float(row["seconds"]) for row in rows if row["seconds"]]
    table["s / image"] = f"{np.mean(seconds):.2f}" if seconds else ""
    return table


def asked_mean(row: dict) -> float:
    """Of the histogram asked for, in bins."""
    shares = np.array(row["requested_histogram"].split(), dtype=float)
    return float(shares @ np.arange(len(shares)) / shares.sum())


def number_of(row: dict) -> float:
    return float(row["type"])


def in_order(rows: list[dict], wanted: Callable[[dict], float] = asked_mean) -> str:
    """Share of the (case, pair of its images) whose lesion means are ordered as this value of their rows."""
    by_case = defaultdict(list)
    for row in rows:
        by_case[row["case"]].append((wanted(row), float(row["lesion_mean"])))
    right = [
        (first[0] - second[0]) * (first[1] - second[1]) > 0
        for images in by_case.values()
        for first, second in combinations(images, 2)
        if first[0] != second[0]
    ]
    return f"{sum(right)} of {len(right)} ({np.mean(right):.1%})" if right else ""


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of Image/ and Mask/")
    parser.add_argument("--out", type=Path, default=Path("outputs/texture_control"))
    parser.add_argument("--scales", default="1,2,3", help="of classifier-free guidance, with commas")
    parser.add_argument("--intensity", default="0,1", help="intensity guidance, with commas")
    parser.add_argument(
        "overrides", nargs="*", help="of inference.py; sampler=dpmpp unless one says otherwise"
    )
    arguments = parser.parse_args()
    overrides = arguments.overrides
    if not any(word.startswith("sampler=") for word in overrides):
        overrides = ["sampler=dpmpp", *overrides]
    rows = [
        measure(scale, intensity, arguments.data, arguments.out, overrides)
        for intensity in map(float, arguments.intensity.split(","))
        for scale in map(float, arguments.scales.split(","))
    ]
    write_tables(arguments.out, "texture_control", rows, overrides)


if __name__ == "__main__":
    main()
