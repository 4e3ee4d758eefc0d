"""Seconds to paint a region: the default sampler with our network, against RePaint (2, 2) with a plain one.

    python benchmarks/region.py --threads 2                       # CPU: RePaint's 598 calls from timing a few
    python benchmarks/region.py --device cuda --batch 32 --full   # GPU: all calls are made

Weights are random (speed does not depend on them): --dim 64 is the paper's network; --bundled reads weights.
Each row is a whole run of LeFusion.painting.paint on a region of --size with a ball of --diameter voxels as
lesion. The ratio is to the first row. On a GPU `ours` is also run compiled, with CUDA graphs.
"""

import statistics
import time
from dataclasses import replace
from pathlib import Path

import hydra
import torch
from painted import write_tables
from plain_unet import PlainUNet3D

from LeFusion.diffusion import NoiseSchedule, UNet3D, load_checkpoint
from LeFusion.diffusion.compilation import compile_network
from LeFusion.diffusion.denoiser import Denoiser
from LeFusion.painting import SamplerSettings, paint
from LeFusion.runtime.commandline import PROJECT_ROOT, choose_device, command_parser, plain
from LeFusion.settings import InferenceSettings
from LeFusion.weights import sampler_settings

PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16}
PAPER = SamplerSettings("repaint", jump_length=2, jump_n_sample=2)
TIMED_CALLS = 3  # of the 598, without --full


def default_sampler() -> SamplerSettings:
    """What `lidc_inference.sh` does when nothing is said."""
    with hydra.initialize_config_dir(str(PROJECT_ROOT / "configs"), version_base=None):
        settings = InferenceSettings.of(plain(hydra.compose("inference")))
    return sampler_settings(settings, {})


def case(size: tuple[int, int, int], diameter: float, batch: int) -> dict:
    """Arguments of paint: `batch` noisy regions with a ball in the middle."""
    axes = [torch.arange(n) - (n - 1) / 2 for n in size]
    distance = sum(axis**2 for axis in torch.meshgrid(*axes, indexing="ij")).sqrt()
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(batch, 1, *size, generator=generator) * 2 - 1,
        "lesions": (distance <= diameter / 2).expand(batch, 1, *size).clone(),
        "histogram": torch.full((batch, 16), 1 / 16),
        "addresses": [(0, f"case {number}", 1) for number in range(batch)],
    }


def seconds_of(network, settings: SamplerSettings, given: dict, denoiser: Denoiser, runs: int) -> list[float]:
    """Of whole runs, after a short one that warms up. Results are on the CPU, so nothing runs on."""
    schedule = NoiseSchedule.cosine(300)
    paint(network, schedule, replace(settings, num_steps=2), **given, denoiser=denoiser)
    found = []
    for _ in range(runs):
        start = time.perf_counter()
        paint(network, schedule, settings, **given, denoiser=denoiser)
        found.append(time.perf_counter() - start)
    return found


def extrapolated(network, settings: SamplerSettings, given: dict, denoiser: Denoiser) -> float:
    """Seconds of all calls of a walk, from runs of a few levels without jumps."""
    few = replace(settings, num_steps=TIMED_CALLS, jump_length=1, jump_n_sample=1)
    (seconds,) = seconds_of(network, few, given, denoiser, 1)
    return seconds / TIMED_CALLS * settings.network_calls(NoiseSchedule.cosine(300))


def main() -> None:
    parser = command_parser(__doc__)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--mults", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim-head", type=int, default=32)
    parser.add_argument("--bundled", type=Path, help="weights instead of a random network of --dim")
    parser.add_argument("--size", type=int, nargs=3, default=[32, 64, 64], help="depth, height, width")
    parser.add_argument("--diameter", type=float, default=12, help="of the lesion, voxels")
    parser.add_argument("--batch", type=int, default=1, help="regions at once; seconds are for each")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--full", action="store_true", help="make all calls of RePaint")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=Path("outputs/region"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device, denoiser = choose_device(arguments.device), Denoiser()
    if arguments.bundled:
        checkpoint = load_checkpoint(arguments.bundled)
        network, denoiser = checkpoint.network, Denoiser.of(checkpoint.metadata)
    else:
        sizes = {"attn_heads": arguments.heads, "attn_dim_head": arguments.dim_head}
        network = UNet3D(arguments.dim, 1, None, 16, arguments.mults, **sizes)
    network = network.eval().to(device)
    given, default = case(tuple(arguments.size), arguments.diameter, arguments.batch), default_sampler()
    schedule = NoiseSchedule.cosine(300)

    rows = []

    def add(name: str, settings: SamplerSettings, found: list[float], how: str) -> None:
        seconds = statistics.median(found) / arguments.batch
        rows.append(
            {
                "network": name,
                "sampler": f"{settings.name}, {settings.num_steps or 300} levels, "
                f"({settings.jump_length}, {settings.jump_n_sample})",
                "network calls": settings.network_calls(schedule),
                "s / region": f"{seconds:.3f}",
                "times faster": "",
                "how": how,
            }
        )
        rows[-1]["times faster"] = f"{float(rows[0]['s / region']) / seconds:.0f}"

    yardstick = PlainUNet3D.like(network)
    if arguments.full:
        add("plain, float32", PAPER, seconds_of(yardstick, PAPER, given, denoiser, 1), "1 run")
    else:
        found = [extrapolated(yardstick, PAPER, given, denoiser)]
        add("plain, float32", PAPER, found, f"{TIMED_CALLS} calls timed")
    runs = f"median of {arguments.runs} runs"
    add("ours, float32", PAPER, [extrapolated(network, PAPER, given, denoiser)], f"{TIMED_CALLS} calls timed")
    for name, dtype in PRECISIONS.items():
        network = network.to(dtype)
        found = seconds_of(network, default, given, denoiser, arguments.runs)
        add(f"ours, {name}", default, found, runs)
    if device.type == "cuda":
        compile_network(network, cuda_graphs=True)
        found = seconds_of(network, default, given, denoiser, arguments.runs)
        add("ours, bf16, compiled, CUDA graphs", default, found, runs)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    words = [f"--{key} {value}" for key, value in vars(arguments).items() if key != "out"]
    write_tables(arguments.out, "region", rows, [where, *words])


if __name__ == "__main__":
    main()
