"""Named random streams: each purpose draws from its own, so that one more draw here moves nothing there."""

import zlib

import numpy as np

from gpve.model.errors import InputError


def check_seed(seed: int) -> None:
    """`InputError` if this is no seed."""
    if not 0 <= seed < 2**63:
        raise InputError(f"a seed is a whole number from 0 to 2^63 - 1, not {seed}")


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of this name under this seed (NumPy's SeedSequence over both)."""
    check_seed(seed)
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
