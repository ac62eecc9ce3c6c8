"""Claims of arXiv 2605.03780, each with the number that tests it in one trained model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...bayes.checks.learner_search import EQUIVALENCE_BOUND
from ...stats import bootstrap_interval
from ..claims import Claim
from .config import TOKEN_DEPENDENT, FamilyConfig
from .trained_model import TrainedModelResult

# Statement, threshold and name of the null of each measure of a representation.
_MEASURES = {
    "within-cell share": (
        "Task and last token determine the state (P0: share of variance within cells).",
        0.02,
        "tasks permuted",
    ),
    "interaction": (
        "Task and token effects are additive (P1: share of interaction).",
        0.005,
        "cells permuted",
    ),
    "total variation": (
        "Weights of task vectors equal the posterior (P3: total variation).",
        0.06,
        "other posteriors",
    ),
    "correlation": (
        "Weights of task vectors follow the posterior (P3: correlation).",
        0.95,
        "other posteriors",
    ),
}
_MEASURES_BY_TOKEN = {
    "total variation by token": (
        "Weights of token-specific task vectors equal the posterior (P3: total variation).",
        0.06,
        "other posteriors",
    ),
    "correlation by token": (
        "Weights of token-specific task vectors follow the posterior (P3: correlation).",
        0.95,
        "other posteriors",
    ),
}
_INJECTIONS = {"injected": "An injected mixture of task vectors is predicted (KL, nats)."}
_INJECTIONS_BY_TOKEN = {
    "injected by token": "An injected mixture of token-specific vectors is predicted (KL, nats)."
}


def compute_claims(
    models: Sequence[TrainedModelResult], configs: dict[str, FamilyConfig]
) -> list[Claim]:
    """Compute every claim for the models to which it applies.

    Retrieval is tested without minor tasks, extrapolation with the largest number of them.
    """
    claims = []
    for model in models:
        claims.append(_claim_convergence(model, configs[model.family].converged))
        related = [m for m in models if (m.family, m.seed) == (model.family, model.seed)]
        if model.minor == "none":
            claims += [*_claim_representation(model), *_claim_injection(model)]
        elif model.minor == max(m.minor for m in related if m.minor != "none"):
            claims += [_claim_extrapolation(model), *_claim_learner_subspace(model)]
            claims += [_claim_novel_tasks(model, m) for m in related if m.minor == "none"]
    return claims


def _make_claim(model: TrainedModelResult, **fields: Any) -> Claim:
    minors = 0 if model.minor == "none" else 2**model.minor
    where: dict[str, str | int] = {"family": model.family, "minors": minors, "seed": model.seed}
    return Claim(where=where, **fields)


def _claim_convergence(model: TrainedModelResult, threshold: float) -> Claim:
    behaviour = model.behaviour
    return _make_claim(
        model,
        id="retrieval-kl",
        statement="Predictions on known tasks match Bayesian retrieval (KL, nats).",
        value=behaviour.mean["major", "retrieval"],
        interval=behaviour.interval["major", "retrieval"],
        side="below",
        threshold=threshold,
        nulls={"KL to the learner": behaviour.mean["major", "learner"]},
    )


def _claim_representation(model: TrainedModelResult) -> list[Claim]:
    """P0, P1 and P3 at the last layer and the end of the context."""
    result = model.representation
    measures = _MEASURES | (_MEASURES_BY_TOKEN if model.family in TOKEN_DEPENDENT else {})
    claims = []
    for measure, (statement, threshold, null) in measures.items():
        low, high = result.interval[measure][-1].tolist()
        claims.append(
            _make_claim(
                model,
                id=measure.replace(" ", "-"),
                statement=statement,
                value=float(result[measure][-1]),
                interval=(low, high),
                side="above" if measure.startswith("correlation") else "below",
                threshold=threshold,
                nulls={null: float(result.null[measure][-1].mean())},
            )
        )
    return claims


def _claim_injection(model: TrainedModelResult) -> list[Claim]:
    result = model.injection
    conditions = _INJECTIONS | (_INJECTIONS_BY_TOKEN if model.family in TOKEN_DEPENDENT else {})
    claims = [
        _make_claim(
            model,
            id=condition.replace(" ", "-"),
            statement=statement,
            value=result.mean[condition],
            interval=result.interval[condition],
            side="below",
            threshold=0.05,
            nulls={"unsteered": result.mean["unsteered"]},
        )
        for condition, statement in conditions.items()
    ]
    difference = (result.kl_under("most likely task") - result.kl_under("injected")).numpy()
    random = result.mean["most likely task"] - result.mean["random vectors"]
    claims.append(
        _make_claim(
            model,
            id="mixture-beats-most-likely-task",
            statement="The mixture is predicted better than by its most likely task (KL, nats).",
            value=float(difference.mean()),
            interval=bootstrap_interval(difference),
            threshold=0.0,
            nulls={"random vectors": random},
        )
    )
    return claims


def _claim_extrapolation(model: TrainedModelResult) -> Claim:
    result = model.behaviour
    kls = np.stack([result.kl_to("ood", r).mean(1).numpy() for r in result.references[:2]], 1)

    def log_ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        sums = kls[rows.astype(int)].sum(-2 if axis == -1 else axis)
        return np.log(sums[..., 0] / sums[..., 1])

    return _make_claim(
        model,
        id="extrapolation",
        statement="New tasks are extrapolated rather than retrieved: log(KL to M1 / KL to M2).",
        value=result.log_ratio("ood"),
        interval=bootstrap_interval(np.arange(len(kls)), statistic=log_ratio),
        threshold=0.0,
        nulls={"known tasks": result.log_ratio("major")},
    )


def _claim_learner_subspace(model: TrainedModelResult) -> list[Claim]:
    result = model.learner_subspace
    return [
        _make_claim(
            model,
            id="learner-subspace",
            statement="New tasks depend on directions outside task and token spans: ablation costs "
            "a larger share of the gain from context than any random subspace of equal variance.",
            value=result.share["ood"],
            interval=result.share_interval["ood"],
            nulls={"largest of random subspaces": result.null_share["ood"]},
        ),
        _make_claim(
            model,
            id="learner-subspace-spares-known-tasks",
            statement="Ablating them costs known tasks less than a tenth as much (ratio).",
            value=result.known_ratio,
            interval=result.known_ratio_interval,
            side="below",
            threshold=EQUIVALENCE_BOUND,
            nulls={},
        ),
    ]


def _claim_novel_tasks(model: TrainedModelResult, without_minors: TrainedModelResult) -> Claim:
    return _make_claim(
        model,
        id="novel-tasks-leave-span",
        statement="Minor tasks in training move new tasks out of the task span (share inside).",
        value=model.novel_tasks.share,
        interval=model.novel_tasks.interval,
        side="below",
        nulls={"without minors": without_minors.novel_tasks.share},
    )
