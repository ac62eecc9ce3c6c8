"""Other hands: what tells two artists' drawings of one thing apart, lent to drawings of another.

A projector that learns from a few artists has to read a new one. Their differences on one thing
are what it should not listen to on any.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .views import States


def same_thing(names: Sequence[str]) -> Int[np.ndarray, "pair two"]:
    """Every ordered pair of different rows that show one thing."""
    by_name: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        by_name.setdefault(name, []).append(row)
    pairs = [(a, b) for rows in by_name.values() for a in rows for b in rows if a != b]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def lent(
    seen: States, pairs: Int[np.ndarray, "pair two"], count: int, *, seed: Sequence[int]
) -> Float[Tensor, "row seen state"]:
    """For `count` rows, a random share of the difference between two drawings of some thing.

    Args:
        seen: views of all drawings.
        pairs: what `same_thing` gives; where there is none, nothing is lent.
    """
    if not len(pairs):
        return torch.zeros(count, *seen.shape[2:])
    rng = np.random.default_rng(list(seed))
    a, b = pairs[rng.integers(len(pairs), size=count)].T
    look, other = rng.integers(seen.shape[1], size=(2, count))
    share = torch.tensor(rng.random((count, 1, 1)), dtype=torch.float32)
    return share * (seen[a, look].float() - seen[b, other].float())
