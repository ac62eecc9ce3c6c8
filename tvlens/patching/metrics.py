"""Metrics: from logits at the positions a metric reads to one number per example.

Any callable from `Float[batch pos vocab]` to `Float[batch]` will do. It may carry two attributes:
`positions`, a sequence of ints, where it reads more than the last position; and `narrow`, a pair of
the few tokens it reads and the same metric for logits of these tokens alone, which spares the rest
of the unembedding (half the cost of a patch at the last position).
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


def narrowed(
    metrics: dict[str, Metric], vocabulary: int
) -> tuple[list[int] | None, dict[str, Metric]]:
    """The tokens that all metrics read together, and the metrics for logits of these alone.

    None and the metrics as they are where one of them reads the whole vocabulary.
    """
    if not all(hasattr(metric, "narrow") for metric in metrics.values()):
        return None, metrics
    tokens = sorted({token for metric in metrics.values() for token in metric.narrow[0]})
    if tokens[0] < 0 or tokens[-1] >= vocabulary:
        raise TvlensError(f"a token id outside the vocabulary of {vocabulary}")
    return tokens, {name: _among(metric, tokens) for name, metric in metrics.items()}


def _among(metric: Metric, tokens: Sequence[int]) -> Metric:
    """A metric for logits of `tokens`, among which are its own."""
    own, short = metric.narrow
    at = [tokens.index(token) for token in own]

    def chosen(logits: Tensor) -> Tensor:
        return short(logits[..., at])

    chosen.positions = positions_of(metric)
    return chosen


def logit_difference(right: TokenIds, wrong: TokenIds) -> Metric:
    """Logit of the right token less that of the wrong one, at the last position.

    Args:
        right, wrong: one token id for all examples, or one per example.
    """
    metric = _difference(right, wrong)
    ids = [torch.as_tensor(token).reshape(-1).tolist() for token in (right, wrong)]
    tokens = sorted({token for side in ids for token in side})
    metric.narrow = (tokens, _difference(*[[tokens.index(t) for t in side] for side in ids]))
    return metric


def _difference(right: TokenIds, wrong: TokenIds) -> Metric:
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
