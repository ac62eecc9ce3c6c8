"""`Markov`: every task is a Markov chain of order 1 (experiment E3)."""

from typing import Literal

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from ..integers import require_at_least
from .distributions import (
    cumulative_log_evidence,
    dirichlet_predictive,
    normalize_rows,
    require_positive,
    sample_categorical,
)
from .pool import Numbers, TaskPool
from .sequences import Data, Sequences, as_tokens


class Markov(TaskPool[Sequences]):
    """Family of Markov chains with transition rows sampled from Dirichlet(alpha, ..., alpha).

    The first state is uniform under every task and therefore uninformative; predictives at
    position t are conditional on token t, the current state.

    Args:
        tasks: number of major tasks, K.
        states: size of the vocabulary, V.
        minor, minor_mass, seed: as for `Dice`.
        alpha: concentration of the Dirichlet distribution of a row, also of a new task.

    Raises:
        TvlensError: a size is too small, alpha is not positive, or minor_mass is outside [0, 1).
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
        require_at_least(2, states=states)
        require_positive(alpha=alpha)
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
        """Build a family from transitions [task from to]; see `with_tasks` for the prior."""
        states = torch.as_tensor(transitions).shape[-1]
        template = cls(tasks=1, states=states, alpha=alpha)
        return template.with_tasks(transitions, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.states

    @property
    def transitions(self) -> Float[Tensor, "k states states"]:
        """Transition matrices, [task from to]."""
        return self.parameters

    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-likelihood of every token given the previous one, under every task."""
        tokens = as_tokens(data, self.states)
        table = self.parameters.to(tokens.device).log()
        table = rearrange(table, "task before token -> (before token) task")
        # An additional row for the first token, which is uniform under every task.
        start = table.new_full((1, table.shape[1]), -np.log(self.states))
        pairs = tokens.clone()
        pairs[:, 1:] += tokens[:, :-1] * self.states
        pairs[:, 0] = len(table)
        return torch.cat([table, start])[pairs]

    def mixture_predictive(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Compute the distribution of the next token given the current one, averaged over tasks."""
        tokens = as_tokens(data, self.states)
        matrices = self.parameters.to(posterior.device)
        predictive = posterior.new_empty((*tokens.shape, self.states))
        for state in range(self.states):  # one product per state avoids V * V columns
            mask = tokens == state
            predictive[mask] = posterior[mask] @ matrices[:, state]
        return predictive

    def new_task_predictive(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Compute log-evidence and predictive of a new chain: (n_ss' + a) / (n_s + V a) per row."""
        tokens = as_tokens(data, self.states)
        row = tokens[..., None, None].expand(-1, -1, 1, self.states)
        predictive = dirichlet_predictive(
            self.sufficient_statistics(data).gather(2, row)[:, :, 0], self.alpha
        )
        first = predictive.new_full((self.states,), 1 / self.states)
        return cumulative_log_evidence(tokens, first, predictive), predictive

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length vocab vocab"]:
        """Count transitions [from to] up to and including every position (n * length * V * V)."""
        tokens = as_tokens(data, self.states)
        pairs = one_hot(tokens[:, :-1] * self.states + tokens[:, 1:], self.states**2)
        pairs = torch.nn.functional.pad(pairs, (0, 0, 1, 0))
        sums = pairs.to(torch.float64).cumsum_(1)
        return rearrange(
            sums, "n length (before token) -> n length before token", token=self.states
        )

    def sample_parameters(
        self, count: int, rng: np.random.Generator
    ) -> Float[Tensor, "count states states"]:
        """Sample new transition matrices."""
        alpha = np.full(self.states, self.alpha)
        return torch.from_numpy(rng.dirichlet(alpha, (count, self.states)))

    def generate(
        self, parameters: Float[Tensor, "n states states"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Sample chains from a uniform first state."""
        matrices, rows = parameters.numpy(), np.arange(len(parameters))
        tokens = np.empty((len(parameters), length), dtype=np.int64)
        tokens[:, 0] = rng.integers(self.states, size=len(parameters))
        for t in range(1, length):
            tokens[:, t] = sample_categorical(
                matrices[rows, tokens[:, t - 1]], rng.random(len(rows))
            )
        return torch.from_numpy(tokens)

    def validate(
        self, parameters: Float[Tensor, "k states states"]
    ) -> Float[Tensor, "k states states"]:
        """Require rows that sum to 1."""
        return normalize_rows(parameters)

    def _describe_size(self) -> str:
        return f"{self.states} states"
