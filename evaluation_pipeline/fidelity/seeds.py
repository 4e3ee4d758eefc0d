"""Randomness by address: what is drawn for one thing depends on its name, not on what was drawn before."""

import hashlib

import numpy as np


def address_generator(seed: int, *address: str | int) -> np.random.Generator:
    """The generator of one address, e.g. (seed, case, type)."""
    text = "\x1f".join(str(part) for part in (seed, *address))
    return np.random.default_rng(
        np.random.SeedSequence(int.from_bytes(hashlib.sha256(text.encode()).digest()))
    )
