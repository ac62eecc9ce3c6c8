"""`evaluate`: choose layer, penalty and rank on validation, and score once on test."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from .affine_map import check_rank, output_axes
from .baselines import BASELINES, BaselineData, ridge_probe, ridge_probe_accuracy
from .examples import Examples, Head, LayerExamples, check_parts, predict_classes
from .moments import PairMoments
from .report import MATRIX, MatrixReport
from .ridge import COARSE_GRID, RidgePath, check_penalty

Selection = Literal["validation", "oracle"]
SELECTIONS = get_args(Selection)

# A baseline whose layer is chosen separately from the matrix's.
_BEST_LAYER_PROBE = "ridge_probe_best_layer"


@dataclass(frozen=True)
class _Search:
    """The search space at every layer.

    Attributes:
        ridges: penalties; None for decades around the mean eigenvalue.
        ranks: ranks; None is the full matrix.
        bias: whether the map has a bias.
        head: from finetuned states to logits.
    """

    ridges: Sequence[float] | None
    ranks: Sequence[int | None]
    bias: bool
    head: Head


class _Candidate(NamedTuple):
    """One matrix of the search, with its scores on one part of the data."""

    accuracy: float
    r2: float
    layer: int
    ridge: float
    rank: int


def evaluate(
    train: Examples,
    validation: Examples,
    test: Examples,
    *,
    head: Head,
    ridges: Iterable[float] | None = None,
    ranks: Sequence[int | None] = (None,),
    bias: bool = True,
    selection: Selection = "validation",
    baselines: Sequence[str] | None = None,
    other_predictions: Mapping[str, Int[Tensor, " n"]] | None = None,
    seed: int = 0,
) -> MatrixReport:
    """Fit task matrices at every layer, choose one, and compare it with baselines on test.

    Args:
        train: examples that matrices and probes are fitted to.
        validation: examples on which layer, penalty and rank (and the probes' penalties) are
            chosen: highest accuracy, then highest R^2.
        test: examples that the chosen matrix and every baseline at its layer are scored on, once.
        head: the finetuned model from its last block's states to logits.
        ridges: penalties to choose from; by default decades around the mean eigenvalue.
        ranks: ranks to choose from; None is the full matrix.
        bias: whether the map has a bias.
        selection: "validation"; or "oracle", which chooses on test, as the paper does.
        baselines: names in `BASELINES`, and "ridge_probe_best_layer", a probe whose layer is
            chosen separately; all by default.
        other_predictions: predicted test classes of further methods, by name.
        seed: seed of the permuted pairs.

    Raises:
        TvlensError: parts that do not fit together, labels that are missing in train, an unknown
            selection or baseline, or an impossible rank or penalty.
    """
    check_parts(train, validation, test)
    if selection not in SELECTIONS:
        raise unknown("selection", selection, SELECTIONS)
    methods = _choose_baselines(train, baselines)
    ridges = None if ridges is None else sorted(map(float, ridges))
    for ridge in ridges or ():
        check_penalty(ridge)
    selector = test if selection == "oracle" else validation
    best, tops, oracle_accuracy = _choose(train, selector, test, _Search(ridges, ranks, bias, head))
    data = _at_layer(best.layer, train, selector, test, head=head, seed=seed)
    predictions = {MATRIX: _predict_with(best, data, bias)}
    for name in methods:
        predictions[name] = (
            _predict_best_layer_probe(train, selector, test, head)
            if name == _BEST_LAYER_PROBE
            else BASELINES[name](data)
        )
    predictions |= _check_predictions(other_predictions or {}, len(test))
    return MatrixReport(
        methods=tuple(predictions),
        predictions=torch.stack([p.cpu().long() for p in predictions.values()])[None],
        labels=test.labels.cpu().long(),
        layers=train.layers,
        layer=torch.tensor([best.layer]),
        ridge=torch.tensor([best.ridge], dtype=torch.float64),
        rank=torch.tensor([best.rank]),
        by_layer=torch.tensor([[top.accuracy for top in tops]], dtype=torch.float64),
        by_layer_r2=torch.tensor([[top.r2 for top in tops]], dtype=torch.float64),
        selection=selection,
        oracle_accuracy=torch.tensor([oracle_accuracy], dtype=torch.float64),
        settings={
            "n": {"train": len(train), "validation": len(validation), "test": len(test)},
            "bias": bias,
            "seeds": [seed],
        },
    )


def _choose(
    train: Examples, selector: Examples, test: Examples, search: _Search
) -> tuple[_Candidate, list[_Candidate], float]:
    """Search all layers: the best candidate, that of each layer, and the best test accuracy."""
    # The same maps are scored on test too, to estimate the optimism of choosing there.
    candidates, on_test = zip(
        *(
            scores
            for layer in train.layers
            for scores in _search_layer(train, (selector, test), layer, search)
        ),
        strict=True,
    )
    # Of equals the earlier layer, the larger penalty and the lower rank come first.
    best = max(candidates, key=lambda c: (c.accuracy, c.r2, -c.layer))
    tops = [max(c for c in candidates if c.layer == layer) for layer in train.layers]
    return best, tops, max(c.accuracy for c in on_test)


def _check_predictions(
    predictions: Mapping[str, Int[Tensor, " n"]], count: int
) -> Mapping[str, Int[Tensor, " n"]]:
    for name, prediction in predictions.items():
        if len(prediction) != count:
            raise TvlensError(f"{name} has {len(prediction)} predictions for {count} test examples")
    return predictions


def _at_layer(
    layer: int, train: Examples, validation: Examples, test: Examples, *, head: Head, seed: int = 0
) -> BaselineData:
    train_examples, *others = (part.at_layer(layer) for part in (train, validation, test))
    return BaselineData(train_examples, *others, head=head, seed=seed)


def _choose_baselines(train: Examples, names: Sequence[str] | None) -> list[str]:
    available = [*BASELINES, _BEST_LAYER_PROBE]
    if names is None:
        is_square = train.base.shape[-1] == train.tuned.shape[-1]
        return [n for n in available if is_square or n not in ("identity", "mean_shift")]
    for name in names:
        if name not in available:
            raise unknown("baseline", name, available)
    return list(names)


def _search_layer(
    train: Examples, parts: Sequence[Examples], layer: int, search: _Search
) -> Iterator[tuple[_Candidate, ...]]:
    """Score every penalty and rank at one layer on each part, from one decomposition."""
    x, y, _ = train.at_layer(layer)
    path = RidgePath.from_moments(PairMoments().update(x, y), bias=search.bias)
    ridges = path.grid(COARSE_GRID).tolist() if search.ridges is None else list(search.ridges)
    examples = [part.at_layer(layer) for part in parts]
    states, sizes = torch.cat([part.x for part in examples]), [len(part.x) for part in examples]
    for ridge in reversed(ridges):
        for rank, prediction in _predict_by_rank(path, ridge, search.ranks, states):
            yield tuple(
                _Candidate(*_score(predicted, part, search.head, train.tuned), layer, ridge, rank)
                for predicted, part in zip(prediction.split(sizes), examples, strict=True)
            )


def _score(
    prediction: Float[Tensor, "n d_tuned"],
    examples: LayerExamples,
    head: Head,
    like: Float[Tensor, "..."],
) -> tuple[float, float]:
    """Compute accuracy and R^2 of predicted states."""
    y = examples.y.double()
    scatter = (y - y.mean(0)).square().sum()
    if not scatter:
        raise TvlensError("all finetuned states of a part are the same: layers cannot be compared")
    is_right = predict_classes(head, prediction, like) == examples.labels.cpu()
    r2 = 1 - float((y - prediction).square().sum() / scatter)
    return float(is_right.double().mean()), r2


def _predict_by_rank(
    path: RidgePath, ridge: float, ranks: Sequence[int | None], states: Float[Tensor, "n d_base"]
) -> Iterator[tuple[int, Float[Tensor, "n d_tuned"]]]:
    """Predict states by rank (0 for the full matrix), from one decomposition."""
    weight = path.weight(ridge)
    centered = (states.to(weight) - path.moments.mean_x) @ weight
    mean = path.moments.mean_y
    reduced_ranks = [rank for rank in ranks if rank is not None]
    if reduced_ranks:
        axes = output_axes(path.factor(ridge))[1]
        coordinates = centered @ axes
    for rank in sorted(reduced_ranks):
        check_rank(rank, weight)
        yield rank, coordinates[:, :rank] @ axes[:, :rank].T + mean
    if len(reduced_ranks) < len(ranks):
        yield 0, centered + mean


def _predict_with(candidate: _Candidate, data: BaselineData, bias: bool) -> Int[Tensor, " n"]:
    """Predict the test classes by one matrix of the search."""
    path = RidgePath.from_moments(PairMoments().update(data.train.x, data.train.y), bias=bias)
    ranks = [candidate.rank or None]
    ((_, states),) = _predict_by_rank(path, candidate.ridge, ranks, data.test.x)
    return predict_classes(data.head, states, data.train.y)


def _predict_best_layer_probe(
    train: Examples, validation: Examples, test: Examples, head: Head
) -> Int[Tensor, " n"]:
    layers = [_at_layer(layer, train, validation, test, head=head) for layer in train.layers]
    return ridge_probe(max(layers, key=ridge_probe_accuracy))
