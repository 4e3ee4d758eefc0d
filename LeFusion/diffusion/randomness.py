"""Randomness is addressed, not accumulated: a draw depends on its address, never on earlier draws."""

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from LeFusion.errors import UserError

AHEAD = 2  # draws that a step of a sampler takes at most
DRAWER = ThreadPoolExecutor(1, "noise")  # its thread starts with the first draw ahead


def address_seed(*address: int | str) -> int:
    """A seed of 63 bits for an address such as (seed, case name, texture type); the same on every machine."""
    digest = hashlib.blake2b(repr(address).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def addressed_generator(*address: int | str) -> torch.Generator:
    """A CPU generator for what is drawn at an address."""
    return torch.Generator().manual_seed(address_seed(*address))


def drawn(batch: dict, draw: Callable[[dict], dict]) -> dict:
    """The batch with what `draw(batch)` adds to it, unless that was done before.

    Noise for a batch takes longer to draw than a step of a fast GPU; loaders therefore draw it in their
    workers, ahead of time. Being addressed, it is the same wherever it is drawn.
    """
    return batch if "noise" in batch else batch | draw(batch)


class AddressedNoise:
    """Standard normal noise for a batch, every sample with a generator of its own.

    A sample's noise depends on its address only, not on the batch that it is in. Drawn on the CPU, so that it
    does not depend on the device either. ahead: draw so many calls ahead in a thread, while a GPU works on
    what was drawn before; the values are the same. None: AHEAD on a GPU, 0 elsewhere.
    """

    def __init__(self, addresses: Sequence[tuple], ahead: int | None = None):
        self.generators = [addressed_generator(*address) for address in addresses]
        self.ahead = ahead
        self._drawn: deque[tuple[torch.Size, Future]] = deque()

    def __call__(self, like: Tensor) -> Tensor:
        """The next noise, of the shape (B, ...), device and dtype of `like`."""
        if len(like) != len(self.generators):
            raise UserError(f"{len(self.generators)} addresses for a batch of {len(like)}")
        shape = like.shape[1:]
        if self._drawn and self._drawn[0][0] != shape:
            self._forget()
        samples = self._drawn.popleft()[1].result()[1] if self._drawn else self._draw(shape)[1]
        ahead = (AHEAD if like.is_cuda else 0) if self.ahead is None else self.ahead
        while len(self._drawn) < ahead:
            self._drawn.append((shape, DRAWER.submit(self._draw, shape)))
        return samples.to(like.device, like.dtype)

    def _draw(self, shape: torch.Size) -> tuple[list[Tensor], Tensor]:
        """The generators' states before the draw, and the draw."""
        states = [generator.get_state() for generator in self.generators]
        return states, torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def _forget(self) -> None:
        """Takes back what was drawn ahead and is not asked for."""
        drawn = [future.result() for _, future in self._drawn]
        self._drawn.clear()
        for generator, state in zip(self.generators, drawn[0][0] if drawn else (), strict=False):
            generator.set_state(state)

    def levels(self, num_steps: int, power: float = 1.0) -> Tensor:
        """A time level for each sample: (B,) integers in 0..num_steps-1, on the CPU.

        power: 1 for uniform ones; below it noisy levels are more frequent: the share of levels up to a part u
        of all is u^(1 / power).
        """
        self._forget()
        if power == 1:
            return torch.stack([torch.randint(num_steps, (), generator=g) for g in self.generators])
        drawn = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators])
        return (num_steps * drawn**power).long().clamp(max=num_steps - 1)
