"""`TaskPool`: the base class of task families, a pool of tasks with a prior."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError, unknown
from ..integers import require_at_least
from .distributions import normalize_rows
from .prediction import Predictive
from .sequences import Data, Pairs, Sequences

Split = Literal["train", "major", "minor", "ood"]
SPLITS = get_args(Split)
PoolType = TypeVar("PoolType", bound="TaskPool")
# The data that a family samples: token sequences or regression pairs.
DataType = TypeVar("DataType", bound=Sequences | Pairs)
Numbers = Tensor | np.ndarray | Sequence


class TaskPool(ABC, Generic[DataType]):
    """Pool of major and minor tasks of one kind, with their prior.

    A token family defines `vocabulary` and at least four methods: `sample_parameters` (tasks),
    `generate` (sequences of a task), `step_log_likelihoods` (of each token under each task) and
    `mixture_predictive` (predictive under a posterior over tasks). See `references.Family`.

    Attributes:
        parameters: one row per task, majors first, then minors (float64).
        prior: probability of each task: (1 - minor_mass) / majors for a major task and
            minor_mass / minors for a minor one; without minors the majors share 1.
        majors: number of major tasks, K.
        minor_mass: total prior mass of the minors; without minors, the default mass that
            `extrapolation` assigns to a new task.
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
        require_at_least(1, tasks=tasks)
        require_at_least(0, minor=minor)
        require_mass(minor_mass)
        # Majors are sampled first, so they do not depend on the number of minors.
        self.parameters = self.sample_parameters(tasks + minor, seeded_generator(seed, "tasks"))
        mass = minor_mass if minor else 0.0
        shares = [(1 - mass) / tasks] * tasks + [mass / minor for _ in range(minor)]
        self.prior = torch.tensor(shares, dtype=torch.float64)
        self.majors = tasks
        self.minor_mass = minor_mass

    def __repr__(self) -> str:
        minor = f" and {self.minors} minor" if self.minors else ""
        return f"{type(self).__name__}({self.majors} major{minor} tasks, {self._describe_size()})"

    @property
    def minors(self) -> int:
        """Number of minor tasks."""
        return len(self.prior) - self.majors

    @property
    def probabilities(self) -> Float[Tensor, "k ..."]:
        """The task parameters; an alias for families whose parameters are probabilities."""
        return self.parameters

    def with_tasks(
        self: PoolType,
        parameters: Numbers,
        *,
        prior: Numbers | None = None,
        majors: int | None = None,
    ) -> PoolType:
        """Return a family of the same kind with the given tasks.

        Args:
            parameters: one row per task, of this family's shape.
            prior: probability of each task; uniform by default.
            majors: number of leading tasks that are major; all by default.

        Raises:
            TvlensError: the shape, a row or the prior is invalid.
        """
        parameters = torch.as_tensor(parameters, dtype=torch.float64, device="cpu")
        shape = self.parameters.shape[1:]
        if (
            parameters.ndim != 1 + len(shape)
            or parameters.shape[1:] != shape
            or not len(parameters)
        ):
            expected = ", ".join(map(str, ("tasks", *shape)))
            raise TvlensError(f"tasks have shape [{expected}], not {list(parameters.shape)}")
        family = copy.copy(self)
        family.parameters = self.validate(parameters)
        family.majors = len(parameters) if majors is None else majors
        if not 1 <= family.majors <= len(parameters):
            raise TvlensError(f"majors is {majors}, but there are {len(parameters)} tasks")
        return family.with_prior(prior)

    def with_prior(self: PoolType, prior: Numbers | None) -> PoolType:
        """Return a family with the same tasks and another prior; None for a uniform one.

        Raises:
            TvlensError: the prior has the wrong length, is not a distribution, or gives the major
                tasks no mass.
        """
        size = len(self.parameters)
        prior = torch.ones(size) / size if prior is None else prior
        prior = torch.as_tensor(prior, dtype=torch.float64, device="cpu")
        if prior.shape != (size,):
            raise TvlensError(f"a prior of shape {list(prior.shape)} for {size} tasks")
        family = copy.copy(self)
        family.prior = normalize_rows(prior, name="prior")
        if not float(family.prior[: self.majors].sum()):
            raise TvlensError("the prior gives the major tasks no mass")
        if family.minors:
            family.minor_mass = float(family.prior[self.majors :].sum())
        return family

    def with_major_tasks(self: PoolType) -> PoolType:
        """Return a family of the major tasks only, with the prior renormalized."""
        prior = self.prior[: self.majors]
        majors = self.with_tasks(self.parameters[: self.majors], prior=prior / prior.sum())
        majors.minor_mass = self.minor_mass
        return majors

    def with_new_tasks(self: PoolType, tasks: int, *, seed: int = 0) -> PoolType:
        """Return a family of new tasks, sampled from the distribution of the minor tasks."""
        require_at_least(1, tasks=tasks)
        return self.with_tasks(self.sample_parameters(tasks, seeded_generator(seed, "fresh")))

    def sample(
        self,
        n: int,
        length: int,
        *,
        split: Split = "train",
        seed: int = 0,
    ) -> DataType:
        """Sample sequences, each from its own task.

        Args:
            n: number of sequences.
            length: tokens (or pairs) in each.
            split: "train" samples tasks from the prior, "major" and "minor" from the prior
                restricted to them, "ood" samples a new task per sequence, with `task` -1.
            seed: random seed.

        Raises:
            TvlensError: the split is unknown, the family has no minors, or n or length is below 1.
        """
        require_at_least(1, n=n, length=length)
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        if split == "minor" and not self.minors:
            raise TvlensError(f"{self} has no minor tasks to sample from")
        rng = seeded_generator(seed, split)
        if split == "ood":
            return self._generate_data(
                torch.full((n,), -1), self.sample_parameters(n, rng), length, split, rng
            )
        task = torch.from_numpy(rng.choice(len(self.prior), n, p=self._split_probabilities(split)))
        return self._generate_data(task, self.parameters[task], length, split, rng)

    def sample_tasks(self, task: Int[Tensor, " n"], length: int, *, seed: int = 0) -> DataType:
        """Sample one sequence of each given task (indices into the pool; repeats are allowed)."""
        require_at_least(1, length=length, n=len(task))
        if not bool(((task >= 0) & (task < len(self.prior))).all()):
            raise TvlensError(f"tasks of {self} are 0..{len(self.prior) - 1}")
        task = task.cpu().long()
        return self._generate_data(
            task, self.parameters[task], length, "tasks", seeded_generator(seed, "given")
        )

    def _generate_data(
        self, task: Tensor, parameters: Tensor, length: int, split: str, rng: np.random.Generator
    ) -> DataType:
        generated = self.generate(parameters, length, rng)
        kind: Any = Pairs if isinstance(generated, tuple) else Sequences
        values = generated if isinstance(generated, tuple) else (generated,)
        data: DataType = kind(*values, task=task, parameters=parameters, split=split)
        return data

    def _split_probabilities(self, split: str) -> np.ndarray:
        """Compute the probability of each task within a split."""
        is_major = torch.arange(len(self.prior)) < self.majors
        chosen = {"train": torch.ones_like(is_major), "major": is_major, "minor": ~is_major}[split]
        weights = torch.where(chosen, self.prior, 0.0)
        if not float(weights.sum()):  # minors of mass 0 are equally likely
            weights = chosen.double()
        return (weights / weights.sum()).numpy()

    @abstractmethod
    def sample_parameters(self, count: int, rng: np.random.Generator) -> Float[Tensor, "count ..."]:
        """Sample tasks from the distribution of minor and OOD tasks."""

    @abstractmethod
    def generate(
        self, parameters: Float[Tensor, "n ..."], length: int, rng: np.random.Generator
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Sample one sequence per row of parameters: tokens, or inputs and targets."""

    @abstractmethod
    def step_log_likelihoods(self, data: Data) -> Float[Tensor, "n length k"]:
        """Compute the log-likelihood of every observation given those before it, by task.

        The result is a new tensor, which callers may overwrite.
        """

    @abstractmethod
    def mixture_predictive(self, posterior: Float[Tensor, "n length k"], data: Data) -> Predictive:
        """Compute the predictive of the next observation, averaged over tasks."""

    def new_task_predictive(self, data: Data) -> tuple[Float[Tensor, "n length"], Predictive]:
        """Compute log-evidence and predictive of a new task from the minors' distribution."""
        raise TvlensError(f"{type(self).__name__} does not define `new_task_predictive`")

    def sufficient_statistics(self, data: Data) -> Float[Tensor, "n length ..."]:
        """Compute the sufficient statistics of `new_task_predictive`."""
        raise TvlensError(f"{type(self).__name__} does not define `sufficient_statistics`")

    def validate(self, parameters: Float[Tensor, "k ..."]) -> Float[Tensor, "k ..."]:
        """Return the parameters, or raise TvlensError where a row is not a task of this kind."""
        if not bool(parameters.isfinite().all()):
            raise TvlensError("the parameters of a task hold NaN or infinity")
        return parameters

    def _describe_size(self) -> str:
        """Describe the size of a task."""
        return f"{self.vocabulary} tokens"


def seeded_generator(seed: int, purpose: str) -> np.random.Generator:
    """Create a generator for one purpose, so that OOD tasks differ from the pool."""
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise TvlensError(f"a seed is a whole number of at least 0, not {seed!r}")
    # Purposes count from 1, because a seed sequence ignores trailing zeros.
    return np.random.default_rng([seed, 1 + ("tasks", "fresh", "given", *SPLITS).index(purpose)])


def require_mass(minor_mass: float) -> None:
    """Raise TvlensError unless the mass lies in [0, 1)."""
    if not 0 <= minor_mass < 1:
        raise TvlensError(f"minor_mass is at least 0 and below 1, not {minor_mass!r}")
