"""Metrics: from logits at the positions a metric reads to one number per example.

Any callable from `Float[batch pos vocab]` to `Float[batch]` will do. One that reads more than the
last position says so in an attribute `positions`, a sequence of ints.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError

Metric = Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]]
TokenIds = int | Sequence[int] | Tensor


def positions_of(metric: Metric) -> tuple[int, ...]:
    """The positions a metric reads, from the end of the prompt; the last one by default."""
    return tuple(getattr(metric, "positions", (-1,)))


def logit_difference(right: TokenIds, wrong: TokenIds) -> Metric:
    """Logit of the right token less that of the wrong one, at the last position.

    Args:
        right, wrong: one token id for all examples, or one per example.
    """
    return lambda logits: _of(logits, right) - _of(logits, wrong)


def probability(token: TokenIds) -> Metric:
    """Probability of a token at the last position."""
    return lambda logits: _of(logits.softmax(-1), token)


def log_probability(token: TokenIds) -> Metric:
    """Log-probability of a token at the last position, in nats."""
    return lambda logits: _of(logits.log_softmax(-1), token)


def rank(token: TokenIds) -> Metric:
    """How many tokens are more likely than this one at the last position (0 is the top)."""

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1] > _of(logits, token)[:, None]).sum(-1).to(logits.dtype)

    return metric


def accuracy(token: TokenIds) -> Metric:
    """1 where the token is the most likely one at the last position, else 0."""

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1].argmax(-1) == _ids(token, logits)).to(logits.dtype)

    return metric


def kl_divergence(reference: Float[Tensor, "batch vocab"]) -> Metric:
    """KL(reference || patched) at the last position, in nats; `reference` holds logits."""

    def metric(logits: Tensor) -> Tensor:
        target = reference.to(logits).log_softmax(-1)
        found = logits[:, -1].log_softmax(-1)
        return (target.exp() * (target - found)).sum(-1)

    return metric


def _ids(token: TokenIds, logits: Tensor) -> Tensor:
    """One token id per example, as a tensor beside the logits."""
    ids = torch.as_tensor(token, device=logits.device).reshape(-1)
    if len(ids) not in (1, len(logits)):
        raise TvlensError(f"{len(ids)} token ids for {len(logits)} examples")
    if int(ids.min()) < 0 or int(ids.max()) >= logits.shape[-1]:
        raise TvlensError(f"a token id outside the vocabulary of {logits.shape[-1]}")
    return ids.expand(len(logits))


def _of(scores: Tensor, token: TokenIds) -> Tensor:
    last = scores[:, -1]
    return last.gather(-1, _ids(token, last)[:, None])[:, 0]
