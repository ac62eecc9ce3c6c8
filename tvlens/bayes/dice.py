"""`Dice`: every task is a loaded die and every sequence its rolls (experiment E1)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import psi
from torch import Tensor

from ..integers import require_at_least
from .distributions import (
    cumulative_counts,
    cumulative_log_evidence,
    dirichlet_predictive,
    normalize_rows,
    require_positive,
    sample_categorical,
)
from .pool import Numbers, TaskPool
from .sequences import Data, Sequences, as_tokens


class Dice(TaskPool[Sequences]):
    """Family of loaded dice, sampled from Dirichlet(alpha, ..., alpha).

    Args:
        tasks: number of major tasks, K.
        faces: size of the vocabulary, V.
        minor: number of minor tasks; 0 or "none" for none.
        minor_mass: total prior mass of the minor tasks; without minors it does not enter the
            prior.
        alpha: concentration of the Dirichlet distribution, also of a new task.
        seed: random seed of the tasks.

    Raises:
        TvlensError: a size is too small, alpha is not positive, or minor_mass is outside [0, 1).

    Example:
        >>> import tvlens as tv
        >>> dice = tv.bayes.Dice(tasks=3, faces=6, minor=512, minor_mass=0.1, seed=0)
        >>> dice.sample(4, 16, split="ood", seed=1).tokens.shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        *,
        tasks: int = 3,
        faces: int = 6,
        minor: int | Literal["none"] = 0,
        minor_mass: float = 0.1,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        require_at_least(2, faces=faces)
        require_positive(alpha=alpha)
        self.faces, self.alpha = faces, alpha
        super().__init__(tasks=tasks, minor=minor, minor_mass=minor_mass, seed=seed)

    @classmethod
    def from_probabilities(
        cls,
        probabilities: Numbers,
        *,
        prior: Numbers | None = None,
        majors: int | None = None,
        alpha: float = 1.0,
    ) -> "Dice":
        """Build a family from face probabilities [task face]; see `with_tasks` for the prior."""
        faces = torch.as_tensor(probabilities).shape[-1]
        template = cls(tasks=1, faces=faces, alpha=alpha)
        return template.with_tasks(probabilities, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.faces

    @property
    def ood_entropy(self) -> float:
        """Expected entropy of a new die in nats, the least expected cost of a roll.

        psi(V a + 1) - psi(a + 1), which is H_V - 1 for a = 1, with the V-th harmonic number.
        """
        return float(psi(self.faces * self.alpha + 1) - psi(self.alpha + 1))

    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-likelihood of every roll under every task."""
        tokens = as_tokens(data, self.faces)
        # Contiguous [face task]: indexing rows is three times as fast as indexing columns.
        return self.parameters.to(tokens.device).log().T.contiguous()[tokens]

    def mixture_predictive(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Compute the distribution of the next roll, averaged over tasks."""
        return posterior @ self.parameters.to(posterior.device)

    def new_task_predictive(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Compute log-evidence and predictive of a new die: (n_v + a) / (n + V a)."""
        tokens = as_tokens(data, self.faces)
        predictive = dirichlet_predictive(cumulative_counts(tokens, self.faces), self.alpha)
        first = torch.full((self.faces,), 1 / self.faces, dtype=torch.float64, device=tokens.device)
        return cumulative_log_evidence(tokens, first, predictive), predictive

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length vocab"]:
        """Count the occurrences of each face up to and including every position."""
        return cumulative_counts(as_tokens(data, self.faces), self.faces)

    def sample_parameters(
        self, count: int, rng: np.random.Generator
    ) -> Float[Tensor, "count faces"]:
        """Sample new dice."""
        return torch.from_numpy(rng.dirichlet(np.full(self.faces, self.alpha), count))

    def generate(
        self, parameters: Float[Tensor, "n faces"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Sample independent rolls."""
        uniform = rng.random((len(parameters), length))
        return torch.from_numpy(sample_categorical(parameters.numpy()[:, None], uniform))

    def validate(self, parameters: Float[Tensor, "k faces"]) -> Float[Tensor, "k faces"]:
        """Require rows that sum to 1."""
        return normalize_rows(parameters)

    def _describe_size(self) -> str:
        return f"{self.faces} faces"
