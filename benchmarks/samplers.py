"""Compares samplers: how close the painted lesions come to the histograms asked for, and what they cost.

    python benchmarks/samplers.py --data data/LIDC/Normal --out outputs/samplers dpmpp:25 repaint:300:2:2

A word with an "=" is an override of LeFusion/inference/inference.py, any other a sampler,
name:steps[:jump_length:jump_n_sample]. Outputs in --out are kept, so that an interrupted comparison goes on;
the table goes to --out as Markdown and CSV.
"""

import argparse
from pathlib import Path

from painted import paint, write_tables

DEFAULT = ["repaint:300:2:2", "ddim:50", "ddim:25", "ddim:10", "dpmpp:50", "dpmpp:25", "dpmpp:10"]


def overrides_of(sampler: str) -> list[str]:
    name, steps, *jumps = sampler.split(":")
    jump_length, jump_n_sample = jumps or (1, 1)
    return [
        f"sampler={name}",
        f"num_steps={steps}",
        f"schedule_jump_params.jump_length={jump_length}",
        f"schedule_jump_params.jump_n_sample={jump_n_sample}",
    ]


def measure(sampler: str, data: Path, out: Path, extra: list[str]) -> dict:
    """Paints with one sampler and reads its manifest. -> one row of the table."""
    rows = paint(out / sampler.replace(":", "-"), data, [*overrides_of(sampler), *extra])
    table = {"sampler": sampler, "network calls": rows[0]["network_calls"], "images": len(rows)}
    for kind in sorted({row["type"] for row in rows}):
        values = [float(row["wasserstein"]) for row in rows if row["type"] == kind]
        table[f"Wasserstein type {kind}"] = f"{sum(values) / len(values):.1f}"
    seconds = [float(row["seconds"]) for row in rows if row["seconds"]]
    table["s / image"] = f"{sum(seconds) / len(seconds):.2f}"
    table["max difference outside"] = f"{max(float(row['max_abs_difference_outside']) for row in rows):g}"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of Image/ and Mask/")
    parser.add_argument("--out", type=Path, default=Path("outputs/samplers"))
    parser.add_argument("words", nargs="*", help="samplers and overrides")
    arguments = parser.parse_args()
    samplers = [word for word in arguments.words if "=" not in word] or DEFAULT
    extra = [word for word in arguments.words if "=" in word]
    rows = [measure(sampler, arguments.data, arguments.out, extra) for sampler in samplers]
    write_tables(arguments.out, "samplers", rows, extra)


if __name__ == "__main__":
    main()
