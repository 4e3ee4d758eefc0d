"""What the benchmarks of the network share: options, one process for each variant, peak memory, the table."""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from LeFusion.diffusion import UNet3D
from LeFusion.runtime.commandline import command_parser

MALLOC = {  # freed blocks up to 1 GiB stay in the heap, so the next layer need not fault its pages in again
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
BINS = 16  # length of the condition
SHARED_OPTIONS = ("dim", "heads", "dim_head", "mults", "size", "batch", "device", "threads")


def make_parser(description: str, variants: Sequence[str], out: str) -> argparse.ArgumentParser:
    """A parser with the options that the benchmarks share."""
    parser = command_parser(description)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim-head", type=int, default=32)
    parser.add_argument("--mults", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, nargs=3, default=[32, 64, 64], help="depth, height, width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tf32", action="store_true", help="let CUDA round the factors of float32 products")
    parser.add_argument("--variants", nargs="+", choices=variants, help="only these")
    parser.add_argument("--compile", action="store_true", help="also the compiled variants on a CPU")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--variant", choices=variants, help="measure this one in this process")
    parser.add_argument("--json", action="store_true", help="with --variant: print the numbers as JSON")
    return parser


def child_options(arguments: argparse.Namespace, *own: str) -> list[str]:
    """What a process of one variant has to be told: the shared options and the benchmark's own ones."""
    options = ["--tf32"] if arguments.tf32 else []
    for name in (*SHARED_OPTIONS, *own):
        value = getattr(arguments, name)
        values = value if isinstance(value, list) else [value]
        options += [f"--{name.replace('_', '-')}", *map(str, values)]
    return options


def chosen(variants: Mapping[str, bool], arguments: argparse.Namespace) -> list[str]:
    """Those of --variants, in the table's order; else all that suit the device. variants: name -> suits."""
    if arguments.variants:
        return [name for name in variants if name in arguments.variants]
    return [name for name, suits in variants.items() if suits]


def seeded_network(arguments: argparse.Namespace) -> UNet3D:
    """The same random weights every time; one class, BINS numbers of condition."""
    torch.manual_seed(0)
    heads = {"attn_heads": arguments.heads, "attn_dim_head": arguments.dim_head}
    return UNet3D(arguments.dim, 1, None, BINS, arguments.mults, **heads)


def set_up(arguments: argparse.Namespace) -> None:
    """Threads, and the precision that float32 has, of this process."""
    torch.set_num_threads(arguments.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arguments.tf32


def measure_apart(
    script: str, name: str, options: Sequence[str], environment: dict[str, str] | None = None
) -> dict | str:
    """What `script --variant name --json` prints in a fresh process; a text is the reason why that failed.

    environment: of the process; None for this one's.
    """
    command = [sys.executable, str(Path(script).resolve()), "--variant", name, "--json", *options]
    try:
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        killed = error.returncode < 0
        return f"killed by {signal.Signals(-error.returncode).name}" if killed else lines[-1]
    return json.loads(done.stdout.splitlines()[-1])


def with_malloc(allocator: str) -> dict[str, str]:
    """This process's environment for the "default" or the "tuned" allocator."""
    environment = {key: value for key, value in os.environ.items() if key not in MALLOC}
    return environment | MALLOC if allocator == "tuned" else environment


def failed_cells(columns: Sequence[str], reason: str) -> dict[str, str]:
    """The cells of a variant that failed: the reason in the first one."""
    return dict.fromkeys(columns, "") | {columns[0]: f"failed: {reason.replace('|', '/')}"}


def write_and_exit(
    arguments: argparse.Namespace, name: str, rows: list[dict[str, str]], options: Sequence[str]
) -> None:
    """Writes `name`.md and `name`.csv to --out; the exit code is 1 if a variant failed."""
    from painted import write_tables  # here, as it loads all that painting needs

    torch.set_num_threads(arguments.threads)  # which the table states
    device = torch.cuda.get_device_name(arguments.device) if is_cuda(arguments.device) else "cpu"
    write_tables(arguments.out, name, rows, [device, *options])
    sys.exit(any(cell.startswith("failed: ") for row in rows for cell in row.values()))


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def wait_for(device: str) -> None:
    if is_cuda(device):
        torch.cuda.synchronize(device)


def restart_peak(device: str) -> float:
    """Forgets earlier peaks of memory -> MiB to subtract from later ones."""
    if is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)
        return 0.0
    with suppress(OSError):  # Linux only; elsewhere what making the network took at most is the start
        Path("/proc/self/clear_refs").write_text("5")
    return peak_mib(device)


def peak_mib(device: str) -> float:
    if is_cuda(device):
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # of Linux, whose ru_maxrss starts with the peak of the parent
    if status.exists() and "VmHWM:" in (text := status.read_text()):
        return int(text.split("VmHWM:")[1].split()[0]) / 2**10
    units = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, kB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units
