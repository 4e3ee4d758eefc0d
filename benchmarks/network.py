"""Times one call of the network on one region, with each of its optimisations and without.

    python benchmarks/network.py --dim 64 --threads 2 --allocator both --out outputs/network
    python benchmarks/network.py --device cuda --batch 8
    python benchmarks/network.py --variants plain ours --size 16 64 64 --runs 3
    python benchmarks/network.py --variant ours --json

Every variant runs in a fresh process (the last form is such a process; it writes no table): a call to warm
up, three where something is compiled or recorded, then --runs calls. `ours-out-of-place` takes the path with
gradients, which works neither in place nor in pieces: compare it with `ours-unchunked`. The table (Markdown,
CSV) goes to --out:

- ratio to plain: median over that of `plain` with the first allocator; smaller is faster.
- GFLOP: of the convolutions and matrix products that plain needs, whatever the variant does.
- of peak: these a second, over what a large matrix product of the same dtype reaches in the same process.
- MiB: on a GPU the most that was allocated, weights included; on a CPU how much the process grew in all calls
  beyond its size with weights and inputs (for a compiled variant, compiling included).
- difference: largest |variant - plain| over largest |plain|.

Float32 means float32: TF32 is off unless --tf32. --allocator tuned runs with the settings of glibc's malloc
that keep freed memory in the process. A variant that fails is a row that says why, and the exit code is 1.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import torch
from measuring import (
    BINS,
    child_options,
    chosen,
    failed_cells,
    is_cuda,
    make_parser,
    measure_apart,
    peak_mib,
    restart_peak,
    seeded_network,
    set_up,
    wait_for,
    with_malloc,
    write_and_exit,
)
from plain_unet import PlainUNet3D
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from LeFusion.diffusion import unet
from LeFusion.errors import UserError

NO_LIMIT = 1 << 60
CUDA_GRAPHS = "reduce-overhead"


@dataclass(frozen=True)
class Variant:
    """plain: options of PlainUNet3D, None for ours. compile: mode of torch.compile, None for eager."""

    plain: dict | None = None
    dtype: torch.dtype = torch.float32
    chunked: bool = True
    in_place: bool = True
    compile: str | None = None


VARIANTS = {
    "plain": Variant({}),
    "plain+sdpa": Variant({"sdpa": True}),
    "plain+complex-rotary": Variant({"complex_rotary": True}),
    "ours-out-of-place": Variant(in_place=False),
    "ours-unchunked": Variant(chunked=False),
    "ours": Variant(),
    "ours-bf16": Variant(dtype=torch.bfloat16),
    "ours-compiled": Variant(compile="default"),
    "ours-bf16-compiled": Variant(dtype=torch.bfloat16, compile="default"),
    "ours-cuda-graphs": Variant(compile=CUDA_GRAPHS),
}


def chosen_variants(arguments: argparse.Namespace) -> list[str]:
    cuda = is_cuda(arguments.device)
    fits = {None: True, "default": cuda or arguments.compile, CUDA_GRAPHS: cuda}
    return chosen({name: fits[variant.compile] for name, variant in VARIANTS.items()}, arguments)


# --- one variant, in a process of its own


def measure(name: str, arguments: argparse.Namespace) -> dict:
    """-> milliseconds of each call, gflop of a call, peak_gflops a second, mib, difference."""
    variant, device = VARIANTS[name], arguments.device
    if variant.compile == CUDA_GRAPHS and not is_cuda(device):
        raise UserError(f"{name} needs a CUDA device, got --device {device}")
    set_up(arguments)
    inputs = make_inputs(arguments)
    network = make_network(variant, arguments)

    start_of_peak = restart_peak(device)
    for _ in range(1 if variant.compile is None else 3):
        out = timed(network, inputs, variant, device)[1].float().clone()  # CUDA graphs reuse their output
    seconds = [timed(network, inputs, variant, device)[0] for _ in range(arguments.runs)]
    mib = peak_mib(device) - start_of_peak
    del network

    plain = make_network(VARIANTS["plain"], arguments)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        expected = plain(*inputs)
    return {
        "milliseconds": [1e3 * s for s in seconds],
        "gflop": counter.get_total_flops() / 1e9,
        "peak_gflops": matmul_gflops(device, variant.dtype),
        "mib": mib,
        "difference": float((out - expected).abs().max() / expected.abs().max()),
    }


def make_inputs(arguments: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x_t (B, 1, D, H, W), t (B,), condition (B, BINS)."""
    generator, batch = torch.Generator().manual_seed(1), arguments.batch
    x_t = torch.randn(batch, 1, *arguments.size, generator=generator)
    t, condition = torch.full((batch,), 100), torch.rand(batch, BINS, generator=generator)
    return tuple(value.to(arguments.device) for value in (x_t, t, condition))


def make_network(variant: Variant, arguments: argparse.Namespace) -> nn.Module:
    network = seeded_network(arguments).eval()
    if variant.plain is not None:
        network = PlainUNet3D.like(network, **variant.plain)
    if not variant.chunked:
        unet.CHUNK_BYTES = unet.GPU_CHUNK_BYTES = NO_LIMIT
    network = network.to(arguments.device, variant.dtype).requires_grad_(False)
    return network if variant.compile is None else torch.compile(network, mode=variant.compile, dynamic=False)


def timed(network: nn.Module, inputs: tuple, variant: Variant, device: str) -> tuple[float, torch.Tensor]:
    """-> seconds of a call, and its output. No weight needs gradients, so gradient mode records nothing here:
    all it does is to keep the network from working in place and in pieces."""
    with torch.set_grad_enabled(not variant.in_place):
        wait_for(device)
        start = time.perf_counter()
        out = network(*inputs)
        wait_for(device)
        return time.perf_counter() - start, out


def matmul_gflops(device: str, dtype: torch.dtype) -> float:
    """-> a second, in the fastest of three large matrix products after one to warm up."""
    size = 8192 if is_cuda(device) else 2048
    product = nn.Linear(size, size, bias=False).to(device, dtype)
    factor = torch.randn(size, size).to(device, dtype)
    seconds = [timed(product, (factor,), Variant(), device)[0] for _ in range(4)]
    return 2e-9 * size**3 / min(seconds[1:])


# --- the table


def row_of(name: str, allocator: str, result: dict | str, plain_ms: float | None) -> dict[str, str]:
    """One row of the table; a result that is a text is the reason why there is none."""
    row = {"variant": name, "allocator": allocator}
    columns = (
        "median ms",
        "min ms",
        "max ms",
        "ratio to plain",
        "GFLOP",
        "peak GFLOP/s",
        "of peak",
        "MiB",
        "difference",
    )
    if isinstance(result, str):
        return row | failed_cells(columns, result)
    ms = statistics.median(result["milliseconds"])
    numbers = (
        f"{ms:.4g}",
        f"{min(result['milliseconds']):.4g}",
        f"{max(result['milliseconds']):.4g}",
        f"{ms / plain_ms:.3f}" if plain_ms else "",
        f"{result['gflop']:.4g}",
        f"{result['peak_gflops']:.4g}",
        f"{result['gflop'] / (ms / 1e3) / result['peak_gflops']:.1%}",
        f"{result['mib']:.0f}",
        f"{result['difference']:.1e}",
    )
    return row | dict(zip(columns, numbers, strict=True))


def compare(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """Measures all variants, one after the other -> the rows of the table."""
    allocators = ["default", "tuned"] if arguments.allocator == "both" else [arguments.allocator]
    rows, plain_ms = [], None
    for name in chosen_variants(arguments):
        for allocator in allocators:
            options = child_options(arguments, "runs")
            result = measure_apart(__file__, name, options, with_malloc(allocator))
            if name == "plain" and plain_ms is None and isinstance(result, dict):
                plain_ms = statistics.median(result["milliseconds"])
            rows.append(row_of(name, allocator, result, plain_ms))
            print(f"{name}, {allocator} allocator: {rows[-1]['median ms']}", flush=True)
    return rows


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = make_parser(__doc__, VARIANTS, "outputs/network")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--allocator", choices=["default", "tuned", "both"], default="default")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs {arguments.runs} must be at least 1")
    return arguments


def main() -> None:
    arguments = parse()
    if arguments.variant:
        result = measure(arguments.variant, arguments)
        print(json.dumps(result) if arguments.json else row_of(arguments.variant, "as is", result, None))
        return
    write_and_exit(arguments, "network", compare(arguments), child_options(arguments, "runs"))


if __name__ == "__main__":
    main()
