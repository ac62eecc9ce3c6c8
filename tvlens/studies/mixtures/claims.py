"""Claims of the mixtures study, each with its nulls."""

from torch import Tensor

from ...bayes import Agreement, RetrievalCheck
from ..claims import Claim


def compute_claims(name: str, check: RetrievalCheck, control: RetrievalCheck) -> list[Claim]:
    """Compute the claims of one set of tasks at the selected layer.

    Args:
        name: name of the set.
        check: its retrieval check.
        control: a retrieval check of the same model with scrambled weights.
    """
    primary, layer = check.noise_models[0], check.layer
    where: dict[str, str | int] = {"tasks": name, "layer": layer}
    weights = check.weight_agreement[primary].at_layer(layer)
    low, high = check.residual_share.interval[layer].tolist()
    share_nulls = {c: check.null[c, "residual share"][layer] for c in check.controls}
    correlation_nulls = {c: check.null[c, "correlation"][layer] for c in check.controls}
    scrambled = float(control.weight_agreement[primary].correlation.max())
    injected = check.injection_agreement
    behaviour_claims = [
        _claim_distance(
            f"behaviour-posterior-{noise_model.replace(' ', '-')}",
            f"Answers are nearer to the posterior ({noise_model}) than uniform weights are.",
            agreement,
            where,
        )
        for noise_model, agreement in check.behaviour_agreement.items()
    ]
    return [
        Claim(
            id="residual-share",
            statement="States are convex combinations of task vectors: share of the squared norm "
            "that they leave unexplained.",
            value=float(check.residual_share.values[layer]),
            interval=(low, high),
            side="below",
            nulls={c: float(null.quantile(0.05)) for c, null in share_nulls.items()},
            where=where,
        ),
        Claim(
            id="weights-posterior-correlation",
            statement=f"Weights correlate with the posterior ({primary}).",
            value=float(weights.correlation),
            interval=_interval(weights.correlation_interval),
            nulls={c: float(null.quantile(0.95)) for c, null in correlation_nulls.items()}
            | {"scrambled weights, best layer": scrambled},
            where=where,
        ),
        _claim_distance(
            "weights-posterior-distance",
            f"Weights are nearer to the posterior ({primary}) than uniform weights are.",
            weights,
            where,
        ),
        _claim_distance(
            "weights-behaviour-distance",
            "Weights are nearer to the answers than uniform weights are.",
            check.weight_agreement["behaviour"].at_layer(layer),
            where,
        ),
        *behaviour_claims,
        Claim(
            id="injected-combination",
            statement="Answers follow an injected combination of task vectors: distance from its "
            "weights.",
            value=float(injected["combination"].distance),
            interval=_interval(injected["combination"].distance_interval),
            side="below",
            nulls={k: float(a.distance) for k, a in injected.items() if k != "combination"},
            where=where,
        ),
    ]


def _claim_distance(
    name: str, statement: str, agreement: Agreement, where: dict[str, str | int]
) -> Claim:
    """Claim that weights are nearer to a reference than uniform weights are."""
    return Claim(
        id=name,
        statement=statement,
        value=float(agreement.distance),
        interval=_interval(agreement.distance_interval),
        side="below",
        nulls={"uniform weights": agreement.uniform_distance},
        where=where,
    )


def _interval(ends: Tensor) -> tuple[float, float]:
    low, high = ends.tolist()
    return low, high
