"""Maximization of a smooth function over subspaces by L-BFGS from several starts."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

# Maxima whose relative difference is below this value count as equal.
_SAME_VALUE = 1e-5
# A search also stops where a step increases the function by less than this fraction: along a steep
# ridge the gradient stays above the tolerance at the precision of float64.
_RELATIVE_TOLERANCE = 1e-13
# Status of L-BFGS-B after a failed line search.
_LINE_SEARCH_FAILED = 2


@dataclass(frozen=True)
class Maximum:
    """Result of a search over subspaces.

    Attributes:
        basis: orthonormal basis of the best subspace.
        value: the function at the best subspace.
        history: the function at the selected start and after every iteration.
        maxima: the function at the end of the search from every start.
    """

    basis: Float[Tensor, "m r"]
    value: float
    history: Float[Tensor, " step"]
    maxima: Float[Tensor, " start"]


def maximize_over_subspaces(
    function: Callable[[Float[Tensor, "m r"]], Float[Tensor, ""]],
    starts: Float[Tensor, "start m r"],
    *,
    steps: int,
    tolerance: float,
) -> Maximum:
    """Maximize a function of a subspace from every start, in float64.

    The first start that reaches the highest maximum is selected. The basis is the orthonormal
    factor of an unconstrained matrix, which L-BFGS updates until the gradient is below the
    tolerance or the function stops increasing.

    Args:
        function: differentiable function of an orthonormal basis, equal for all bases of a span.
        starts: unconstrained matrices.
        steps: maximum number of iterations from each start.
        tolerance: largest gradient entry at convergence, per radian.

    Warns:
        UserWarning: the selected search has not converged within `steps`.
    """
    searches = [_maximize_from(function, start, steps, tolerance) for start in starts.double()]
    maxima = torch.tensor([-float(result.fun) for result, _ in searches], dtype=torch.float64)
    highest = float(maxima.max())
    first = int((maxima >= highest - _SAME_VALUE * abs(highest)).nonzero()[0])
    result, history = searches[first]
    gradient = float(np.abs(result.jac).max())
    # A line search that fails at a small gradient has reached the precision of float64.
    at_precision = result.status == _LINE_SEARCH_FAILED and gradient < 1000 * tolerance
    if not (result.success or at_precision):
        warnings.warn(
            f"the subspace search has not converged: after {result.nit} steps the gradient is "
            f"{gradient:.1g}, above the tolerance of {tolerance:g}; increase steps",
            stacklevel=3,
        )
    basis = _orthonormalize(torch.from_numpy(result.x).view(starts.shape[1:]))
    return Maximum(basis, float(maxima[first]), torch.tensor(history), maxima)


def _maximize_from(
    function: Callable, start: Float[Tensor, "m r"], steps: int, tolerance: float
) -> tuple[OptimizeResult, list[float]]:
    """Maximize from one start; returns the result and the function after every iteration."""
    history: list[float] = []

    def negative(flat: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = torch.from_numpy(flat).view(start.shape).requires_grad_()
        value = function(_orthonormalize(matrix))
        if not history:
            history.append(float(value.detach()))
        (gradient,) = torch.autograd.grad(value, matrix)
        return -float(value.detach()), -gradient.reshape(-1).double().numpy()

    def record(intermediate_result: OptimizeResult) -> None:
        history.append(-float(intermediate_result.fun))

    # With orthonormal columns at the start, a unit of the matrix is one radian.
    initial = _orthonormalize(start).reshape(-1).numpy()
    options = {
        "maxiter": steps,
        "maxfun": 20 * steps,
        "gtol": tolerance,
        "ftol": _RELATIVE_TOLERANCE,
        "maxcor": 20,
    }
    result = minimize(
        negative, initial, jac=True, method="L-BFGS-B", callback=record, options=options
    )
    return result, history


def _orthonormalize(matrix: Float[Tensor, "m r"]) -> Float[Tensor, "m r"]:
    basis: Tensor = torch.linalg.qr(matrix).Q
    return basis
