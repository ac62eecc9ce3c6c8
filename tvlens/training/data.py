"""Training batches: their seeds, checks, inputs and loss."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ..errors import TvlensError
from .config import TransformerConfig

Tokens = Int[Tensor, "batch pos"]
Pairs = tuple[Float[Tensor, "batch pair input"], Float[Tensor, "batch pair"]]


def step_seed(seed: int, step: int) -> int:
    """Derive the seed of a step's batch from the seed of the run."""
    if seed < 0:
        raise TvlensError(f"a seed must be at least 0, not {seed}")
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return int(state[0] >> 1)  # 63 bits, which every generator takes


def fingerprint(config: TransformerConfig, sample: Callable[[int], Any], seed: int) -> str:
    """Compute a digest of the first batch, which identifies the source of the data.

    Raises:
        TvlensError: the batch does not fit the model, or changes with the same seed.
    """
    digests = set()
    for _ in range(2):
        batch = as_batch(config, sample(step_seed(seed, 0)))
        parts = [batch] if isinstance(batch, torch.Tensor) else batch
        content = b"".join(part.cpu().numpy().tobytes() for part in parts)
        digests.add(hashlib.sha256(content).hexdigest()[:16])
    if len(digests) > 1:
        raise TvlensError(
            "sample returned two different batches for one seed: use the seed, or a resumed run "
            "would train on other data"
        )
    return digests.pop()


def as_batch(config: TransformerConfig, batch: object) -> Tokens | Pairs:
    """Convert what `sample` returned to tensors that fit the model.

    Raises:
        TvlensError: another form, tokens outside the vocabulary, or too many positions.
    """
    if config.vocab:
        return _as_tokens(config, batch)
    if not isinstance(batch, tuple) or len(batch) != 2:
        raise TvlensError("sample must return (inputs, targets) for a regression")
    inputs, targets = (torch.as_tensor(part).float() for part in batch)
    if inputs.ndim != 3 or inputs.shape[2] != config.inputs or targets.shape != inputs.shape[:2]:
        raise TvlensError(
            f"sample gave inputs {list(inputs.shape)} and targets {list(targets.shape)}; expected "
            f"[batch, pair, {config.inputs}] and [batch, pair]"
        )
    _check_positions(config, 2 * inputs.shape[1] - 1)
    return inputs, targets


def _as_tokens(config: TransformerConfig, batch: object) -> Tokens:
    if isinstance(batch, tuple):
        raise TvlensError("sample gave a tuple; a model with a vocabulary needs tokens only")
    tokens = torch.as_tensor(batch)
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.shape[1] < 2:
        raise TvlensError(
            f"sample gave {tokens.dtype} {list(tokens.shape)}; expected integers [batch, pos], "
            "with at least two positions"
        )
    low, high = (int(end) for end in tokens.aminmax())
    if low < 0 or high >= config.vocab:
        raise TvlensError(
            f"sample gave token {low if low < 0 else high}; there are 0 to {config.vocab - 1}"
        )
    _check_positions(config, tokens.shape[1] - 1)
    return tokens.long()


def _check_positions(config: TransformerConfig, count: int) -> None:
    if count > config.context:
        raise TvlensError(
            f"sample gave sequences of which {count} positions are read, but the context is "
            f"{config.context}"
        )


def model_inputs(
    batch: Tokens | Pairs,
) -> Int[Tensor, "batch read"] | Float[Tensor, "batch read d_in"]:
    """Return the inputs of a batch: all but the last token, or the last y."""
    if isinstance(batch, Tensor):
        return batch[:, :-1]
    return interleave_pairs(*batch)[:, :-1]


def compute_loss(model: Callable[[Tensor], Tensor], batch: Tokens | Pairs) -> Float[Tensor, ""]:
    """Compute the mean loss over examples and positions.

    It is the cross-entropy of the next token in nats, or the squared error of a regression.
    """
    outputs = model(model_inputs(batch))
    if isinstance(batch, Tensor):
        return F.cross_entropy(
            rearrange(outputs, "batch pos vocab -> (batch pos) vocab"),
            batch[:, 1:].flatten().to(outputs.device),
        )
    prediction = outputs[:, ::2, 0]
    return F.mse_loss(prediction, batch[1].to(prediction))


def interleave_pairs(
    inputs: Float[Tensor, "batch pair input"], targets: Float[Tensor, "batch pair"]
) -> Float[Tensor, "batch pos d_in"]:
    """Interleave the pairs of a regression as vectors x1, y1, x2, y2, ...

    An x is (x, 0) and a y is (0, ..., 0, y), so that the two are linearly separable. The model
    predicts y_n at position 2n (n from 0), after reading x_n.
    """
    batch, pairs, width = inputs.shape
    vectors = inputs.new_zeros(batch, pairs, 2, width + 1)
    vectors[:, :, 0, :-1] = inputs
    vectors[:, :, 1, -1] = targets
    return rearrange(vectors, "batch pair two d_in -> batch (pair two) d_in")
