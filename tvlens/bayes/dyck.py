"""`Dyck`: every task is a balanced bracket path embedded in noise (experiment E4).

The next token depends on the progress along the path, a counter that no bounded window of tokens
determines. A model's state therefore cannot be a task part plus a token part, and the additive
geometry of the paper fails.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import require_at_least
from .distributions import cumulative_log_evidence, require_positive, sample_categorical
from .pool import Numbers, TaskPool
from .sequences import Data, Sequences, as_tokens


class Dyck(TaskPool[Sequences]):
    """Family of balanced bracket paths whose steps are interleaved with noise tokens.

    A task is a uniformly sampled balanced path of 2 * pairs brackets. At every position the next
    bracket of the path appears with probability `rate`; otherwise, and after the end of the path, a
    uniform one of the `symbols` noise tokens. Tokens 0..symbols - 1 are noise, `symbols` opens and
    `symbols + 1` closes.

    Positions and noise are uninformative about the task; the brackets rule out every task whose
    path begins differently. `retrieval` therefore raises an error for a path outside the pool.

    Args:
        tasks: number of major tasks, K.
        symbols: number of noise tokens.
        pairs: opening brackets in a path.
        rate: probability of a bracket, between 0 and 1.
        minor, minor_mass, seed: as for `Dice`; tasks may share a path.

    Raises:
        TvlensError: a size is too small, or rate or minor_mass is out of range.
    """

    def __init__(
        self,
        *,
        tasks: int = 3,
        symbols: int = 7,
        pairs: int = 10,
        rate: float = 0.25,
        minor: int | Literal["none"] = 0,
        minor_mass: float = 0.1,
        seed: int = 0,
    ) -> None:
        require_at_least(1, symbols=symbols, pairs=pairs)
        require_positive(rate=rate)
        if rate >= 1:
            raise TvlensError(f"rate is below 1, not {rate!r}")
        self.symbols, self.pairs, self.rate = symbols, pairs, rate
        super().__init__(tasks=tasks, minor=minor, minor_mass=minor_mass, seed=seed)

    @classmethod
    def from_paths(
        cls,
        paths: Numbers,
        *,
        prior: Numbers | None = None,
        majors: int | None = None,
        symbols: int = 7,
        rate: float = 0.25,
    ) -> "Dyck":
        """Build a family from paths [task step], where 1 opens and 0 closes."""
        pairs = torch.as_tensor(paths).shape[-1] // 2
        template = cls(tasks=1, symbols=symbols, pairs=pairs, rate=rate)
        return template.with_tasks(paths, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.symbols + 2

    @property
    def paths(self) -> Float[Tensor, "k step"]:
        """Paths of the tasks: 1 opens, 0 closes."""
        return self.parameters

    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-likelihood of every token given those before it, under every task."""
        tokens, _ = self._read_brackets(data)
        kind = (tokens - self.symbols + 1).clamp(min=0)  # noise, opens, closes
        passed = torch.nn.functional.pad((kind > 0).cumsum(1), (1, -1))
        opening = self._next_brackets(tokens.device)
        noise = torch.full_like(opening, (1 - self.rate) / self.symbols)
        noise[-1] = 1 / self.symbols
        table = torch.stack([noise, self.rate * opening, self.rate * (1 - opening)], dim=1).log()
        return table[passed, kind]

    def mixture_predictive(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Compute the distribution of the next token, averaged over tasks."""
        tokens, _ = self._read_brackets(data)
        passed = (tokens >= self.symbols).cumsum(1)
        by_progress = posterior @ self._next_brackets(posterior.device).T
        opening = by_progress.gather(-1, passed[..., None])[..., 0]
        return self._token_distribution(opening, passed) * posterior.sum(-1, keepdim=True)

    def new_task_predictive(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Compute log-evidence and predictive of a new, uniformly sampled balanced path.

        At height h with m steps left, it opens with probability 1 - h (m + h + 2) / (2 m (h + 1))
        (Arnold and Sleep 1980).
        """
        tokens, height = self._read_brackets(data)
        passed = (tokens >= self.symbols).cumsum(1)
        opening = opening_probability(height.double(), (2 * self.pairs - passed).double())
        predictive = self._token_distribution(opening, passed)
        zero = torch.zeros(1, 1, dtype=torch.long, device=tokens.device)
        first = self._token_distribution(torch.ones_like(zero, dtype=torch.float64), zero)[0, 0]
        return cumulative_log_evidence(tokens, first, predictive), predictive

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length 2"]:
        """Count opening and closing brackets up to and including every position."""
        tokens = as_tokens(data, self.vocabulary)
        is_bracket = torch.stack([tokens == self.symbols, tokens == self.symbols + 1], dim=-1)
        return is_bracket.double().cumsum_(1)

    def sample_parameters(
        self, count: int, rng: np.random.Generator
    ) -> Float[Tensor, "count step"]:
        """Sample uniform balanced paths, step by step."""
        uniform = torch.from_numpy(rng.random((count, 2 * self.pairs)))
        paths, height = torch.zeros_like(uniform), uniform.new_zeros(count)
        for step in range(2 * self.pairs):
            steps_left = torch.full_like(height, 2 * self.pairs - step)
            paths[:, step] = (uniform[:, step] < opening_probability(height, steps_left)).double()
            height += 2 * paths[:, step] - 1
        return paths

    def generate(
        self, parameters: Float[Tensor, "n step"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Sample noise with the paths embedded in it."""
        shape = len(parameters), length
        uniform = np.full((1, 1, self.symbols), 1 / self.symbols)
        noise = torch.from_numpy(sample_categorical(uniform, rng.random(shape)))
        proposed = torch.from_numpy(rng.random(shape) < self.rate)
        step = proposed.cumsum(1) - 1
        is_bracket = proposed & (step < 2 * self.pairs)
        opens = parameters.gather(1, step.clamp(0, 2 * self.pairs - 1)).bool()
        return torch.where(is_bracket, self.symbols + (~opens).long(), noise)

    def validate(self, parameters: Float[Tensor, "k step"]) -> Float[Tensor, "k step"]:
        """Require balanced paths of ones and zeros."""
        height = (2 * parameters - 1).cumsum(1)
        binary = ((parameters == 0) | (parameters == 1)).all(1)
        balanced = binary & (height >= 0).all(1) & (height[:, -1] == 0)
        if not bool(balanced.all()):
            row = int((~balanced).nonzero()[0])
            raise TvlensError(f"path {row} is not a balanced path of ones (open) and zeros (close)")
        return parameters

    def _read_brackets(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return the tokens and the height after each.

        Raises:
            TvlensError: the brackets of a sequence are no prefix of a balanced path.
        """
        tokens = as_tokens(data, self.vocabulary)
        opened, closed = self.sufficient_statistics(data).long().unbind(-1)
        height = opened - closed
        invalid = (height < 0) | (opened > self.pairs)
        if bool(invalid.any()):
            row, position = invalid.nonzero()[0].tolist()
            raise TvlensError(
                f"the brackets of a sequence up to position {position} begin no balanced path of "
                f"{self.pairs} pairs: {tokens[row, : position + 1].tolist()}"
            )
        return tokens, height

    def _next_brackets(self, device: torch.device) -> Float[Tensor, "passed k"]:
        """Tabulate whether a task's next bracket opens by the number passed; 0 at the end."""
        return torch.nn.functional.pad(self.parameters, (0, 1)).T.contiguous().to(device)

    def _token_distribution(
        self, opening: Float[Tensor, "n length"], passed: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n length vocab"]:
        """Compute token probabilities from the probability that the next bracket opens."""
        rate = (passed < 2 * self.pairs).double() * self.rate
        opening = opening.clamp(max=1)  # a posterior's sum may exceed 1 by rounding
        noise = ((1 - rate) / self.symbols)[..., None].expand(-1, -1, self.symbols)
        brackets = torch.stack([rate * opening, rate * (1 - opening)], dim=-1)
        return torch.cat([noise, brackets], dim=-1)

    def _describe_size(self) -> str:
        return f"paths of {self.pairs} pairs among {self.symbols} symbols"


def opening_probability(
    height: Float[Tensor, "*shape"], steps_left: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Compute the probability that a uniform balanced path opens next at a height."""
    closing = height * (steps_left + height + 2) / (2 * steps_left.clamp(min=1) * (height + 1))
    return 1 - closing
