"""Named random streams: each purpose draws from its own, so that one more draw here moves nothing there."""

import zlib

import numpy as np


def stream(seed: int, name: str) -> np.random.Generator:
    """The generator of this name under this seed (NumPy's SeedSequence over both)."""
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode())]))
