"""What `sample` gives: a batch that fits the shape, the same one for the same seed."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from .shape import Shape

Tokens = Int[Tensor, "batch pos"]
Pairs = tuple[Float[Tensor, "batch pair input"], Float[Tensor, "batch pair"]]


def step_seed(seed: int, step: int) -> int:
    """The seed of the batch that a step of a run learns from."""
    if seed < 0:
        raise TvlensError(f"a seed must be at least 0, not {seed}")
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return int(state[0] >> 1)  # 63 bits, which every generator takes


def fingerprint(shape: Shape, sample: Callable[[int], Any], seed: int) -> str:
    """A digest of the first batch, which tells one source of data from another.

    Raises:
        TvlensError: the batch does not fit, or changes with the same seed.
    """
    digests = set()
    for _ in range(2):
        batch = as_batch(shape, sample(step_seed(seed, 0)))
        parts = [batch] if isinstance(batch, torch.Tensor) else batch
        content = b"".join(part.cpu().numpy().tobytes() for part in parts)
        digests.add(hashlib.sha256(content).hexdigest()[:16])
    if len(digests) > 1:
        raise TvlensError(
            "sample gave two different batches for one seed: draw with that seed, or a run that "
            "goes on would not see the same data"
        )
    return digests.pop()


def as_batch(shape: Shape, drawn: object) -> Tokens | Pairs:
    """What `sample` gave, as tensors that fit the shape.

    Raises:
        TvlensError: another form, tokens outside the vocabulary, or too many positions.
    """
    if shape.vocab:
        return _as_tokens(shape, drawn)
    if not isinstance(drawn, tuple) or len(drawn) != 2:
        raise TvlensError("sample must give (inputs, targets) for a regression")
    inputs, targets = (torch.as_tensor(part).float() for part in drawn)
    if inputs.ndim != 3 or inputs.shape[2] != shape.inputs or targets.shape != inputs.shape[:2]:
        raise TvlensError(
            f"sample gave inputs {list(inputs.shape)} and targets {list(targets.shape)}; wanted "
            f"[batch, pair, {shape.inputs}] and [batch, pair]"
        )
    _check_positions(shape, 2 * inputs.shape[1] - 1)
    return inputs, targets


def _as_tokens(shape: Shape, drawn: object) -> Tokens:
    if isinstance(drawn, tuple):
        raise TvlensError("sample gave a tuple; a model with a vocabulary wants tokens alone")
    tokens = torch.as_tensor(drawn)
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] < 2:
        raise TvlensError(
            f"sample gave {tokens.dtype} {list(tokens.shape)}; wanted whole numbers [batch, pos], "
            "two positions or more"
        )
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= shape.vocab:
        raise TvlensError(
            f"sample gave token {low if low < 0 else high}; there are 0 to {shape.vocab - 1}"
        )
    _check_positions(shape, tokens.shape[1] - 1)
    return tokens.long()


def _check_positions(shape: Shape, read: int) -> None:
    if read > shape.context:
        raise TvlensError(
            f"sample gave sequences of which {read} positions are read, but the context is "
            f"{shape.context}"
        )
