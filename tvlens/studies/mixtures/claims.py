"""Claims of the mixtures study, each with its nulls."""

from torch import Tensor

from ...bayes import Agreement, RetrievalCheck
from ..claims import Claim

Where = dict[str, str | int]


def compute_claims(name: str, check: RetrievalCheck, control: RetrievalCheck) -> list[Claim]:
    """Compute the claims of one set of tasks at the selected layer.

    Args:
        name: name of the set.
        check: its retrieval check.
        control: a retrieval check of the same model with scrambled weights.
    """
    primary, layer = check.noise_models[0], check.layer
    where: Where = {"tasks": name, "layer": layer}
    weights = check.weight_agreement[primary].at_layer(layer)
    distances = {
        "weights-posterior-distance": (f"Weights are nearer to the posterior ({primary})", weights),
        "weights-behaviour-distance": (
            "Weights are nearer to the answers",
            check.weight_agreement["behaviour"].at_layer(layer),
        ),
    }
    for noise_model, agreement in check.behaviour_agreement.items():
        distances[f"behaviour-posterior-{noise_model.replace(' ', '-')}"] = (
            f"Answers are nearer to the posterior ({noise_model})",
            agreement,
        )
    return [
        _claim_residual_share(check, where),
        _claim_correlation(check, control, where),
        *(
            _claim_distance(name, f"{statement} than uniform weights are.", agreement, where)
            for name, (statement, agreement) in distances.items()
        ),
        _claim_injection(check, where),
    ]


def _claim_residual_share(check: RetrievalCheck, where: Where) -> Claim:
    """Claim that states are convex combinations of task vectors."""
    low, high = check.residual_share.interval[check.layer].tolist()
    nulls = {c: check.null[c, "residual share"][check.layer] for c in check.controls}
    return Claim(
        id="residual-share",
        statement="States are convex combinations of task vectors: share of the squared norm "
        "that they leave unexplained.",
        value=float(check.residual_share.values[check.layer]),
        interval=(low, high),
        side="below",
        nulls={c: float(null.quantile(0.05)) for c, null in nulls.items()},
        where=where,
    )


def _claim_correlation(check: RetrievalCheck, control: RetrievalCheck, where: Where) -> Claim:
    """Claim that weights correlate with the posterior."""
    primary = check.noise_models[0]
    weights = check.weight_agreement[primary].at_layer(check.layer)
    nulls = {c: check.null[c, "correlation"][check.layer] for c in check.controls}
    scrambled = float(control.weight_agreement[primary].correlation.max())
    return Claim(
        id="weights-posterior-correlation",
        statement=f"Weights correlate with the posterior ({primary}).",
        value=float(weights.correlation),
        interval=_interval(weights.correlation_interval),
        nulls={c: float(null.quantile(0.95)) for c, null in nulls.items()}
        | {"scrambled weights, best layer": scrambled},
        where=where,
    )


def _claim_injection(check: RetrievalCheck, where: Where) -> Claim:
    """Claim that answers follow an injected combination of task vectors."""
    agreements = check.injection_agreement
    combination = agreements["combination"]
    return Claim(
        id="injected-combination",
        statement="Answers follow an injected combination of task vectors: distance from its "
        "weights.",
        value=float(combination.distance),
        interval=_interval(combination.distance_interval),
        side="below",
        nulls={k: float(a.distance) for k, a in agreements.items() if k != "combination"},
        where=where,
    )


def _claim_distance(name: str, statement: str, agreement: Agreement, where: Where) -> Claim:
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
