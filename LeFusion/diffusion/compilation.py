"""Compiling a network, with a way back."""

import warnings

import torch
from einops import rearrange
from torch import Tensor, nn


def compile_network(network: nn.Module, cuda_graphs: bool = False) -> nn.Module:
    """Compiles a network in place and returns it: one compilation for each input shape, which torch keeps on
    disk for the next run. Names of weights stay as they are.

    cuda_graphs: on a GPU, replay recorded kernels instead of launching them one by one (for sampling: inputs
    are copied, the output is a tensor of its own).

    What cannot be compiled (no C++ compiler, an unsupported GPU) runs eagerly after one warning.
    """
    on_gpu = next(network.parameters()).is_cuda
    # einops looks for torch at its first call; within a compilation, the next call would compile again
    rearrange(torch.empty(1, 1), "a b -> b a")
    graphs = cuda_graphs and on_gpu
    eager = network.forward
    compiled = torch.compile(eager, dynamic=False, mode="reduce-overhead" if graphs else None)

    def call(*arguments: Tensor, **named: Tensor) -> Tensor:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            output = compiled(*arguments, **named)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            network.forward = eager
            reason = str(error).strip().split("\n")[0][:200]
            warnings.warn(f"the network could not be compiled and runs as it is: {reason}", stacklevel=2)
            return eager(*arguments, **named)
        # The memory of a graph's output is written again by the next call
        return output.clone() if graphs else output

    network.forward = call
    return network
