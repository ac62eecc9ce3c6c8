"""`Dice`: every task is a loaded die, every sequence its rolls (E1 of the latent-task paper)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import psi
from torch import Tensor

from .categorical import drawn, log_evidence, rows_on_simplex, running_counts, smoothed
from .pool import Numbers, Pool, above_zero, at_least
from .sequences import Data, Sequences, tokens_of


class Dice(Pool[Sequences]):
    """Loaded dice. All tasks, major and minor, are drawn from Dirichlet(alpha, ..., alpha).

    Args:
        tasks: number of major tasks, K.
        faces: size of the vocabulary, V.
        minor: number of minor tasks; 0 or "none" for none.
        minor_mass: prior mass of the minor tasks together; ignored by the prior where there are
            none.
        alpha: parameter of the Dirichlet distribution, also that of a new task.
        seed: of the tasks.

    Raises:
        TvlensError: a size below its least, alpha of 0 or less, or minor_mass outside [0, 1).
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
        at_least(2, faces=faces)
        above_zero(alpha=alpha)
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
        """A family of given dice, [task face]; see `with_tasks` for the prior."""
        faces = torch.as_tensor(probabilities).shape[-1]
        shape = cls(tasks=1, faces=faces, alpha=alpha)
        return shape.with_tasks(probabilities, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.faces

    @property
    def ood_entropy(self) -> float:
        """Expected entropy of a fresh die, in nats: what a roll costs one who knows the die.

        psi(V a + 1) - psi(a + 1); for a = 1 it is H_V - 1, with the V-th harmonic number.
        """
        return float(psi(self.faces * self.alpha + 1) - psi(self.alpha + 1))

    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """Log-probability of every roll under every task."""
        tokens = tokens_of(data, self.faces)
        # [face task], laid out anew: whole rows are read, three times as fast as columns.
        return self.parameters.to(tokens.device).log().T.contiguous()[tokens]

    def mixture(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Distribution of the next roll, averaged over tasks."""
        return posterior @ self.parameters.to(posterior.device)

    def learned(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Log-evidence and predictive of a new die: (n_v + a) / (n + V a)."""
        tokens = tokens_of(data, self.faces)
        predictive = smoothed(running_counts(tokens, self.faces), self.alpha)
        first = torch.full((self.faces,), 1 / self.faces, dtype=torch.float64, device=tokens.device)
        return log_evidence(tokens, first, predictive), predictive

    def counts(self, data: Data) -> Float[Tensor, "n length vocab"]:
        """How often each face has come up, up to and including every position."""
        return running_counts(tokens_of(data, self.faces), self.faces)

    def draw(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count faces"]:
        """Fresh dice."""
        return torch.from_numpy(rng.dirichlet(np.full(self.faces, self.alpha), count))

    def generate(
        self, parameters: Float[Tensor, "n faces"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Independent rolls."""
        uniform = rng.random((len(parameters), length))
        return torch.from_numpy(drawn(parameters.numpy()[:, None], uniform))

    def checked(self, parameters: Float[Tensor, "k faces"]) -> Float[Tensor, "k faces"]:
        """Rows that sum to 1."""
        return rows_on_simplex(parameters)

    def _size(self) -> str:
        return f"{self.faces} faces"
