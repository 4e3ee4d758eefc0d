"""Times one call of a network on one region: the cost that everything else multiplies.

python benchmarks/network.py --dim 64 --precision bf16 --threads 2
"""

import argparse
import platform
import statistics
import time

import torch

from LeFusion.diffusion import UNet3D


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dim-head", type=int, default=32)
    parser.add_argument("--mults", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, nargs=3, default=[32, 64, 64], help="depth, height, width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=["float32", "bf16", "fp16"], default="float32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[arguments.precision]
    network = UNet3D(
        arguments.dim,
        1,
        None,
        16,
        arguments.mults,
        attn_heads=arguments.heads,
        attn_dim_head=arguments.dim_head,
    )
    network = network.eval().to(arguments.device, dtype)
    x = torch.randn(arguments.batch, 1, *arguments.size, device=arguments.device)
    t = torch.full((arguments.batch,), 100, device=arguments.device)
    condition = torch.rand(arguments.batch, 16, device=arguments.device)
    seconds = []
    with torch.no_grad():
        for _ in range(arguments.runs + 1):
            start = time.perf_counter()
            network(x, t, condition).sum().item()  # .item() waits for the device
            seconds.append(time.perf_counter() - start)
    parameters = sum(p.numel() for p in network.parameters())
    warm = seconds[1:]
    name = (
        torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor() or "cpu"
    )
    print(
        f"{parameters / 1e6:.1f} M parameters, {arguments.batch} x {arguments.size}, {arguments.precision}, "
        f"{name}, {arguments.threads} threads: median {statistics.median(warm):.3f} s a call "
        f"({min(warm):.3f} to {max(warm):.3f})"
    )


if __name__ == "__main__":
    main()
