"""Randomness is addressed, not accumulated: a draw depends on its address, never on earlier draws."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from LeFusion.errors import UserError


def address_seed(*address: int | str) -> int:
    """A seed of 63 bits for an address such as (seed, case name, texture type); the same on every machine."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def drawn(batch: dict, draw: Callable[[dict], dict]) -> dict:
    """The batch with what `draw(batch)` adds to it, unless that was done before.

    Noise for a batch takes longer to draw than a step of a fast GPU; loaders therefore draw it in their
    workers, ahead of time. Being addressed, it is the same wherever it is drawn.
    """
    return batch if "noise" in batch else batch | draw(batch)


class AddressedNoise:
    """Standard normal noise for a batch, every sample with a generator of its own.

    A sample's noise depends on its address only, not on the batch that it is in. Drawn on the CPU, so that it
    does not depend on the device either.
    """

    def __init__(self, addresses: Sequence[tuple]):
        self.generators = [torch.Generator().manual_seed(address_seed(*address)) for address in addresses]

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, of the shape (B, ...), device and dtype of `like`."""
        if len(like) != len(self.generators):
            raise UserError(f"{len(self.generators)} addresses for a batch of {len(like)}")
        samples = [torch.randn(like.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(samples).to(like.device, like.dtype)

    def levels(self, num_steps: int, power: float = 1.0) -> Tensor:
        """A time level for each sample: (B,) integers in 0..num_steps-1, on the CPU.

        power: 1 for uniform ones; below it noisy levels are more frequent: the share of levels up to a part u
        of all is u^(1 / power).
        """
        if power == 1:
            return torch.stack([torch.randint(num_steps, (), generator=g) for g in self.generators])
        drawn = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators])
        return (num_steps * drawn**power).long().clamp(max=num_steps - 1)
