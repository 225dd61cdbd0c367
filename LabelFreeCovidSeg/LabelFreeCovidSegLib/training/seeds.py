"""Seeds for the several things of one sample, none of which has a say in another.

Children are made by key, not by `spawn`, which would give other ones at the next call.
"""

from __future__ import annotations

import numpy as np


def child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """The seed of that number below `seed`."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))


def children(seed: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    """The first `count` seeds below `seed`."""
    return [child(seed, number) for number in range(count)]
