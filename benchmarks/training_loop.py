"""Painting while a segmenter trains: seconds a lesion on one core, lesions a second of each way to paint, and
how much longer an epoch takes.

    OMP_NUM_THREADS=1 python benchmarks/training_loop.py --out outputs/training_loop
    OMP_NUM_THREADS=1 python benchmarks/training_loop.py --settings num_steps=4,margin=2 num_steps=10

The bundled lung regions whose mask is at most --largest-mm across (sphere of its volume) and the bundled
weights. Epochs of the ways are run in turns, --epochs of each, so that other load on the machine hits all of
them. Their mean counts; let --epochs be a multiple of 1 / --refresh. Ratios are to epochs without painting:
of wall-clock time; of the CPU seconds of all processes, which is what training waits where no core is free;
and of those of the busiest process (the training's, or one that paints), which is what it waits where cores
are free. Other load changes CPU seconds less than wall-clock time.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import wait
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import psutil
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.losses import DiceCELoss
from monai.networks.nets import UNet
from monai.transforms import Compose, ScaleIntensityRanged
from painted import write_tables

from LeFusion import PaintedPool, Painter, RandPaintLesiond, SharedPainter
from LeFusion.data_types import load_data_type
from LeFusion.dataset.cases import find_cases
from LeFusion.runtime.commandline import DEMO_DATA, command_parser

SETTINGS = ["num_steps=10", "num_steps=5,margin=2", "num_steps=4,margin=2", "num_steps=3,margin=2"]
SCALED = ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True)


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--data", type=Path, default=DEMO_DATA / "LIDC" / "Normal")
    parser.add_argument("--largest-mm", type=float, default=12)
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="the last one paints the epochs")
    parser.add_argument("--items", type=int, default=16, help="of an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="of each way")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--prob", type=float, default=1, help="how often an image is painted")
    parser.add_argument("--refresh", type=float, default=0.25, help="the share that is new in an epoch")
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128], help="of the segmenter")
    parser.add_argument("--out", type=Path, default=Path("outputs/training_loop"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = regions(options.data, options.largest_mm)
    items = [alike(found[number % len(found)], number) for number in range(options.items)]
    rows = [one_core(text, items) for text in options.settings]
    write_tables(options.out, "one_core", rows, [f"{len(found)} regions"])
    rows = ways(settings_of(options.settings[-1]), items, options)
    write_tables(options.out, "ways", rows, [options.settings[-1]])


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


def alike(item: dict, number: int) -> dict:
    """The same region, but for `number` HU: two are not one to a painter that keeps what it painted."""
    return item | {"image": item["image"] + number}


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


def ways(settings: dict[str, int], items: list[dict], options: argparse.Namespace) -> list[dict]:
    """An epoch's time of each way to paint, and how many lesions it paints."""
    keys = {"keys": "image", "mask_key": "lesion", "label_key": "label", "prob": options.prob}
    paint = RandPaintLesiond(painter=Painter.load("lidc_edit", device="cpu", **settings), **keys)
    unpainted = [item | {"label": item["lesion"]} for item in items]
    load = partial(DataLoader, batch_size=2)
    workers, every = options.workers, round(1 / options.refresh)
    with (
        SharedPainter.load("lidc_edit", device="cpu", **settings) as shared,
        SharedPainter.load("lidc_edit", device="cpu", every=every, **settings) as keeping,
        SharedPainter.load("lidc_edit", device="cpu", every=every, **settings) as alone,
        PaintedPool(items, paint, refresh=options.refresh, workers=1) as pool,
    ):

        def painted_by(shared_painter: SharedPainter, workers: int) -> Callable[[int], DataLoader]:
            transform = Compose([RandPaintLesiond(painter=shared_painter, **keys), SCALED])
            loader = load(Dataset(items, transform), num_workers=workers, persistent_workers=workers > 0)

            def epoch(number: int) -> DataLoader:
                shared_painter.set_epoch(number)
                return loader

            return epoch

        def of_pool(_: int) -> DataLoader:
            pool.next_epoch()
            return load(Dataset(pool, SCALED))

        online = Dataset(items, Compose([paint, SCALED]))
        of_workers = load(online, num_workers=workers, persistent_workers=True)
        makes: dict[str, tuple[Callable[[int], DataLoader], float]] = {
            "no painting": (lambda _: load(Dataset(unpainted, SCALED)), 0),
            "in the training process": (lambda _: load(online), len(items)),
            f"{workers} loader workers": (lambda _: of_workers, len(items)),
            f"shared painter, {workers} workers": (painted_by(shared, workers), len(items)),
            f"the same, every={every}": (painted_by(keeping, workers), len(items) / every),
            f"the same, every={every}, no workers": (painted_by(alone, 0), len(items) / every),
            f"pool, refresh={options.refresh}": (of_pool, pool.exchanged),
        }
        step = segmenter(options.channels)
        for make, _ in makes.values():  # what is painted once, and the first step, which is slow
            for batch in make(0):
                step(batch)
        wall, every_process, busiest = ({name: [] for name in makes} for _ in range(3))
        for number in range(1, options.epochs + 1):
            for name, (make, _) in makes.items():
                start, before = time.perf_counter(), cpu_seconds()
                for batch in make(number):
                    step(batch)
                wall[name].append(time.perf_counter() - start)
                wait([future for _, future in pool._coming if future is not None])  # counts here
                used = [seconds - before.get(pid, 0) for pid, seconds in cpu_seconds().items()]
                every_process[name].append(sum(used))
                busiest[name].append(max(used))
    seconds = {"epoch s": wall, "all CPU s": every_process, "busiest CPU s": busiest}
    return [row(name, seconds, options.prob * lesions) for name, (_, lesions) in makes.items()]


def row(name: str, seconds: dict[str, dict[str, list[float]]], lesions: float) -> dict:
    """Means of the epochs, as one may paint more than another."""
    mean = {
        what: {name: statistics.mean(found) for name, found in of.items()} for what, of in seconds.items()
    }
    found: dict[str, object] = {"painting": name}
    for what, of in mean.items():
        found |= {what: f"{of[name]:.2f}", f"ratio of {what}": f"{of[name] / of['no painting']:.2f}"}
    return found | {
        "new lesions": f"{lesions:.1f}",
        "lesions/s": f"{lesions / mean['epoch s'][name]:.2f}",
    }


def cpu_seconds() -> dict[int, float]:
    """Of this process and those that it started, which all live as long as it does; by their ids."""
    own = psutil.Process()
    return {one.pid: sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True))}


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
