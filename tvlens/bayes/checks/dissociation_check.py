"""`dissociation`: which part of a state carries known tasks, and which new ones."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...errors import NamedValues, TvlensError
from ...geometry import Effects, Subspace
from ...integers import require_at_least
from ...models.loading import model_name
from ...results import Result
from ...stats import bootstrap_counts, percentiles, permutation_p_value
from ..prediction import Moments
from ..references import extrapolation, predict_in_batches, retrieval
from .ablation_check import orthogonal_rest
from .learner_search import learner_subspace
from .matched_subspaces import covariance, matched_subspaces, variance_inside
from .model_predictions import predict_from_last_state, require_compatible
from .probing import (
    Probes,
    draw_last_tokens,
    force_last_token,
    max_observations,
    task_effects,
    task_span,
)
from .states import state_source

if TYPE_CHECKING:
    import pandas

PARTS = ("task span", "learner subspace", "orthogonal part", "whole state")
# Kinds of the tasks of receiver and donor; those of one kind make the table of 2 x 2.
KINDS = {
    "known": ("known", "known"),
    "new": ("new", "new"),
    "new into known": ("known", "new"),
    "known into new": ("new", "known"),
}
_AXES: dict[str, tuple[str, ...]] = {"part": PARTS, "kind": tuple(KINDS)}
# Parts that can carry new tasks, and coefficients of [task span, such a part] x [known, new].
OtherPart = Literal["learner subspace", "orthogonal part"]
OTHER_PARTS = get_args(OtherPart)
CONTRASTS = {
    "known tasks": [[1, 0], [-1, 0]],
    "new tasks": [[0, -1], [0, 1]],
    "task span": [[1, -1], [0, 0]],
    "other part": [[0, 0], [-1, 1]],
    "interaction": [[1, -1], [-1, 1]],
}
# The double dissociation holds where the intervals of these contrasts lie above 0.
DECISIVE = ("known tasks", "new tasks", "interaction")
_RESAMPLES = 2000


@dataclass(frozen=True)
class Dissociation(Result):
    """Share of the movement toward the donor's prediction when parts of states are exchanged.

    In a double dissociation the task span carries known tasks and not new ones, and another part
    new tasks and not known ones: the table of shares is near [[1, 0], [0, 1]]. Its row of known
    tasks follows from P0 alone: where a known task determines the state, differences between tasks
    lie in the task span. The row of new tasks is the finding. The kinds "new into known" and "known
    into new" exchange parts between a known and a new task.

    Attributes:
        movement: projection of the change of each prediction onto the difference between the
            donor's and the receiver's reference prediction, <p' - p, q_donor - q_receiver>, in the
            order of `PARTS` and `KINDS`.
        distance: squared norm of this difference.
        null: share of movement for random subspaces that hold as much variance of the differences
            between donors and receivers, outside both parts; for the first two parts.
        variance: mean squared norm of the exchanged part of the differences.
        null_variance: the same of each random subspace.
        ranks: dimensions of the parts.
        layer: the block whose output is edited, at the last position.
        settings: model, family, sizes and seed.
    """

    movement: Float[Tensor, "part kind pair"]
    distance: Float[Tensor, "kind pair"]
    null: Float[Tensor, "tested kind draw"]
    variance: Float[Tensor, "part kind"]
    null_variance: Float[Tensor, "tested kind draw"]
    ranks: tuple[int, ...]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        rows = [f"{p} {self.share[p, 'known']:.2f} {self.share[p, 'new']:.2f}" for p in PARTS[:2]]
        return f"Dissociation(layer {self.layer}, known and new tasks: {', '.join(rows)})"

    @cached_property
    def share(self) -> NamedValues[float]:
        """Share of movement by part and kind: 0 without effect, 1 where the donor is predicted."""
        shares = self.movement.sum(-1) / self.distance.sum(-1)
        return NamedValues(_AXES, shares.flatten().tolist())

    @cached_property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the share over pairs, by part and kind."""
        low, high = percentiles(self._resampled_shares, axis=0)
        ends = zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)
        return NamedValues(_AXES, ends)

    @cached_property
    def p_value(self) -> NamedValues[float]:
        """Share of random subspaces that move predictions at least as much, by part and kind."""
        axes = {"part": PARTS[: len(self.null)], "kind": tuple(KINDS)}
        keys = [(part, kind) for part in axes["part"] for kind in KINDS]
        nulls = zip(keys, self.null.flatten(0, 1), strict=True)
        return NamedValues(axes, (permutation_p_value(null, self.share[k]) for k, null in nulls))

    @cached_property
    def contrasts(self) -> NamedValues[tuple[float, float, float]]:
        """Value and 95% interval of contrasts, by the part that is compared with the task span.

        - "known tasks": share of the task span minus that of the part, on known tasks;
        - "new tasks": share of the part minus that of the task span, on new tasks;
        - "task span": its share on known minus that on new tasks;
        - "other part": its share on new minus that on known tasks;
        - "interaction": the sum of the first two, which is also the sum of the last two.
        """
        table = (self.movement.sum(-1) / self.distance.sum(-1)).numpy()[:, :2]
        estimates = []
        for part in OTHER_PARTS:
            rows = [0, PARTS.index(part)]
            for weights in CONTRASTS.values():
                draws = (self._resampled_shares[:, rows, :2] * np.array(weights)).sum((1, 2))
                low, high = percentiles(draws)
                estimates.append((float((table[rows] * weights).sum()), float(low), float(high)))
        return NamedValues({"part": OTHER_PARTS, "contrast": tuple(CONTRASTS)}, estimates)

    def holds(self, part: OtherPart = "learner subspace") -> bool:
        """Whether task span and another part are doubly dissociated.

        The intervals of the interaction and of the contrasts on known and on new tasks lie above 0.
        """
        return all(self.contrasts[part, name][1] > 0 for name in DECISIVE)

    @cached_property
    def _resampled_shares(self) -> Float[np.ndarray, "draw part kind"]:
        """Shares of bootstrap samples of pairs, which are the same for all parts."""
        pairs = self.distance.shape[1]
        counts = [bootstrap_counts(pairs, _RESAMPLES, seed=kind) for kind in range(len(KINDS))]
        movement, distance = self.movement.numpy(), self.distance.numpy()
        shares = [(c @ movement[:, k].T) / (c @ distance[k])[:, None] for k, c in enumerate(counts)]
        return np.stack(shares, -1)

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per part and kind: share, interval, null, exchanged variances."""
        import pandas as pd

        rows = []
        for i, part in enumerate(PARTS):
            for k, kind in enumerate(KINDS):
                low, high = self.interval[part, kind]
                row = {"part": part, "kind": kind, "share": self.share[part, kind]}
                row |= {"low": low, "high": high, "variance": float(self.variance[i, k])}
                if i < len(self.null):
                    row |= {"null_mean": float(self.null[i, k].mean())}
                    row |= {"null_max": float(self.null[i, k].max())}
                    row |= {"null_variance": float(self.null_variance[i, k].mean())}
                    row |= {"p_value": self.p_value[part, kind]}
                rows.append(row | {"rank": self.ranks[i]})
        return pd.DataFrame(rows)


def dissociation(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    pairs: int = 256,
    observations: int | None = None,
    null: int = 20,
    span: Subspace | None = None,
    by_token: bool = False,
    learner: Subspace | None = None,
    effects: Effects | None = None,
    seed: int = 0,
) -> Dissociation:
    """Exchange parts of states between prompts of different tasks, for known and for new tasks.

    A receiver and a donor have different tasks, both known (major), both new, or one of each kind,
    and the same last token, so that token effects cancel in the difference of their states. The
    part of this difference inside a subspace is added to the receiver's state at the last position.
    The share of movement is ``sum <p' - p, q_donor - q_receiver> / sum |q_donor - q_receiver|^2``
    over pairs, in probabilities (of a regression, in means): 0 without effect, 1 where the donor's
    reference is predicted. References are `retrieval` for known and `extrapolation` for new tasks.

    The parts are the task span, the learner's subspace, all that is orthogonal to the task span,
    and the whole state, whose share is the largest that one position and layer can have (later
    blocks read earlier positions). The task span of a model that also codes what a learner counts
    contains part of this code, so that it moves new tasks, too. The null exchanges random subspaces
    outside task span and learner's subspace, matched in the variance of the differences (see
    `ablation`).

    Args:
        layer: the block whose output is edited.
        pairs: number of pairs of each kind.
        observations: observations before the state; by default the most that fit into the context.
        null: number of random subspaces.
        span: the task span; that of the task vectors by default.
        by_token: whether this is the span of separate task vectors for each last token.
        learner: subspace orthogonal to the task span; by default that of `learner_subspace` at the
            same layer.
        effects: result of `task_effects` at the same layer, which is computed by default.
        seed: seed of prompts and random subspaces.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the
            family has one major task only, or the learner's subspace is not orthogonal to the task
            span.
    """
    require_compatible(model, family)
    require_at_least(2, pairs=pairs, null=null)
    observations = max_observations(model, family) if observations is None else observations
    if span is None or learner is None:
        options = dict(layer=layer, by_token=by_token, seed=seed)
        options["effects"] = effects or task_effects(model, family, layer=layer, seed=seed)
        span = task_span(model, family, **options) if span is None else span
        learner = learner or learner_subspace(model, family, **options).subspace
    rest = orthogonal_rest(_join(span, learner))
    whole = Subspace(torch.eye(span.dim, dtype=torch.float64))
    parts = [span, learner, span.complement(), whole]
    rng = np.random.default_rng(seed)
    token = draw_last_tokens(family, pairs, rng)
    sampled = {
        "known": _sample_known(family, token, observations, rng, seed + 7),
        "new": _sample_new(family, token, observations, seed + 9),
    }
    options = dict(parts=parts, rest=rest, layer=layer, null=null, seed=seed)
    columns = [
        _exchange(model, family, *kinds, sampled[kinds[0]][0], sampled[kinds[1]][1], **options)
        for kinds in KINDS.values()
    ]
    movement, distance, null_share, variance, null_variance = zip(*columns, strict=True)
    settings = {"model": model_name(model), "family": str(family), "observations": observations}
    return Dissociation(
        movement=torch.stack(movement, 1),
        distance=torch.stack(distance),
        null=torch.stack(null_share, 1),
        variance=torch.stack(variance, 1),
        null_variance=torch.stack(null_variance, 1),
        ranks=tuple(part.rank for part in parts),
        layer=layer % model.cfg.n_layers,
        settings=settings | {"seed": seed},
    )


def _join(span: Subspace, learner: Subspace) -> Subspace:
    """Return the span of both, which must be orthogonal."""
    if (overlap := float(span.share(learner.basis.T.double()).max())) > 1e-3:
        raise TvlensError(
            "the learner's subspace is not orthogonal to the task span: a share of "
            f"{overlap:.2g} of one of its directions is inside"
        )
    return span.union(learner)


def _sample_known(
    family: Any, token: Int[Tensor, " n"], observations: int, rng: np.random.Generator, seed: int
) -> tuple[Probes, Probes]:
    """Sample receivers and donors of different major tasks."""
    receiver = rng.integers(family.majors, size=len(token))
    donor = (receiver + rng.integers(1, family.majors, size=len(token))) % family.majors
    return _sample_pairs(family, receiver, donor, token, observations, seed)


def _sample_new(
    family: Any, token: Int[Tensor, " n"], observations: int, seed: int
) -> tuple[Probes, Probes]:
    """Sample receivers and donors, each of a new task."""
    pool = family.with_new_tasks(2 * len(token), seed=seed)
    receiver, donor = np.arange(2 * len(token)).reshape(2, -1)
    return _sample_pairs(pool, receiver, donor, token, observations, seed)


def _sample_pairs(
    pool: Any,
    receiver: np.ndarray,
    donor: np.ndarray,
    token: Int[Tensor, " n"],
    observations: int,
    seed: int,
) -> tuple[Probes, Probes]:
    """Sample sequences of receivers and donors that end in the same tokens."""
    first, second = (
        force_last_token(
            pool, torch.from_numpy(task), token, observations=observations, seed=seed + i
        )
        for i, task in enumerate((receiver, donor))
    )
    return first, second


def _exchange(
    model: Any,
    family: Any,
    receiver_kind: str,
    donor_kind: str,
    receivers: Probes,
    donors: Probes,
    *,
    parts: list[Subspace],
    rest: Subspace,
    layer: int,
    null: int,
    seed: int,
) -> tuple[Tensor, ...]:
    """Exchange every part of one kind.

    Returns:
        Movement [part pair], distance [pair], null shares [tested draw], variance [part] and
        variance of the null [tested draw].
    """
    predict_last = predict_from_last_state(model, family, receivers.data, layer)
    source = state_source(model, family, layer=layer)
    states = source.read_last(receivers.data).double()
    difference = source.read_last(donors.data).double() - states

    donor_reference = _compute_reference(family, donors, donor_kind)
    direction = donor_reference - _compute_reference(family, receivers, receiver_kind)
    baseline = predict_last(states)

    def move(space: Subspace) -> Float[Tensor, " n"]:
        change = predict_last(states + space.project(difference)) - baseline
        return (change.view_as(direction) * direction).sum(1)

    distance = direction.square().sum(1)
    moments = covariance(difference)
    movement = torch.stack([move(space) for space in parts])
    variance = torch.tensor([variance_inside(space, moments) for space in parts])
    null_shares, null_variances = [], []
    for space in parts[:2]:
        options = dict(inside=rest, draws=null, seed=seed)
        random_subspaces = matched_subspaces(space, moments, **options)
        # Where the random subspaces are all of the rest, they are one object.
        moved = {id(each): each for each in random_subspaces}
        shares = {key: float(move(each).sum() / distance.sum()) for key, each in moved.items()}
        null_shares.append(torch.tensor([shares[id(each)] for each in random_subspaces]))
        inside = [variance_inside(each, moments) for each in random_subspaces]
        null_variances.append(torch.tensor(inside))
    return movement, distance, torch.stack(null_shares), variance, torch.stack(null_variances)


def _compute_reference(family: Any, probes: Probes, kind: str) -> Float[Tensor, "n out"]:
    """Compute the reference predictive at the last position; of a regression, its mean."""
    reference = retrieval if kind == "known" else extrapolation
    predictive = predict_in_batches(reference, family, probes.data).predictive
    last = (predictive.mean if isinstance(predictive, Moments) else predictive)[:, -1]
    return last.view(len(probes), -1)
