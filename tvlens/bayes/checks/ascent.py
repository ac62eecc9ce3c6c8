"""Maximise a smooth function of a subspace: L-BFGS from several starts, the best of their ends."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

# Ends whose heights differ by less than this share are one end.
_SAME_HEIGHT = 1e-5
# A climb has ended, too, where a step raises the function by less than this share of it: a steep
# ridge keeps its slope until float64 ends.
_STANDSTILL = 1e-13
# L-BFGS-B's status where a line search fails.
_NO_HIGHER = 2


@dataclass(frozen=True)
class Maximum:
    """The best subspace that was found.

    Attributes:
        basis: its orthonormal basis.
        height: the function there.
        curve: the function at the start that led there and after every iteration.
        heights: the function at the end of every start.
    """

    basis: Float[Tensor, "m r"]
    height: float
    curve: Float[Tensor, " step"]
    heights: Float[Tensor, " start"]


def maximize_over_subspaces(
    function: Callable[[Float[Tensor, "m r"]], Float[Tensor, ""]],
    starts: Float[Tensor, "start m r"],
    *,
    steps: int,
    tolerance: float,
) -> Maximum:
    """Climb from every start, in float64; the first start whose end is the highest decides.

    The basis is the orthonormal factor of a free matrix, which L-BFGS moves until no entry of the
    gradient is above the tolerance, or the function rises no more.

    Args:
        function: of an orthonormal basis; differentiable, and the same for all bases of a subspace.
        starts: free matrices.
        steps: iterations from each start at most.
        tolerance: in units of the function, for a turn by one radian.

    Warns:
        UserWarning: the climb that led to the result was still rising after all its steps.
    """
    climbs = [_climb(function, start, steps, tolerance) for start in starts.double()]
    heights = torch.tensor([-float(end.fun) for end, _ in climbs], dtype=torch.float64)
    top = float(heights.max())
    first = int((heights >= top - _SAME_HEIGHT * abs(top)).nonzero()[0])
    end, curve = climbs[first]
    slope = float(np.abs(end.jac).max())
    # Without a higher point on its line, a climb is where float64 ends, if it is not steep.
    ended = end.success or (end.status == _NO_HIGHER and slope < 1000 * tolerance)
    if not ended:
        warnings.warn(
            f"the search for directions has not converged: after {end.nit} steps its slope is "
            f"{slope:.1g}, above the tolerance of {tolerance:g}: give it more steps",
            stacklevel=3,
        )
    basis = _orthonormal(torch.from_numpy(end.x).view(starts.shape[1:]))
    return Maximum(basis, float(heights[first]), torch.tensor(curve), heights)


def _climb(
    function: Callable, start: Float[Tensor, "m r"], steps: int, tolerance: float
) -> tuple[OptimizeResult, list[float]]:
    """Where one start leads, and the heights on the way."""
    curve: list[float] = []

    def negative(flat: np.ndarray) -> tuple[float, np.ndarray]:
        free = torch.from_numpy(flat).view(start.shape).requires_grad_()
        height = function(_orthonormal(free))
        if not curve:
            curve.append(float(height.detach()))
        (slope,) = torch.autograd.grad(height, free)
        return -float(height.detach()), -slope.reshape(-1).double().numpy()

    def record(intermediate_result: OptimizeResult) -> None:
        curve.append(-float(intermediate_result.fun))

    # A free matrix with orthonormal columns, so that a unit of it is one radian.
    begin = _orthonormal(start).reshape(-1).numpy()
    options = {
        "maxiter": steps,
        "maxfun": 20 * steps,
        "gtol": tolerance,
        "ftol": _STANDSTILL,
        "maxcor": 20,
    }
    end = minimize(negative, begin, jac=True, method="L-BFGS-B", callback=record, options=options)
    return end, curve


def _orthonormal(free: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    return torch.linalg.qr(free).Q
