"""`LinearRegression`: every task is a weight vector (experiment E2)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..integers import require_at_least
from .distributions import require_positive
from .pool import Numbers, TaskPool
from .prediction import Moments
from .sequences import Data, Pairs, as_pairs


class LinearRegression(TaskPool[Pairs]):
    """Family of noisy linear functions y = x w + noise, with x ~ N(0, I) and w ~ N(0, scale^2 I).

    Args:
        tasks: number of major tasks, K.
        dim: dimension of the inputs, D.
        noise: standard deviation of the noise, sigma.
        minor, minor_mass, seed: as for `Dice`.
        scale: standard deviation of a weight, tau, also of a new task.

    Raises:
        TvlensError: a size is too small, noise or scale is not positive, or minor_mass is outside
            [0, 1).
    """

    def __init__(
        self,
        *,
        tasks: int = 3,
        dim: int = 6,
        noise: float = 0.5,
        minor: int | Literal["none"] = 0,
        minor_mass: float = 0.1,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        require_at_least(1, dim=dim)
        require_positive(noise=noise, scale=scale)
        self.dim, self.noise, self.scale = dim, noise, scale
        super().__init__(tasks=tasks, minor=minor, minor_mass=minor_mass, seed=seed)

    @classmethod
    def from_weights(
        cls,
        weights: Numbers,
        *,
        prior: Numbers | None = None,
        majors: int | None = None,
        noise: float = 0.5,
        scale: float = 1.0,
    ) -> "LinearRegression":
        """Build a family from weight vectors [task dim]; see `with_tasks` for the prior."""
        dim = torch.as_tensor(weights).shape[-1]
        template = cls(tasks=1, dim=dim, noise=noise, scale=scale)
        return template.with_tasks(weights, prior=prior, majors=majors)

    @property
    def weights(self) -> Float[Tensor, "k dim"]:
        """Weight vectors of the tasks."""
        return self.parameters

    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-density of every target given its input, under every task."""
        inputs, targets = as_pairs(data, self.dim)
        # Residuals are cheaper than X'X by a factor of D and avoid cancellation.
        residuals = (inputs @ self.parameters.to(inputs.device).T).sub_(targets[..., None])
        return _log_density(residuals, inputs.new_tensor(self.noise**2))

    def mixture_predictive(self, posterior: Float[Tensor, "n length k"], data: Data) -> Moments:
        """Compute mean and variance of the next target over tasks (dMMSE, Raventos et al.)."""
        inputs, _ = as_pairs(data, self.dim)
        weights = posterior @ self.parameters.to(inputs.device)
        mean = (inputs[:, 1:] * weights[:, :-1]).sum(-1)
        predictions = inputs[:, 1:] @ self.parameters.to(inputs.device).T
        spread = predictions.sub_(mean[..., None]).square_().mul_(posterior[:, :-1]).sum(-1)
        return Moments(weights, mean, spread + self.noise**2)

    def new_task_predictive(self, data: Data) -> tuple[Float[Tensor, "n length"], Moments]:
        """Compute log-evidence and predictive of new weights: ridge with sigma^2 / tau^2.

        The evidence is N(y; 0, sigma^2 I + tau^2 X X'), as the product of the predictives
        N(y_t; x_t w, sigma^2 (1 + x_t' A^-1 x_t)) with A = X'X + (sigma^2 / tau^2) I and
        w = A^-1 X'y over the pairs before t.
        """
        inputs, targets = as_pairs(data, self.dim)
        statistics = torch.nn.functional.pad(self.sufficient_statistics(data), (0, 0, 0, 0, 1, 0))
        ridge = torch.eye(self.dim, dtype=inputs.dtype, device=inputs.device)
        ridge *= self.noise**2 / self.scale**2
        factor = torch.linalg.cholesky(statistics[..., : self.dim] + ridge)
        weights = torch.cholesky_solve(statistics[..., self.dim :], factor)[..., 0]
        mean = (inputs * weights[:, :-1]).sum(-1)
        whitened = torch.linalg.solve_triangular(factor[:, :-1], inputs[..., None], upper=False)
        variance = self.noise**2 * (1 + whitened[..., 0].square().sum(-1))
        log_evidence = _log_density(targets - mean, variance).cumsum_(1)
        return log_evidence, Moments(weights[:, 1:], mean[:, 1:], variance[:, 1:])

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length dim columns"]:
        """Compute X'X with X'y as last column up to every pair (columns = dim + 1)."""
        inputs, targets = as_pairs(data, self.dim)
        columns = torch.cat([inputs, targets[..., None]], dim=-1)
        return (inputs[..., None] * columns[..., None, :]).cumsum_(1)

    def sample_parameters(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count dim"]:
        """Sample new weight vectors."""
        return torch.from_numpy(rng.normal(scale=self.scale, size=(count, self.dim)))

    def generate(
        self, parameters: Float[Tensor, "n dim"], length: int, rng: np.random.Generator
    ) -> tuple[Float[Tensor, "n length dim"], Float[Tensor, "n length"]]:
        """Sample Gaussian inputs and their noisy targets."""
        inputs = torch.from_numpy(rng.normal(size=(len(parameters), length, self.dim)))
        noise = torch.from_numpy(rng.normal(scale=self.noise, size=inputs.shape[:2]))
        return inputs, (inputs @ parameters[..., None])[..., 0] + noise

    def _describe_size(self) -> str:
        return f"dimension {self.dim}, noise {self.noise:g}"


def _log_density(residuals: Tensor, variance: Tensor) -> Tensor:
    """Compute the normal log-density of residuals, in place."""
    return residuals.square_().div_(-2 * variance).sub_((2 * np.pi * variance).log() / 2)
