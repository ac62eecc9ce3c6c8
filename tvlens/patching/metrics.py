"""Metrics: functions from logits to one number per example.

Any callable from `Float[batch pos vocab]` to `Float[batch]` will do. It may carry two attributes:
`positions`, a sequence of ints, where it reads more than the last position; and `narrow`, a pair of
the few tokens it reads and the same metric for logits of these tokens alone, which spares the rest
of the unembedding (half the cost of a patch at the last position). A metric of texts carries
`resolve`, from a model to the metric of its tokens, which patching calls.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers

Metric = Callable[[Float[Tensor, "batch pos vocab"]], Float[Tensor, " batch"]]
TokenIds = Integers | Tensor
# Tokens by their ids or as texts, for all examples or one per example.
Answers = TokenIds | str | Sequence[str | int]


def positions_of(metric: Metric) -> tuple[int, ...]:
    """Return the positions that a metric reads, from the end; the last one by default."""
    return tuple(as_integers(getattr(metric, "positions", (-1,)), name="a metric's positions"))


def resolve_metrics(metric: Metric | Mapping[str, Metric], model: Any) -> dict[str, Metric]:
    """Resolve metrics to a mapping by name, and their texts to the model's tokens.

    Raises:
        TvlensError: what is no metric, or a text that is not one token of the model.
    """
    metrics = dict(metric) if isinstance(metric, Mapping) else {"": metric}
    if not metrics:
        raise TvlensError("no metric to measure")
    for name, one in metrics.items():
        if not callable(one):
            raise TvlensError(
                f"a metric is a function of logits, such as tvlens.logit_difference(a, b), not "
                f"{type(one).__name__}"
            )
        if hasattr(one, "resolve"):
            metrics[name] = one.resolve(model)
    return metrics


def one_token(tokenizer: Any, text: str) -> int:
    """Return the id of a text that is exactly one token.

    Raises:
        TvlensError: it is none or several; names them.
    """
    if tokenizer is None:
        raise TvlensError(f"the model has no tokenizer to read {text!r} with: give a token id")
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = [tokenizer.decode([i]) for i in ids]
        raise TvlensError(
            f"{text!r} is {len(ids)} tokens, {pieces}: give one token; a word inside a text "
            "usually begins with a space"
        )
    return ids[0]


def _has_text(answers: Answers) -> bool:
    several = isinstance(answers, Sequence) and not isinstance(answers, str)
    return any(isinstance(answer, str) for answer in (answers if several else [answers]))


def _make_text_metric(make: Callable[..., Metric], *answers: Answers) -> Metric:
    """Create a metric whose texts are resolved by a model's tokenizer."""

    def metric(logits: Tensor) -> Tensor:
        raise TvlensError(
            f"{make.__name__} was given texts: patch and attribute read them with the model's "
            "tokenizer; to call the metric on logits, give token ids"
        )

    metric.resolve = lambda model: make(*(_resolve_tokens(model, side) for side in answers))
    return metric


def _resolve_tokens(model: Any, answers: Answers) -> list[int]:
    """Convert answers, each an id or a text of one token, to token ids."""
    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(answers, Sequence):
        return as_integers(answers, name="tokens")
    token_ids = [one_token(tokenizer, a) if isinstance(a, str) else a for a in answers]
    return as_integers(token_ids, name="tokens")


def narrow_metrics(
    metrics: dict[str, Metric], vocabulary: int
) -> tuple[list[int] | None, dict[str, Metric]]:
    """Restrict metrics to the tokens that they read; also returns these tokens.

    None and the metrics as they are where one of them reads the whole vocabulary.
    """
    if not all(hasattr(metric, "narrow") for metric in metrics.values()):
        return None, metrics
    tokens = sorted({token for metric in metrics.values() for token in metric.narrow[0]})
    if vocabulary < 1:
        raise TvlensError("this model has no vocabulary: metrics of tokens cannot be measured")
    if tokens[0] < 0 or tokens[-1] >= vocabulary:
        raise TvlensError(f"a token id outside the vocabulary of {vocabulary}")
    return tokens, {name: _index_metric(metric, tokens) for name, metric in metrics.items()}


def _index_metric(metric: Metric, tokens: Sequence[int]) -> Metric:
    """Index a metric's tokens within the restricted logits."""
    own_tokens, narrow_metric = metric.narrow
    indices = [tokens.index(token) for token in own_tokens]

    def indexed_metric(logits: Tensor) -> Tensor:
        values: Tensor = narrow_metric(logits[..., indices])
        return values

    indexed_metric.positions = positions_of(metric)
    return indexed_metric


def logit_difference(right: Answers, wrong: Answers) -> Metric:
    """Logit of the right token minus that of the wrong one, at the last position.

    Args:
        right, wrong: one token for all examples, or one per example: token ids, or texts such as
            " Paris", which the patched model's tokenizer must make one token of.

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.logit_difference(1, 2)(logits)
        tensor([1.])
    """
    if _has_text(right) or _has_text(wrong):
        return _make_text_metric(logit_difference, right, wrong)
    metric = _difference(right, wrong)
    ids = [as_integers(token, name="tokens") for token in (right, wrong)]
    tokens = sorted({token for side in ids for token in side})
    metric.narrow = (tokens, _difference(*[[tokens.index(t) for t in side] for side in ids]))
    return metric


def _difference(right: TokenIds, wrong: TokenIds) -> Metric:
    return lambda logits: _last_scores(logits, right) - _last_scores(logits, wrong)


def probability(token: Answers) -> Metric:
    """Probability of a token at the last position; ids or texts as in `logit_difference`.

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.probability(1)(logits)
        tensor([0.6652])
    """
    if _has_text(token):
        return _make_text_metric(probability, token)
    return lambda logits: _last_scores(logits.softmax(-1), token)


def log_probability(token: Answers) -> Metric:
    """Log-probability of a token at the last position, in nats; ids or texts.

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.log_probability(1)(logits)
        tensor([-0.4076])
    """
    if _has_text(token):
        return _make_text_metric(log_probability, token)
    return lambda logits: _last_scores(logits.log_softmax(-1), token)


def rank(token: Answers) -> Metric:
    """Number of tokens more likely than this one at the last position (0 is the top).

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.rank(1)(logits)
        tensor([0.])
    """
    if _has_text(token):
        return _make_text_metric(rank, token)

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1] > _last_scores(logits, token)[:, None]).sum(-1).to(logits.dtype)

    return metric


def accuracy(token: Answers) -> Metric:
    """Whether the token is the most likely one at the last position (1 or 0); ids or texts.

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.accuracy(1)(logits)
        tensor([1.])
    """
    if _has_text(token):
        return _make_text_metric(accuracy, token)

    def metric(logits: Tensor) -> Tensor:
        return (logits[:, -1].argmax(-1) == _token_ids(token, logits)).to(logits.dtype)

    return metric


def kl_divergence(reference: Float[Tensor, "batch vocab"]) -> Metric:
    """KL(reference || patched) at the last position, in nats; `reference` holds logits.

    Example:
        >>> logits = torch.tensor([[[0.0, 2.0, 1.0]]])  # [batch pos vocab]
        >>> tv.kl_divergence(logits[:, -1])(logits)
        tensor([0.])
    """
    if not isinstance(reference, Tensor):
        raise TvlensError(f"kl_divergence needs logits [batch, vocab], not {reference!r}")

    def metric(logits: Tensor) -> Tensor:
        log_probs = logits[:, -1].log_softmax(-1)
        if reference.shape not in (
            log_probs.shape,
            log_probs.shape[1:],
            (1, *log_probs.shape[1:]),
        ):
            raise TvlensError(
                f"kl_divergence has logits {list(reference.shape)} to compare with "
                f"{list(log_probs.shape)}: give those of the same examples at one position"
            )
        target = reference.to(logits).log_softmax(-1)
        return (target.exp() * (target - log_probs)).sum(-1)

    return metric


def _token_ids(token: TokenIds, logits: Tensor) -> Tensor:
    """Return one token id per example, as a tensor on the device of the logits."""
    if isinstance(token, Tensor) and token.ndim == 1 and not token.is_floating_point():
        ids = token.to(logits.device)
    else:
        ids = torch.tensor(as_integers(token, name="tokens"), device=logits.device)
    if len(ids) not in (1, len(logits)):
        raise TvlensError(f"{len(ids)} token ids for {len(logits)} examples")
    if int(ids.min()) < 0 or int(ids.max()) >= logits.shape[-1]:
        raise TvlensError(f"a token id outside the vocabulary of {logits.shape[-1]}")
    return ids.expand(len(logits))


def _last_scores(scores: Tensor, token: TokenIds) -> Tensor:
    last = scores[:, -1]
    return last.gather(-1, _token_ids(token, last)[:, None])[:, 0]
