"""Randomness by address: what is drawn for one thing depends on its name, not on what was drawn before."""

import hashlib

import numpy as np


def address_generator(seed: int, *address: str | int) -> np.random.Generator:
    """The generator of one address, e.g. (seed, case, type)."""
    digest = hashlib.sha256("\x1f".join(map(str, (seed, *address))).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))
