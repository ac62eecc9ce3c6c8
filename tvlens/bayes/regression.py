"""`LinearRegression`: every task is a weight vector (E2 of the latent-task paper)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .pool import Numbers, Pool, above_zero, at_least
from .prediction import Moments
from .sequences import Data, Pairs, pairs_of


class LinearRegression(Pool[Pairs]):
    """Noisy linear functions y = x w + noise, with x ~ N(0, I) and w ~ N(0, scale^2 I).

    Args:
        tasks: number of major tasks, K.
        dim: dimension of the inputs, D.
        noise: standard deviation of the noise, sigma.
        minor, minor_mass, seed: as for `Dice`.
        scale: standard deviation of a weight, tau, also that of a new task.

    Raises:
        TvlensError: a size below its least, noise or scale of 0 or less, or minor_mass outside
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
        at_least(1, dim=dim)
        above_zero(noise=noise, scale=scale)
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
        """A family of given weight vectors, [task dim]; see `with_tasks` for the prior."""
        dim = torch.as_tensor(weights).shape[-1]
        shape = cls(tasks=1, dim=dim, noise=noise, scale=scale)
        return shape.with_tasks(weights, prior=prior, majors=majors)

    @property
    def weights(self) -> Float[Tensor, "k dim"]:
        """Weight vectors of the tasks."""
        return self.parameters

    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """Log-density of every target given its input, under every task."""
        inputs, targets = pairs_of(data, self.dim)
        # One product and a running sum; the route over X'X costs D times more and cancels.
        misses = (inputs @ self.parameters.to(inputs.device).T).sub_(targets[..., None])
        return _log_density(misses, inputs.new_tensor(self.noise**2))

    def mixture(self, posterior: Float[Tensor, "n length k"], data: Data) -> Moments:
        """Mean and variance of the next target, averaged over tasks (Raventos et al.: dMMSE)."""
        inputs, _ = pairs_of(data, self.dim)
        weights = posterior @ self.parameters.to(inputs.device)
        mean = (inputs[:, 1:] * weights[:, :-1]).sum(-1)
        told = inputs[:, 1:] @ self.parameters.to(inputs.device).T
        spread = told.sub_(mean[..., None]).square_().mul_(posterior[:, :-1]).sum(-1)
        return Moments(weights, mean, spread + self.noise**2)

    def learned(self, data: Data) -> tuple[Float[Tensor, "n length"], Moments]:
        """Log-evidence and predictive of new weights: ridge with sigma^2 / tau^2.

        The evidence is N(y; 0, sigma^2 I + tau^2 X X'), as the product of the predictives
        N(y_t; x_t w, sigma^2 (1 + x_t' A^-1 x_t)) with A = X'X + (sigma^2 / tau^2) I and
        w = A^-1 X'y over the pairs before t.
        """
        inputs, targets = pairs_of(data, self.dim)
        before = torch.nn.functional.pad(self.counts(data), (0, 0, 0, 0, 1, 0))
        ridge = torch.eye(self.dim, dtype=inputs.dtype, device=inputs.device)
        ridge *= self.noise**2 / self.scale**2
        factor = torch.linalg.cholesky(before[..., : self.dim] + ridge)
        weights = torch.cholesky_solve(before[..., self.dim :], factor)[..., 0]
        mean = (inputs * weights[:, :-1]).sum(-1)
        whitened = torch.linalg.solve_triangular(factor[:, :-1], inputs[..., None], upper=False)
        variance = self.noise**2 * (1 + whitened[..., 0].square().sum(-1))
        evidence = _log_density(targets - mean, variance).cumsum_(1)
        return evidence, Moments(weights[:, 1:], mean[:, 1:], variance[:, 1:])

    def counts(self, data: Data) -> Float[Tensor, "n length dim columns"]:
        """X'X, with X'y as one column more, up to and including every pair (columns = dim + 1)."""
        inputs, targets = pairs_of(data, self.dim)
        beside = torch.cat([inputs, targets[..., None]], dim=-1)
        return (inputs[..., None] * beside[..., None, :]).cumsum_(1)

    def draw(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count dim"]:
        """Fresh weight vectors."""
        return torch.from_numpy(rng.normal(scale=self.scale, size=(count, self.dim)))

    def generate(
        self, parameters: Float[Tensor, "n dim"], length: int, rng: np.random.Generator
    ) -> tuple[Float[Tensor, "n length dim"], Float[Tensor, "n length"]]:
        """Gaussian inputs and their noisy targets."""
        inputs = torch.from_numpy(rng.normal(size=(len(parameters), length, self.dim)))
        noise = torch.from_numpy(rng.normal(scale=self.noise, size=inputs.shape[:2]))
        return inputs, (inputs @ parameters[..., None])[..., 0] + noise

    def _size(self) -> str:
        return f"dimension {self.dim}, noise {self.noise:g}"


def _log_density(misses: Tensor, variance: Tensor) -> Tensor:
    """Log of the normal density at distances from the mean, which are overwritten."""
    return misses.square_().div_(-2 * variance).sub_((2 * np.pi * variance).log() / 2)
