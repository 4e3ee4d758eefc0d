"""Painting while a segmenter trains: seconds a lesion on one core, lesions a second of each way to paint, and
how much longer an epoch takes.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py --out outputs/training_loop
    OMP_NUM_THREADS=1 python benchmarks/training_loop.py --settings num_steps=4,margin=2 num_steps=10

The bundled lung regions whose mask is at most --largest-mm across (sphere of its volume) and the bundled
weights. Epochs of the ways are run in turns, --epochs of each, and the median counts, so that other load on
the machine hits all of them. ratio: of an epoch to one without painting. CPU s: of the process that paints,
which other load changes less than wall-clock time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, ScaleIntensityRanged
from painted import write_tables

from LeFusion import PaintedPool, Painter, RandPaintLesiond
from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import find_cases
from LeFusion.runtime.commandline import DEMO_DATA, command_parser

SETTINGS = ["num_steps=10", "num_steps=5,margin=2", "num_steps=4,margin=2", "num_steps=3,margin=2"]
SCALED = ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DEMO_DATA / "LIDC" / "Normal")
    parser.add_argument("--largest-mm", type=float, default=12)
    parser.add_argument(
        "--settings", nargs="+", default=["num_steps=10", "num_steps=5,margin=2", "num_steps=4,margin=2"]
    )
    parser.add_argument("--items", type=int, default=16, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of each way")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--refresh", type=float, default=0.25, help="the share of the pool that is new")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128], help="of the segmenter")
    parser.add_argument("--out", type=Path, default=Path("outputs/training_loop"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = regions(options.data, options.largest_mm)
    items = [found[number % len(found)] for number in range(options.items)]
    rows = [one_core(text, items) for text in options.settings]
    write_tables(options.out, "one_core", rows, [f"{len(found)} regions"])
    painter = Painter.load("lidc_edit", device="cpu", **settings_of(options.settings[-1]))
    write_tables(options.out, "ways", ways(painter, items, options), [options.settings[-1]])


def regions(folder: Path, largest_mm: float) -> list[dict]:
    """Images (1, D, H, W) with their masks."""
    found = []
    for case in find_cases(folder, load_data_type("lidc").layout):
        image, mask = (nibabel.load(path) for path in (case.image_path, case.mask_path))
        mm3 = np.count_nonzero(mask.dataobj) * abs(np.linalg.det(mask.affine[:3, :3]))
        if (6 * mm3 / np.pi) ** (1 / 3) <= largest_mm:
            hu, label = (torch.from_numpy(np.array(one.dataobj))[None] for one in (image, mask))
            affine = torch.from_numpy(image.affine)
            found.append(
                {
                    "image": MetaTensor(hu.float(), affine=affine),
                    "lesion": MetaTensor(label.to(torch.uint8), affine=affine),
                }
            )
    return found


def settings_of(text: str) -> dict[str, int]:
    """num_steps=4,margin=2 -> arguments of Painter.load."""
    return {key: int(value) for key, value in (word.split("=") for word in text.split(","))}


def one_core(text: str, items: list[dict]) -> dict:
    """Seconds a lesion, in this process."""
    painter = Painter.load("lidc_edit", device="cpu", **settings_of(text))
    painter.paint(items[0]["image"], items[0]["lesion"])
    wall, cpu = [], []
    for seed, item in enumerate(items):
        start = time.perf_counter(), time.process_time()
        painter.paint(item["image"], item["lesion"], seed=seed)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {
        "settings": text,
        "CPU s a lesion": f"{statistics.median(cpu):.2f}",
        "wall s": f"{statistics.median(wall):.2f}",
        "fastest": f"{min(wall):.2f}",
    }


def ways(painter: Painter, items: list[dict], options: argparse.Namespace) -> list[dict]:
    """An epoch's time of each way to paint, and how many lesions it paints."""
    paint = RandPaintLesiond("image", "lesion", painter, label_key="label", prob=1)
    unpainted = [item | {"label": item["lesion"]} for item in items]

    def loader(data, workers: int = 0) -> DataLoader:
        return DataLoader(data, batch_size=2, num_workers=workers)

    online = Dataset(items, Compose([paint, SCALED]))
    step = segmenter(options.channels)
    with PaintedPool(items, paint, refresh=options.refresh, workers=options.workers) as pool:

        def of_pool() -> DataLoader:
            pool.next_epoch()
            return loader(Dataset(pool, SCALED))

        makes: dict[str, tuple[Callable[[], DataLoader], int]] = {
            "no painting": (lambda: loader(Dataset(unpainted, SCALED)), 0),
            "in the training process": (lambda: loader(online), len(items)),
            f"{options.workers} loader workers": (lambda: loader(online, options.workers), len(items)),
            f"pool, refresh={options.refresh}, {options.workers} processes": (of_pool, pool.exchanged),
        }
        of_pool()  # paints all of it
        seconds: dict[str, list[float]] = {name: [] for name in makes}
        for _ in range(options.epochs):
            for name, (make, _) in makes.items():
                start = time.perf_counter()
                for batch in make():
                    step(batch)
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    return [
        {
            "painting": name,
            "epoch s": f"{median[name]:.1f}",
            "ratio": f"{median[name] / median['no painting']:.2f}",
            "new lesions": lesions,
            "lesions/s": f"{lesions / median[name]:.2f}",
        }
        for name, (_, lesions) in makes.items()
    ]


def segmenter(channels: list[int]) -> Callable[[dict], None]:
    """-> step(batch): one update of a UNet."""
    network = UNet(3, 1, 1, channels=channels, strides=[2] * (len(channels) - 1), num_res_units=2)
    optimizer, loss_of = torch.optim.AdamW(network.parameters(), 1e-3), DiceCELoss(sigmoid=True)

    def step(batch: dict) -> None:
        optimizer.zero_grad()
        loss_of(network(batch["image"].as_tensor()), batch["label"].as_tensor().float()).backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
