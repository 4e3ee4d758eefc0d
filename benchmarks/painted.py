"""What the benchmarks of painting share: running inference with overrides, and writing tables."""

import csv
import platform
from pathlib import Path

import hydra
import torch

from LeFusion.dataset.storage import write_text
from LeFusion.inference.inference import run
from LeFusion.runtime.commandline import PROJECT_ROOT, plain
from LeFusion.runtime.tables import markdown_table, write_csv
from LeFusion.settings import InferenceSettings


def paint(folder: Path, data: Path, overrides: list[str]) -> list[dict]:
    """Paints `data` into `folder` (what exists there is kept) -> the rows of its manifest."""
    targets = [
        f"dataset_root_dir={data}",
        f"target_img_path={folder}/Image",
        f"target_label_path={folder}/Mask",
    ]
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        config = plain(hydra.compose("inference", [*targets, *overrides]))
    run(InferenceSettings.of(config))
    with open(folder / "Image" / "manifest.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_tables(out: Path, name: str, rows: list[dict], overrides: list[str]) -> None:
    """`name`.csv and `name`.md below `out`, the latter with machine and overrides; printed, too."""
    write_csv(out / f"{name}.csv", rows)
    lines = [markdown_table(list(rows[0]), [list(row.values()) for row in rows])]
    threads, machine = torch.get_num_threads(), platform.processor() or platform.machine()
    chosen = " ".join(overrides) or "default overrides"
    lines.append(f"\n{machine}, {threads} threads, torch {torch.__version__}, {chosen}")
    write_text(out / f"{name}.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(f"wrote {out / f'{name}.md'} and {name}.csv")
