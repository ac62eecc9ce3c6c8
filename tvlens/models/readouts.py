"""Readouts: functions from the states of an input to one state that represents it.

Each takes states `[row pos d]`, right-padded, and how many positions of each row are real.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown

States = Float[Tensor, "row pos d"]
Readout = Callable[[States, Int[Tensor, " row"]], Float[Tensor, "row d"]]


def first_token(states: States, lengths: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
    """The state of the first position: the class token of BERT- and ViT-like models."""
    _check(states, lengths)
    return states[:, 0]


def mean_token(states: States, lengths: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
    """The mean over all positions but padding, special tokens included, as in sentence encoders."""
    _check(states, lengths)
    lengths = lengths.to(states.device)
    real = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
    # Not a product with the mask: padding may contain NaN.
    masked = states.masked_fill(~real[..., None], 0)
    return masked.sum(1) / lengths[:, None]


def last_token(states: States, lengths: Int[Tensor, " row"]) -> Float[Tensor, "row d"]:
    """The last state before the padding, which depends on all positions in causal models."""
    _check(states, lengths)
    lengths = lengths.to(states.device)
    return states[torch.arange(len(states), device=states.device), lengths - 1]


ReadoutName = Literal["first", "mean", "last"]
READOUTS: dict[str, Readout] = {"first": first_token, "mean": mean_token, "last": last_token}


def readout(name: ReadoutName | Readout) -> Readout:
    """Return the readout called "first", "mean" or "last"; a function is returned unchanged.

    Raises:
        TvlensError: no such readout.
    """
    if callable(name):
        return name
    if name not in READOUTS:
        raise unknown("readout", name, READOUTS)
    return READOUTS[name]


def _check(states: States, lengths: Int[Tensor, " row"]) -> None:
    outside = (lengths < 1) | (lengths > states.shape[1])
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        raise TvlensError(
            f"input {row} has {int(lengths[row])} positions, but there are 1 to {states.shape[1]}"
        )
