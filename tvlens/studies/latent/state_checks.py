"""`STATE_CHECKS`: what states hold of task, token, posterior and prefix (P0 to P3)."""

from ...bayes import (
    PosteriorWeights,
    PrefixDependence,
    Representation,
    posterior_weights,
    prefix_dependence,
    representation,
)
from ...bayes.checks.posterior_weights_check import WeightMeasure
from ...bayes.checks.prefix_check import TARGETS
from .config import ADDITIVE, TOKEN_DEPENDENT
from .registry import (
    Check,
    CheckSetup,
    ClaimRule,
    Estimate,
    Measure,
    Place,
    Substitute,
    TrainedModelResult,
)

_SUBSTITUTES: tuple[Substitute, ...] = ("retrieval", "label", "learner", "readout", "untrained")


def _compute_representation(setup: CheckSetup) -> Representation:
    per_cell = setup.config.per_cell
    return representation(setup.subject, setup.family, per_cell=per_cell, **setup.options)


def _compute_posterior_weights(setup: CheckSetup) -> PosteriorWeights:
    return posterior_weights(setup.subject, setup.family, **setup.options)


def _compute_prefix(setup: CheckSetup) -> PrefixDependence:
    return prefix_dependence(setup.subject, setup.family, **setup.options)


def _measure_state(measure: str, null: str) -> Measure:
    """Return the measurement of P0 or P1 at the end of the context."""

    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: Representation = model["representation", place]
        low, high = result.interval[measure][-1].tolist()
        nulls = {null: float(result.null[measure][-1].mean())}
        return Estimate(float(result[measure][-1]), (low, high), nulls)

    return estimate


def _measure_weights(measure: WeightMeasure) -> Measure:
    """Return the measurement of P2 or P3 where the posterior is most uncertain."""

    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: PosteriorWeights = model["posterior_weights", place]
        position = result.uncertain_position
        low, high = result.interval[measure][position].tolist()
        return Estimate(float(result[measure][position]), (low, high), {})

    return estimate


def _measure_lead(measure: WeightMeasure) -> Measure:
    """Return by how much a measure of P3 exceeds that of the label, in pairs of sequences."""

    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: PosteriorWeights = model["posterior_weights", place]
        value, interval = result.difference(measure, "label", result.uncertain_position)
        return Estimate(value, interval, {})

    return estimate


def _measure_prefix_share(share: str) -> Measure:
    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        value, low, high = getattr(model["prefix", place], share)[-1].tolist()
        return Estimate(value, (low, high), {})

    return estimate


def _measure_prefix_probe(target: str) -> Measure:
    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: PrefixDependence = model["prefix", place]
        row = TARGETS.index(target)
        value, low, high = result.accuracy[row].tolist()
        nulls = {"permuted within cells": float(result.null[row].max())}
        return Estimate(value, (low, high), nulls)

    return estimate


def _rules_of_weights(by_token: bool) -> list[ClaimRule]:
    """Return the claims about P2 and P3, with task vectors shared by all last tokens or not."""
    families = TOKEN_DEPENDENT if by_token else ("dice",)
    suffix = " by token" if by_token else ""
    vectors = "token-specific task vectors" if by_token else "task vectors"
    rules: dict[WeightMeasure, tuple] = {
        f"explained share{suffix}": (
            f"Convex combinations of {vectors} explain what the last token does not (P2: R2).",
            "above",
            0.8,
            ("learner", "untrained"),
        ),
        f"total variation{suffix}": (
            f"Weights of {vectors} equal the posterior where it is most uncertain (P3: total "
            "variation).",
            "below",
            0.06,
            ("label", "learner", "readout", "untrained"),
        ),
        f"correlation{suffix}": (
            f"Weights of {vectors} follow the posterior where it is most uncertain (P3: "
            "correlation).",
            "above",
            0.95,
            ("label", "learner", "readout", "untrained"),
        ),
    }
    claims = [
        ClaimRule(
            id=measure.replace(" ", "-"),
            statement=statement,
            measure=_measure_weights(measure),
            side=side,
            threshold=threshold,
            nulls=nulls,
            families=families,
        )
        for measure, (statement, side, threshold, nulls) in rules.items()
    ]
    lead = ClaimRule(
        id=f"lead-over-the-label{suffix}".replace(" ", "-"),
        statement=f"Weights of {vectors} follow the posterior better than the true label does "
        "(P3: difference of correlations).",
        measure=_measure_lead(f"correlation{suffix}"),
        threshold=0.0,
        nulls=("learner", "readout", "untrained"),
        families=families,
    )
    return [*claims, lead]


STATE_CHECKS: dict[str, Check] = {
    "representation": Check(
        compute=_compute_representation,
        result=Representation,
        title="properties of the states",
        text="Measured on balanced sequences with a forced last token, which separates task from "
        "token. Bands are 95% bootstrap intervals. Nulls: tasks permuted, cells permuted, random "
        "vectors of equal norms and angles. Measures by token use task vectors of each last token "
        "and require no additivity.",
        at="layers",
        minors="none",
        families=ADDITIVE,
        substitutes=_SUBSTITUTES,
        sizes={"quick": {"resamples": 200, "null": 10}, "full": {"resamples": 1000, "null": 100}},
        claims=[
            ClaimRule(
                id="within-cell-share",
                statement="Task and last token determine the state (P0: share of variance within "
                "cells).",
                measure=_measure_state("within-cell share", "tasks permuted"),
                side="below",
                threshold=0.02,
                nulls=("untrained",),
                families=("dice", "markov"),
            ),
            ClaimRule(
                id="ancova-residual",
                statement="Task and last input determine the state (P0: residual of an analysis of "
                "covariance).",
                measure=_measure_state("ANCOVA residual", "tasks permuted"),
                side="below",
                # The models of arXiv 2605.03780 have .028 to .043.
                threshold=0.05,
                nulls=("untrained",),
                families=("regression",),
            ),
            ClaimRule(
                id="interaction",
                statement="Task and token effects are additive (P1: share of interaction).",
                measure=_measure_state("interaction", "cells permuted"),
                side="below",
                threshold=0.005,
                families=("dice",),
            ),
            ClaimRule(
                id="interaction-below-readout",
                statement="Task and token effects are additive (P1: share of interaction), unlike "
                "in the predictions themselves.",
                measure=_measure_state("interaction", "cells permuted"),
                side="below",
                threshold=0.05,
                nulls=("readout",),
                families=TOKEN_DEPENDENT,
            ),
        ],
    ),
    "posterior_weights": Check(
        compute=_compute_posterior_weights,
        result=PosteriorWeights,
        title="weights follow the posterior",
        text="Weights of the convex combination of task vectors nearest to the state, on natural "
        "sequences and at every position, beside the Bayesian posterior. Claims are tested where "
        "the posterior is most uncertain after the first two observations: at the end of the "
        "context it is certain, and the label says as much. Below, one sequence of each task: "
        "select a task to colour the tokens by its weight or posterior.",
        at="layers",
        minors="none",
        families=ADDITIVE,
        substitutes=_SUBSTITUTES,
        sizes={
            "quick": {"sequences": 512, "resamples": 500},
            "full": {"sequences": 2048, "resamples": 1000},
        },
        claims=[*_rules_of_weights(False), *_rules_of_weights(True)],
    ),
    "prefix": Check(
        compute=_compute_prefix,
        result=PrefixDependence,
        title="what the prefix adds",
        text="The next bracket depends on how much of the path has passed, which no bounded window "
        "of tokens determines. A state that is a function of task and last token, such as those of "
        "the label and of retrieval, has no variance within cells of equal task and token. Probes "
        "read the state minus its cell's mean; their null permutes prefixes within cells.",
        at="layers",
        families=("dyck",),
        substitutes=("label", "retrieval", "learner", "readout", "untrained"),
        sizes={
            "quick": {"sequences": 1024, "resamples": 300, "null": 20},
            "full": {"sequences": 4096, "resamples": 1000, "null": 100},
        },
        claims=[
            ClaimRule(
                id="prefix-within-cells",
                statement="Task and last token do not determine the state (P0 fails: share of "
                "variance within cells).",
                measure=_measure_prefix_share("within_share"),
                threshold=0.25,
                nulls=("label", "retrieval"),
            ),
            ClaimRule(
                id="prefix-explains-state",
                statement="The number of brackets passed explains variance of the state beyond "
                "task and last token (share of all variance).",
                measure=_measure_prefix_share("prefix_share"),
                threshold=0.1,
                nulls=("label", "retrieval", "untrained"),
            ),
            *(
                ClaimRule(
                    id=f"prefix-probe-of-{target}",
                    statement=f"The state, minus its cell's mean, shows the {target} of the path "
                    "to a linear probe (accuracy).",
                    measure=_measure_prefix_probe(target),
                    nulls=("label", "retrieval", "untrained"),
                )
                for target in TARGETS
            ),
        ],
    ),
}
