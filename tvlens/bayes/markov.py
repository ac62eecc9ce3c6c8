"""`Markov`: every task is a Markov chain of order 1 (E3 of the latent-task paper)."""

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from .categorical import drawn, log_evidence, rows_on_simplex, smoothed
from .pool import Numbers, Pool, above_zero, at_least
from .sequences import Data, Sequences, tokens_of


class Markov(Pool[Sequences]):
    """Markov chains whose transition rows are drawn from Dirichlet(alpha, ..., alpha).

    The first state is uniform under every task, so it says nothing about the task; predictives
    at position t are conditional on token t, the current state.

    Args:
        tasks: number of major tasks, K.
        states: size of the vocabulary, V.
        minor, minor_mass, seed: as for `Dice`.
        alpha: parameter of the Dirichlet distribution of a row, also that of a new task.

    Raises:
        TvlensError: a size below its least, alpha of 0 or less, or minor_mass outside [0, 1).
    """

    def __init__(
        self,
        *,
        tasks: int = 3,
        states: int = 8,
        minor: int | Literal["none"] = 0,
        minor_mass: float = 0.1,
        alpha: float = 1.0,
        seed: int = 0,
    ) -> None:
        at_least(2, states=states)
        above_zero(alpha=alpha)
        self.states, self.alpha = states, alpha
        super().__init__(tasks=tasks, minor=minor, minor_mass=minor_mass, seed=seed)

    @classmethod
    def from_transitions(
        cls,
        transitions: Numbers,
        *,
        prior: Numbers | None = None,
        majors: int | None = None,
        alpha: float = 1.0,
    ) -> "Markov":
        """A family of given chains, [task from to]; see `with_tasks` for the prior."""
        states = torch.as_tensor(transitions).shape[-1]
        shape = cls(tasks=1, states=states, alpha=alpha)
        return shape.with_tasks(transitions, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.states

    @property
    def transitions(self) -> Float[Tensor, "k states states"]:
        """Transition matrices, [task from to]."""
        return self.parameters

    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """Log-probability of every token given the one before it, under every task."""
        tokens = tokens_of(data, self.states)
        table = self.parameters.to(tokens.device).log()
        table = rearrange(table, "task before token -> (before token) task")
        # One row more, for the first token: no task is told from another there.
        start = table.new_full((1, table.shape[1]), -np.log(self.states))
        pairs = tokens.clone()
        pairs[:, 1:] += tokens[:, :-1] * self.states
        pairs[:, 0] = len(table)
        return torch.cat([table, start])[pairs]

    def mixture(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Distribution of the next token given the current one, averaged over tasks."""
        tokens = tokens_of(data, self.states)
        matrices = self.parameters.to(posterior.device)
        mixed = posterior.new_empty((*tokens.shape, self.states))
        for state in range(self.states):  # a product per state, not one with all V * V columns
            here = tokens == state
            mixed[here] = posterior[here] @ matrices[:, state]
        return mixed

    def learned(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Log-evidence and predictive of a new chain: (n_ss' + a) / (n_s + V a), row by row."""
        tokens = tokens_of(data, self.states)
        row = tokens[..., None, None].expand(-1, -1, 1, self.states)
        predictive = smoothed(self.counts(data).gather(2, row)[:, :, 0], self.alpha)
        first = predictive.new_full((self.states,), 1 / self.states)
        return log_evidence(tokens, first, predictive), predictive

    def counts(self, data: Data) -> Float[Tensor, "n length vocab vocab"]:
        """Transitions [from to] up to and including every position; n * length * V * V doubles."""
        tokens = tokens_of(data, self.states)
        pairs = one_hot(tokens[:, :-1] * self.states + tokens[:, 1:], self.states**2)
        pairs = torch.nn.functional.pad(pairs, (0, 0, 1, 0))
        sums = pairs.to(torch.float64).cumsum_(1)
        return rearrange(
            sums, "n length (before token) -> n length before token", token=self.states
        )

    def draw(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count states states"]:
        """Fresh transition matrices."""
        alpha = np.full(self.states, self.alpha)
        return torch.from_numpy(rng.dirichlet(alpha, (count, self.states)))

    def generate(
        self, parameters: Float[Tensor, "n states states"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Chains from a uniform first state."""
        matrices, rows = parameters.numpy(), np.arange(len(parameters))
        tokens = np.empty((len(parameters), length), dtype=np.int64)
        tokens[:, 0] = rng.integers(self.states, size=len(parameters))
        for t in range(1, length):
            tokens[:, t] = drawn(matrices[rows, tokens[:, t - 1]], rng.random(len(rows)))
        return torch.from_numpy(tokens)

    def checked(
        self, parameters: Float[Tensor, "k states states"]
    ) -> Float[Tensor, "k states states"]:
        """Rows that sum to 1."""
        return rows_on_simplex(parameters)

    def _size(self) -> str:
        return f"{self.states} states"
