"""`Pool`: known tasks with a prior, major ones first; the part that all families share."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from .categorical import rows_on_simplex
from .prediction import Predictive
from .sequences import Data, Pairs, Sequences

Split = Literal["train", "major", "minor", "ood"]
SPLITS = get_args(Split)
Same = TypeVar("Same", bound="Pool")
# What a family draws: sequences of tokens, or pairs of a regression.
Drawn = TypeVar("Drawn", bound=Sequences | Pairs)
Numbers = Tensor | np.ndarray | Sequence


class Pool(ABC, Generic[Drawn]):
    """Major and minor tasks of one kind, with their prior.

    A family of tokens says at least how tasks are drawn (`draw`), what sequences they give
    (`generate`), how likely each token is under each task (`steps`) and what a belief in tasks
    predicts (`mixture`), and has a `vocabulary`; `references.Family` has the details.

    Attributes:
        parameters: one row per task, majors first, then minors (float64).
        prior: probability of each task: (1 - minor_mass) / majors for a major task and
            minor_mass / minors for a minor one; without minors the majors share 1.
        majors: number of major tasks, K.
        minor_mass: prior mass of all minors together; without minors, the mass that
            `extrapolation` gives to a new task unless told otherwise.
    """

    parameters: Float[Tensor, "k ..."]
    prior: Float[Tensor, " k"]
    majors: int
    minor_mass: float
    vocabulary: int

    def __init__(
        self,
        *,
        tasks: int = 3,
        minor: int | Literal["none"] = 0,
        minor_mass: float = 0.1,
        seed: int = 0,
    ) -> None:
        minor = 0 if minor == "none" else minor
        at_least(1, tasks=tasks)
        at_least(0, minor=minor)
        check_mass(minor_mass)
        # Majors are drawn first, so they stay the same whatever the number of minors.
        self.parameters = self.draw(tasks + minor, stream(seed, "tasks"))
        mass = minor_mass if minor else 0.0
        shares = [(1 - mass) / tasks] * tasks + [mass / minor for _ in range(minor)]
        self.prior = torch.tensor(shares, dtype=torch.float64)
        self.majors = tasks
        self.minor_mass = minor_mass

    def __repr__(self) -> str:
        minor = f" and {self.minors} minor" if self.minors else ""
        return f"{type(self).__name__}({self.majors} major{minor} tasks, {self._size()})"

    @property
    def minors(self) -> int:
        """Number of minor tasks."""
        return len(self.prior) - self.majors

    @property
    def probabilities(self) -> Float[Tensor, "k ..."]:
        """The task parameters, under the name they have where they are probabilities."""
        return self.parameters

    def with_tasks(
        self: Same, parameters: Numbers, *, prior: Numbers | None = None, majors: int | None = None
    ) -> Same:
        """The same kind of family with these tasks.

        Args:
            parameters: one row per task, of this family's shape.
            prior: probability of each task; equal where it is not given.
            majors: how many of the tasks, from the first on, are major; all by default.

        Raises:
            TvlensError: wrong shape, not a task of this kind, or a prior that is none.
        """
        parameters = torch.as_tensor(parameters, dtype=torch.float64, device="cpu")
        shape = self.parameters.shape[1:]
        if (
            parameters.ndim != 1 + len(shape)
            or parameters.shape[1:] != shape
            or not len(parameters)
        ):
            wanted = ", ".join(map(str, ("tasks", *shape)))
            raise TvlensError(f"tasks have shape [{wanted}], not {list(parameters.shape)}")
        family = copy.copy(self)
        family.parameters = self.checked(parameters)
        family.majors = len(parameters) if majors is None else majors
        if not 1 <= family.majors <= len(parameters):
            raise TvlensError(f"{majors} major tasks among {len(parameters)} tasks")
        return family.with_prior(prior)

    def with_prior(self: Same, prior: Numbers | None) -> Same:
        """The same tasks with another prior; None for an equal one.

        Raises:
            TvlensError: wrong length, no distribution, or no mass on the major tasks.
        """
        size = len(self.parameters)
        prior = torch.ones(size) / size if prior is None else prior
        prior = torch.as_tensor(prior, dtype=torch.float64, device="cpu")
        if prior.shape != (size,):
            raise TvlensError(f"a prior of shape {list(prior.shape)} for {size} tasks")
        family = copy.copy(self)
        family.prior = rows_on_simplex(prior, name="prior")
        if not float(family.prior[: self.majors].sum()):
            raise TvlensError("the prior gives the major tasks no mass")
        if family.minors:
            family.minor_mass = float(family.prior[self.majors :].sum())
        return family

    def known(self: Same) -> Same:
        """The major tasks alone, in the proportions of the prior."""
        prior = self.prior[: self.majors]
        majors = self.with_tasks(self.parameters[: self.majors], prior=prior / prior.sum())
        majors.minor_mass = self.minor_mass
        return majors

    def fresh(self: Same, tasks: int, *, seed: int = 0) -> Same:
        """A family of tasks drawn anew from the distribution that the minors come from."""
        at_least(1, tasks=tasks)
        return self.with_tasks(self.draw(tasks, stream(seed, "fresh")))

    def sample(
        self,
        n: int,
        length: int,
        *,
        split: Split = "train",
        seed: int = 0,
    ) -> Drawn:
        """Draw sequences, each with its own task.

        Args:
            n: number of sequences.
            length: tokens (or pairs) in each.
            split: "train" draws tasks by the prior, "major" and "minor" by the prior within
                them, "ood" draws every sequence a fresh task, with `task` -1.
            seed: the same seed gives the same sequences.

        Raises:
            TvlensError: an unknown split, minors where there are none, or no sequence or token.
        """
        at_least(1, n=n, length=length)
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split == "minor" and not self.minors:
            raise TvlensError(f"{self} has no minor tasks to sample from")
        rng = stream(seed, split)
        if split == "ood":
            return self._sequences(torch.full((n,), -1), self.draw(n, rng), length, split, rng)
        task = torch.from_numpy(rng.choice(len(self.prior), n, p=self._shares(split)))
        return self._sequences(task, self.parameters[task], length, split, rng)

    def sample_tasks(self, task: Int[Tensor, " n"], length: int, *, seed: int = 0) -> Drawn:
        """Draw one sequence of each given task (indices into the pool, repeated at will)."""
        at_least(1, length=length, n=len(task))
        if not bool(((task >= 0) & (task < len(self.prior))).all()):
            raise TvlensError(f"tasks of {self} are 0..{len(self.prior) - 1}")
        task = task.cpu().long()
        return self._sequences(task, self.parameters[task], length, "tasks", stream(seed, "given"))

    def _sequences(
        self, task: Tensor, parameters: Tensor, length: int, split: str, rng: np.random.Generator
    ) -> Drawn:
        generated = self.generate(parameters, length, rng)
        drawn: Any
        if isinstance(generated, tuple):
            drawn = Pairs(*generated, task=task, parameters=parameters, split=split)
        else:
            drawn = Sequences(generated, task=task, parameters=parameters, split=split)
        return drawn

    def _shares(self, split: str) -> np.ndarray:
        """Probability of each task within a split."""
        inside = torch.arange(len(self.prior)) < self.majors
        chosen = {"train": torch.ones_like(inside), "major": inside, "minor": ~inside}[split]
        weights = torch.where(chosen, self.prior, 0.0)
        if not float(weights.sum()):  # minors of mass 0 are alike
            weights = chosen.double()
        return (weights / weights.sum()).numpy()

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count ..."]:
        """Fresh tasks, from the distribution that minors and OOD tasks come from."""

    @abstractmethod
    def generate(
        self, parameters: Float[Tensor, "n ..."], length: int, rng: np.random.Generator
    ) -> Tensor | tuple[Tensor, Tensor]:
        """One sequence per row of parameters: tokens, or inputs and targets."""

    @abstractmethod
    def steps(self, data: Data) -> Float[Tensor, "n length k"]:
        """A new tensor: log-probability of every observation given those before it, by task."""

    @abstractmethod
    def mixture(self, posterior: Float[Tensor, "n length k"], data: Data) -> Predictive:
        """Predictive of the next observation, averaged over tasks."""

    def learned(self, data: Data) -> tuple[Float[Tensor, "n length"], Predictive]:
        """Log-evidence and predictive of a task drawn anew from the minors' distribution."""
        raise TvlensError(f"{self} cannot learn a new task: give {type(self).__name__} `learned`")

    def counts(self, data: Data) -> Float[Tensor, "n length ..."]:
        """Sufficient statistics of that learner."""
        raise TvlensError(f"{self} knows no counts to learn from: give {type(self).__name__} them")

    def checked(self, parameters: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """The parameters where every row is a task of this kind; an error otherwise."""
        if not bool(parameters.isfinite().all()):
            raise TvlensError("the parameters of a task hold NaN or infinity")
        return parameters

    def _size(self) -> str:
        """The family's shape in words."""
        return f"{self.vocabulary} tokens"


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A generator for one purpose, so that OOD tasks of seed 0 are not the pool of seed 0."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise TvlensError(f"a seed is a whole number of at least 0, not {seed!r}")
    # From 1: a seed sequence ignores trailing zeros.
    return np.random.default_rng([seed, 1 + ("tasks", "fresh", "given", *SPLITS).index(purpose)])


def at_least(least: int, **values: int) -> None:
    """Raise TvlensError unless every value is a whole number of at least `least`."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or value < least:
            raise TvlensError(f"{name} is a whole number of at least {least}, not {value!r}")


def above_zero(**values: float) -> None:
    """Raise TvlensError unless every value is finite and positive."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise TvlensError(f"{name} is a number above 0, not {value!r}")


def check_mass(minor_mass: float) -> None:
    """Raise TvlensError unless the mass leaves something to the major tasks."""
    if not 0 <= minor_mass < 1:
        raise TvlensError(f"minor_mass is at least 0 and below 1, not {minor_mass!r}")
