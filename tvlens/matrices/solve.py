"""How a task matrix comes out of a decomposition: method, penalty, and what is known of the fit."""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch

from ..errors import TvlensError, unknown
from .moments import PairMoments
from .penalty import Rule, check_rule, penalty
from .procrustes import rotation
from .ridge import Ridge

Fit = Literal["ridge", "lstsq", "procrustes"]
METHODS = get_args(Fit)


def solved(
    solution: Ridge,
    *,
    ridge: Rule | float | None = "gcv",
    method: Fit = "ridge",
    ridges: Iterable[float] | None = None,
    layer: int | None = None,
    target: int | None = None,
    meta: dict[str, Any] | None = None,
    **sources: Any,
) -> dict[str, Any]:
    """The fields of the `TaskMatrix` of one decomposition.

    Args:
        ridge, method, ridges: as in `TaskMatrix.from_moments`.
        layer, target, meta: where and how the states were taken.
        sources: folds and pairs, as in `penalty`.

    Raises:
        TvlensError: no such method or rule, or least squares with constant features.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    check_rule(ridge)
    moments = solution.moments
    known = {"method": method, "bias": solution.bias, "count": moments.count}
    if method == "procrustes":
        weight, chosen, factor = rotation(moments), 0.0, None
    else:
        rule = ridge if method == "ridge" else None
        if not rule:
            _check_constant(moments)
        chosen = penalty(solution, rule, ridges=ridges, **sources)
        weight, factor = solution.weight(chosen), solution.factor(chosen)
        known |= {"ridge": rule, "predicted_r2": predicted_r2(solution, chosen)}
    return {
        "weight": weight,
        "bias": solution.intercept(weight),
        "ridge": chosen,
        "center": moments.mean_x.clone(),
        "factor": factor,
        "layer": layer,
        "target": target,
        "meta": known | (meta or {}),
    }


def predicted_r2(solution: Ridge, ridge: float) -> float | None:
    """R^2 that generalised cross-validation expects on new pairs, from the moments alone.

    Below 0 where the map does worse than the mean; None where it interpolates its pairs, or the
    tuned states do not vary.
    """
    score = float(solution.gcv(torch.tensor([ridge]).to(solution.values))[0])
    moments = solution.moments
    rest = moments.count - solution.bias
    mean_only = moments.count * float(moments.yy.trace()) / rest**2
    return 1 - score / mean_only if mean_only and score < float("inf") else None


def _check_constant(moments: PairMoments) -> None:
    """Least squares cannot tell what a feature that never varies is worth."""
    spread = moments.xx.diagonal()
    raw = spread + moments.count * moments.mean_x.square()
    constant = (spread <= 1e-24 * raw).nonzero().flatten().tolist()
    if constant:
        named = ", ".join(map(str, constant[:8])) + (" ..." if len(constant) > 8 else "")
        raise TvlensError(
            f"{len(constant)} of {len(spread)} base features are constant ({named}): least squares "
            "is not determined there; use a ridge penalty, which gives them weight 0"
        )
