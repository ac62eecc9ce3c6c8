"""How the ridge penalty is chosen: generalised cross-validation, leave-one-out or folds."""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from .ridge import COARSE_GRID, Ridge

Rule = Literal["gcv", "loo", "kfold"]
RULES = get_args(Rule)

Pairs = tuple[Float[Tensor, "n d_base"], Float[Tensor, "n d_tuned"]]


def check_rule(ridge: Rule | float | None) -> None:
    """Raise TvlensError unless this is a penalty, a rule that chooses one, or None."""
    if isinstance(ridge, str):
        if ridge not in RULES:
            raise unknown("rule for the ridge penalty", ridge, RULES)
    elif ridge is not None and not 0 <= ridge < float("inf"):
        raise TvlensError(f"the ridge penalty must be 0 or more and finite, not {ridge}")


def penalty(
    solution: Ridge,
    ridge: Rule | float | None,
    *,
    ridges: Iterable[float] | None = None,
    folds: Callable[[Float[Tensor, " k"]], Float[Tensor, " k"]] | None = None,
    pairs: Callable[[], Iterable[Pairs]] | None = None,
) -> float:
    """The penalty to use, given or chosen by a rule.

    Args:
        ridge: a number; None for least squares; "gcv", "loo" (exact leave-one-out, which needs
            the states once more) or "kfold".
        ridges: penalties to choose from; by default a grid in units of the mean eigenvalue.
        folds: gives the errors of held-out folds at such penalties, for "kfold" (`Folds.errors`).
        pairs: gives the states again, for "loo".

    Raises:
        TvlensError: no such rule, a negative penalty, or what the rule needs is missing.
    """
    check_rule(ridge)
    if not isinstance(ridge, str):
        return float(ridge or 0.0)
    if ridge == "gcv":
        offered = _offered(solution, ridges) if ridges is not None else solution.grid()
        scores = solution.gcv(offered)
    elif ridge == "loo":
        if pairs is None:
            raise TvlensError(
                "leave-one-out needs the states again: use TaskMatrix.from_states or .fit, or "
                "ridge='gcv', which needs the moments only"
            )
        offered = _offered(solution, ridges)
        scores = sum(solution.leave_one_out(x, y, offered) for x, y in pairs())
    else:
        offered = _offered(solution, ridges)
        if folds is None:
            raise TvlensError("ridge='kfold' needs folds: give their moments, or use another rule")
        scores = folds(offered)
    # Of equally good penalties the largest: it is the more careful map.
    best = (scores <= scores.min() * (1 + 1e-9)).nonzero().max()
    return float(offered[best])


def _offered(solution: Ridge, ridges: Iterable[float] | None) -> Float[Tensor, " k"]:
    if ridges is None:
        return solution.grid(COARSE_GRID)
    offered = sorted(map(float, ridges))
    for ridge in offered:
        check_rule(ridge)
    if not offered:
        raise TvlensError("no penalties to choose from")
    return torch.tensor(offered, dtype=torch.float64).to(solution.values)
