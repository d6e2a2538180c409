"""Random numbers of one purpose, which neither depend on what others drew nor change what they will draw."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def seed_of(*key: int | str) -> int:
    """A seed for a purpose, such as (seed, "step", 17): 63 bits of a hash."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "little") >> 1


@contextlib.contextmanager
def randomness(*key: int | str) -> Iterator[None]:
    """Inside, everything that draws from PyTorch, numpy and Python draws what `key` says; after it, as if never done.

    So there is no state to keep: a training that goes on draws what one that was never interrupted draws.
    """
    seed = seed_of(*key)
    python, legacy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
