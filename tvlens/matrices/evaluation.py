"""`evaluate`: layer, penalty and rank chosen on one part, everything scored once on another."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from .baselines import BASELINES, Setting, ridge_probe, ridge_probe_accuracy
from .examples import Examples, Head, Pairs, check_parts, decide
from .moments import PairMoments
from .penalty import check_rule
from .rank import check_rank, output_axes
from .report import MATRIX, MatrixReport
from .ridge import COARSE_GRID, Ridge

Selection = Literal["validation", "oracle"]
SELECTIONS = get_args(Selection)


class Candidate(NamedTuple):
    """One way to build the matrix, and how it does on the part that chooses."""

    accuracy: float
    r2: float
    layer: int
    ridge: float
    rank: int


def evaluate(
    train: Examples,
    select: Examples,
    test: Examples,
    *,
    head: Head,
    ridges: Iterable[float] | None = None,
    ranks: Sequence[int | None] = (None,),
    bias: bool = True,
    selection: Selection = "validation",
    baselines: Sequence[str] | None = None,
    others: Mapping[str, Int[Tensor, " n"]] | None = None,
    seed: int = 0,
) -> MatrixReport:
    """Fit task matrices to every layer, choose one, and set it beside its baselines on test.

    Args:
        train: what matrices and probes are fitted to.
        select: what layer, penalty and rank (and the probes' penalties) are chosen on: highest
            accuracy, then highest R^2.
        test: decided on once, by the chosen matrix and by every baseline at its layer.
        head: the finetuned model from its last block's states to logits.
        ridges: penalties to choose from; by default decades around the mean eigenvalue.
        ranks: ranks to choose from; None is the whole matrix.
        bias: whether the map has one.
        selection: "validation"; or "oracle", which chooses on test, as the paper does.
        baselines: names out of `BASELINES`, and "ridge_probe_own_layer", a probe whose layer is
            chosen for itself; all by default.
        others: decisions on test that were made elsewhere, by name.
        seed: of the permuted pairs.

    Raises:
        TvlensError: parts that do not fit together, labels that train lacks, an unknown
            selection, baseline, rank or penalty.
    """
    check_parts(train, select, test)
    if selection not in SELECTIONS:
        raise unknown("selection", selection, SELECTIONS)
    named = _baselines(train, baselines)
    ridges = None if ridges is None else sorted(map(float, ridges))
    for ridge in ridges or ():
        check_rule(ridge)
    judge = test if selection == "oracle" else select
    # The same maps judged on test too: by how much choosing there, as the paper does, flatters.
    found, on_test = zip(
        *(
            candidates
            for layer in train.layers
            for candidates in _candidates(train, (judge, test), layer, head, ridges, ranks, bias)
        ),
        strict=True,
    )
    # Of equals the earlier layer, the larger penalty and the lower rank come first.
    best = max(found, key=lambda c: (c.accuracy, c.r2, -c.layer))
    tops = [max(c for c in found if c.layer == layer) for layer in train.layers]
    setting = Setting(*(part.at(best.layer) for part in (train, judge, test)), head, seed)  # type: ignore[call-arg]
    decisions = {MATRIX: _decided(setting, best, bias)}
    for name in named:
        decisions[name] = (
            _probe_at_own_layer(train, judge, test, setting)
            if name == _OWN
            else BASELINES[name](setting)
        )
    decisions |= {name: _checked(name, other, test) for name, other in (others or {}).items()}
    return MatrixReport(
        names=tuple(decisions),
        decisions=torch.stack([d.cpu().long() for d in decisions.values()])[None],
        labels=test.labels.cpu().long(),
        layers=train.layers,
        layer=torch.tensor([best.layer]),
        ridge=torch.tensor([best.ridge], dtype=torch.float64),
        rank=torch.tensor([best.rank]),
        by_layer=torch.tensor([[top.accuracy for top in tops]], dtype=torch.float64),
        by_layer_r2=torch.tensor([[top.r2 for top in tops]], dtype=torch.float64),
        selection=selection,
        oracle=torch.tensor([max(c.accuracy for c in on_test)], dtype=torch.float64),
        settings={
            "n": {"train": len(train), "select": len(select), "test": len(test)},
            "bias": bias,
            "seeds": [seed],
        },
    )


_OWN = "ridge_probe_own_layer"


def _baselines(train: Examples, names: Sequence[str] | None) -> list[str]:
    known = [*BASELINES, _OWN]
    if names is None:
        square = train.base.shape[-1] == train.tuned.shape[-1]
        return [n for n in known if square or n not in ("identity", "mean_shift")]
    for name in names:
        if name not in known:
            raise unknown("baseline", name, known)
    return list(names)


def _candidates(
    train: Examples,
    judges: Sequence[Examples],
    layer: int,
    head: Head,
    ridges: Iterable[float] | None,
    ranks: Sequence[int | None],
    bias: bool,
) -> Iterator[tuple[Candidate, ...]]:
    """Every penalty and rank at one layer, from one decomposition, on each of several parts."""
    solution = Ridge.of(PairMoments().update(*train.at(layer)[:2]), bias=bias)
    offered = solution.grid(COARSE_GRID).tolist() if ridges is None else list(ridges)
    parts = [judge.at(layer) for judge in judges]
    states, sizes = torch.cat([pairs.x for pairs in parts]), [len(pairs.x) for pairs in parts]
    for ridge in reversed(offered):
        for rank, guess in _predictions(solution, ridge, ranks, states):
            yield tuple(
                Candidate(*_quality(own, pairs, head, train.tuned), layer, ridge, rank)
                for own, pairs in zip(guess.split(sizes), parts, strict=True)
            )


def _quality(
    guess: Float[Tensor, "n d_tuned"], pairs: Pairs, head: Head, like: Float[Tensor, "..."]
) -> tuple[float, float]:
    """Accuracy and R^2 of predicted states."""
    truth = pairs.y.double()
    spread = (truth - truth.mean(0)).square().sum()
    if not spread:
        raise TvlensError("the tuned states of a part that judges are all the same")
    right = decide(head, guess, like) == pairs.labels.cpu()
    return float(right.double().mean()), 1 - float((truth - guess).square().sum() / spread)


def _predictions(
    solution: Ridge,
    ridge: float,
    ranks: Sequence[int | None],
    states: Float[Tensor, "n d_base"],
) -> Iterator[tuple[int, Float[Tensor, "n d_tuned"]]]:
    """Predicted states by rank, 0 for the whole matrix; one decomposition for all ranks."""
    weight = solution.weight(ridge)
    whole = (states.to(weight) - solution.moments.mean_x) @ weight
    mean = solution.moments.mean_y
    reduced = [rank for rank in ranks if rank is not None]
    if reduced:
        axes = output_axes(solution.factor(ridge))[1]
        coordinates = whole @ axes
    for rank in sorted(reduced):
        check_rank(rank, weight)
        yield rank, coordinates[:, :rank] @ axes[:, :rank].T + mean
    if len(reduced) < len(ranks):
        yield 0, whole + mean


def _decided(setting: Setting, best: Candidate, bias: bool) -> Int[Tensor, " n"]:
    """Decisions on test of the chosen matrix."""
    solution = Ridge.of(PairMoments().update(*setting.train[:2]), bias=bias)
    ranks = [best.rank or None]
    ((_, guess),) = _predictions(solution, best.ridge, ranks, setting.test.x)
    return decide(setting.head, guess, setting.train.y)


def _probe_at_own_layer(
    train: Examples, judge: Examples, test: Examples, setting: Setting
) -> Int[Tensor, " n"]:
    settings = [Setting(train.at(l), judge.at(l), test.at(l), setting.head) for l in train.layers]
    return ridge_probe(max(settings, key=ridge_probe_accuracy))


def _checked(name: str, decisions: Int[Tensor, " n"], test: Examples) -> Int[Tensor, " n"]:
    if len(decisions) != len(test):
        raise TvlensError(f"{name} has {len(decisions)} decisions for {len(test)} test examples")
    return decisions
