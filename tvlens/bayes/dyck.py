"""`Dyck`: every task is a bracket path, planted in noise (E4, the paper's boundary case).

What comes next depends on how far the path has come, a counter that no bounded window of tokens
shows. So the state of a model cannot be a task part plus a token part, and the paper's additive
geometry fails here.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from .categorical import drawn, log_evidence
from .pool import Numbers, Pool, above_zero, at_least
from .sequences import Data, Sequences, tokens_of


class Dyck(Pool[Sequences]):
    """Balanced bracket paths whose steps are strewn, in order, over a sequence of noise.

    A task is a path of 2 * pairs brackets, uniform among the balanced ones. At every position,
    with probability `rate`, the path's next bracket appears; otherwise, and always once the path
    is at its end, one of the `symbols` noise tokens, all alike. Tokens 0..symbols - 1 are noise,
    `symbols` opens and `symbols + 1` closes.

    The positions and the noise say nothing about the task; the brackets rule out every task whose
    path has begun differently. `retrieval` therefore has no answer for a path outside the pool,
    and says so with an error.

    Args:
        tasks: number of major tasks, K.
        symbols: number of noise tokens.
        pairs: opening brackets in a path.
        rate: probability of a bracket, between 0 and 1.
        minor, minor_mass, seed: as for `Dice`; two tasks may have the same path.

    Raises:
        TvlensError: a size below its least, or a rate or minor_mass outside its range.
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
        at_least(1, symbols=symbols, pairs=pairs)
        above_zero(rate=rate)
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
        """A family of given paths, [task step] with 1 to open and 0 to close."""
        pairs = torch.as_tensor(paths).shape[-1] // 2
        shape = cls(tasks=1, symbols=symbols, pairs=pairs, rate=rate)
        return shape.with_tasks(paths, prior=prior, majors=majors)

    @property
    def vocabulary(self) -> int:  # type: ignore[override]
        """Number of tokens."""
        return self.symbols + 2

    @property
    def paths(self) -> Float[Tensor, "k step"]:
        """The planted paths: 1 opens, 0 closes."""
        return self.parameters

    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """Log-probability of every token given those before it, under every task."""
        tokens, _ = self._read(data)
        kind = (tokens - self.symbols + 1).clamp(min=0)  # noise, opens, closes
        passed = torch.nn.functional.pad((kind > 0).cumsum(1), (1, -1))
        opening = self._ahead(tokens.device)
        noise = torch.full_like(opening, (1 - self.rate) / self.symbols)
        noise[-1] = 1 / self.symbols
        table = torch.stack([noise, self.rate * opening, self.rate * (1 - opening)], dim=1).log()
        return table[passed, kind]

    def mixture(
        self, posterior: Float[Tensor, "n length k"], data: Data
    ) -> Float[Tensor, "n length vocab"]:
        """Distribution of the next token, averaged over tasks."""
        tokens, _ = self._read(data)
        passed = (tokens >= self.symbols).cumsum(1)
        every = posterior @ self._ahead(posterior.device).T
        opening = every.gather(-1, passed[..., None])[..., 0]
        return self._tokens(opening, passed) * posterior.sum(-1, keepdim=True)

    def learned(
        self, data: Data
    ) -> tuple[Float[Tensor, "n length"], Float[Tensor, "n length vocab"]]:
        """Log-evidence and predictive of a new path, uniform among the balanced ones.

        At height h with m steps to go it opens with probability 1 - h (m + h + 2) / (2 m (h + 1))
        (Arnold and Sleep 1980).
        """
        tokens, height = self._read(data)
        passed = (tokens >= self.symbols).cumsum(1)
        opening = opening_probability(height.double(), (2 * self.pairs - passed).double())
        predictive = self._tokens(opening, passed)
        zero = torch.zeros(1, 1, dtype=torch.long, device=tokens.device)
        first = self._tokens(torch.ones_like(zero, dtype=torch.float64), zero)[0, 0]
        return log_evidence(tokens, first, predictive), predictive

    def counts(self, data: Data) -> Float[Tensor, "n length 2"]:
        """Brackets opened and closed up to and including every position: all a learner needs."""
        tokens = tokens_of(data, self.vocabulary)
        seen = torch.stack([tokens == self.symbols, tokens == self.symbols + 1], dim=-1)
        return seen.double().cumsum_(1)

    def draw(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count step"]:
        """Uniform balanced paths, step by step."""
        uniform = torch.from_numpy(rng.random((count, 2 * self.pairs)))
        paths, height = torch.zeros_like(uniform), uniform.new_zeros(count)
        for step in range(2 * self.pairs):
            left = torch.full_like(height, 2 * self.pairs - step)
            paths[:, step] = (uniform[:, step] < opening_probability(height, left)).double()
            height += 2 * paths[:, step] - 1
        return paths

    def generate(
        self, parameters: Float[Tensor, "n step"], length: int, rng: np.random.Generator
    ) -> Int[Tensor, "n length"]:
        """Noise with the paths planted in it."""
        shape = len(parameters), length
        even = np.full((1, 1, self.symbols), 1 / self.symbols)
        noise = torch.from_numpy(drawn(even, rng.random(shape)))
        wanted = torch.from_numpy(rng.random(shape) < self.rate)
        step = wanted.cumsum(1) - 1
        planted = wanted & (step < 2 * self.pairs)
        opens = parameters.gather(1, step.clamp(0, 2 * self.pairs - 1)).bool()
        return torch.where(planted, self.symbols + (~opens).long(), noise)

    def checked(self, parameters: Float[Tensor, "k step"]) -> Float[Tensor, "k step"]:
        """Balanced paths of ones and zeros."""
        height = (2 * parameters - 1).cumsum(1)
        binary = ((parameters == 0) | (parameters == 1)).all(1)
        balanced = binary & (height >= 0).all(1) & (height[:, -1] == 0)
        if not bool(balanced.all()):
            row = int((~balanced).nonzero()[0])
            raise TvlensError(f"path {row} is no balanced path of ones (open) and zeros (close)")
        return parameters

    def _read(self, data: Data) -> tuple[Tensor, Tensor]:
        """Tokens, and the height after each.

        Raises:
            TvlensError: the brackets of a sequence begin no balanced path.
        """
        tokens = tokens_of(data, self.vocabulary)
        opened, closed = self.counts(data).long().unbind(-1)
        height = opened - closed
        wrong = (height < 0) | (opened > self.pairs)
        if bool(wrong.any()):
            row, place = wrong.nonzero()[0].tolist()
            raise TvlensError(
                f"the brackets of a sequence up to position {place} begin no balanced path of "
                f"{self.pairs} pairs: {tokens[row, : place + 1].tolist()}"
            )
        return tokens, height

    def _ahead(self, device: torch.device) -> Float[Tensor, "passed k"]:
        """Whether a task's next bracket opens, by how many have passed; 0 at the end."""
        return torch.nn.functional.pad(self.parameters, (0, 1)).T.contiguous().to(device)

    def _tokens(
        self, opening: Float[Tensor, "n length"], passed: Int[Tensor, "n length"]
    ) -> Float[Tensor, "n length vocab"]:
        """Distribution over tokens from the probability that the next bracket opens."""
        rate = (passed < 2 * self.pairs).double() * self.rate
        noise = ((1 - rate) / self.symbols)[..., None].expand(-1, -1, self.symbols)
        brackets = torch.stack([rate * opening, rate * (1 - opening)], dim=-1)
        return torch.cat([noise, brackets], dim=-1)

    def _size(self) -> str:
        return f"paths of {self.pairs} pairs among {self.symbols} symbols"


def opening_probability(
    height: Float[Tensor, "*shape"], left: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Probability that a uniform balanced path opens next, at a height and with steps left."""
    closing = height * (left + height + 2) / (2 * left.clamp(min=1) * (height + 1))
    return 1 - closing
