"""`solve_phase_boundary`: where retrieval (M1) gives way to extrapolation (M2), by evidence alone.

On the training mixture M1 is the exact predictor, and its advantage over M2 is the KL between them.
With the number of minor tasks, the pool comes to resemble the distribution of new tasks, and the
advantage shrinks. A model whose predictions are accurate to some number of nats per observation
cannot profit from M1 where the advantage is smaller: there M1 gives way to M2.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import NamedValues, TvlensError
from ..integers import require_at_least
from ..results import Result
from ..stats import bootstrap_counts, percentiles
from .references import Family, extrapolation, predict_in_batches, retrieval

if TYPE_CHECKING:
    import pandas

SPLITS = ("major", "minor", "ood")
_RESAMPLES = 1000


@dataclass(frozen=True)
class PhaseBoundary(Result):
    """Log-evidence of M1 minus that of M2, by number of minor tasks, their mass, and context.

    Attributes:
        advantage: log p(sequence | M1) - log p(sequence | M2) in nats, up to each length, for every
            sequence of major, minor and new tasks.
        minors: numbers of minor tasks, ascending.
        masses: prior masses p0 of the minor tasks, and of the new task of M2.
        lengths: numbers of observations.
        settings: family and seed.
    """

    advantage: Float[Tensor, "3 minors mass length n"]
    minors: tuple[int, ...]
    masses: tuple[float, ...]
    lengths: tuple[int, ...]
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        mass, length = self.masses[-1], self.lengths[-1]
        first, last = (
            self.mean["train", minor, mass, length] for minor in (self.minors[0], self.minors[-1])
        )
        return (
            f"PhaseBoundary({self.settings['family']}, {length} observations: M1 leads by "
            f"{first:.2g} to {last:.2g} nats)"
        )

    @cached_property
    def mean(self) -> NamedValues[float]:
        """Mean advantage in nats by split ("train" or "ood"), minor tasks, mass and length."""
        weights = torch.ones(1, self.advantage.shape[-1], dtype=torch.float64)
        return NamedValues(self._axes, self._average(weights)[0].flatten().tolist())

    @cached_property
    def interval(self) -> NamedValues[tuple[float, float]]:
        """95% bootstrap interval of the mean over sequences."""
        low, high = percentiles(self._draws, axis=0)
        ends = zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)
        return NamedValues(self._axes, ends)

    def boundary(
        self, tolerance: float, *, mass: float, length: int
    ) -> tuple[float, tuple[float, float]]:
        """Compute log2 of the number of minor tasks at which M1 gives way to M2.

        From there on, the advantage of M1 on the training mixture is below a tolerance, linearly
        interpolated in log2 of the number of minor tasks. Infinite where it is not even at the
        largest number, and -infinite where it is at the smallest.

        Args:
            tolerance: nats per observation, such as the KL of a trained model to its reference.

        Returns:
            The value, and its 95% bootstrap interval over sequences.
        """
        place = (0, slice(None), self.masses.index(mass), self.lengths.index(length))
        x = np.log2(self.minors)
        value = np.array([self.mean["train", minor, mass, length] for minor in self.minors])
        draws = self._draws[(slice(None), *place)].numpy()
        (boundary,) = find_crossing(x, value[None] / length - tolerance)
        draws = find_crossing(x, draws / length - tolerance)
        low, high = percentiles(draws, method="nearest")
        return float(boundary), (float(low), float(high))

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per split, number of minor tasks, mass and length: advantage, interval."""
        import pandas as pd

        index = pd.MultiIndex.from_product(self._axes.values(), names=list(self._axes))
        low, high = zip(*self.interval.values(), strict=True)
        columns = {"advantage": list(self.mean.values()), "low": low, "high": high}
        return pd.DataFrame(columns, index).reset_index()

    @property
    def _axes(self) -> dict[str, tuple]:
        axes = dict(minors=self.minors, mass=self.masses, length=self.lengths)
        return {"split": ("train", "ood"), **axes}

    @cached_property
    def _draws(self) -> Float[Tensor, "draw 2 minors mass length"]:
        """Mean advantage in bootstrap samples of the sequences."""
        n = self.advantage.shape[-1]
        return self._average(torch.from_numpy(bootstrap_counts(n, _RESAMPLES, seed=0)))

    def _average(
        self, counts: Float[Tensor, "draw n"]
    ) -> Float[Tensor, "draw 2 minors mass length"]:
        """Average over sequences, and over major and minor tasks by their mass."""
        sums = torch.tensordot(counts, self.advantage.double(), dims=([1], [4]))
        major, minor, new = (sums / counts.sum(1)[:, None, None, None, None]).unbind(1)
        mass = torch.tensor(self.masses, dtype=torch.float64)[:, None]
        return torch.stack([(1 - mass) * major + mass * minor, new], 1)


def solve_phase_boundary(
    make_family: Callable[[int, float], Family],
    *,
    minors: Sequence[int],
    lengths: Sequence[int],
    masses: Sequence[float] = (0.1,),
    sequences: int = 512,
    seed: int = 0,
) -> PhaseBoundary:
    """Compare the log-evidence of retrieval and extrapolation on known and on new tasks.

    Args:
        make_family: (number of minor tasks, their mass) -> family.
        minors: numbers of minor tasks, at least 1.
        masses: prior masses p0 of the minor tasks, and of the new task of M2.
        lengths: numbers of observations at which evidences are compared.
        sequences: sequences of each split.
        seed: random seed of the sequences.

    Raises:
        TvlensError: a number is too small, or new tasks are impossible under every known one.

    Example:
        >>> result = tv.bayes.solve_phase_boundary(
        ...     lambda minor, mass: tv.bayes.Dice(minor=minor, minor_mass=mass),
        ...     minors=[1, 16, 256],
        ...     lengths=[16],
        ...     sequences=64,
        ... )
        >>> result.mean["train", 1, 0.1, 16] > 0 > result.mean["ood", 1, 0.1, 16]
        True
    """
    if not minors or not masses or not lengths:
        raise TvlensError("give at least one number of minor tasks, one mass and one length")
    require_at_least(1, minors=min(minors), lengths=min(lengths))
    require_at_least(2, sequences=sequences)
    minors, lengths = sorted(set(minors)), sorted(set(lengths))
    positions = torch.tensor(lengths) - 1
    rows = []
    for split in SPLITS:
        for minor in minors:
            for mass in masses:
                family = make_family(minor, mass)
                data = family.sample(sequences, lengths[-1], split=split, seed=seed)  # type: ignore[attr-defined]
                first, second = (
                    predict_in_batches(reference, family, data).log_evidence
                    for reference in (retrieval, extrapolation)
                )
                rows.append((first - second)[:, positions].T)
    shape = len(SPLITS), len(minors), len(masses), len(lengths), sequences
    return PhaseBoundary(
        advantage=torch.stack(rows).reshape(shape).float(),
        minors=tuple(minors),
        masses=tuple(masses),
        lengths=tuple(lengths),
        settings={"family": str(make_family(minors[0], masses[0])), "seed": seed},
    )


def find_crossing(
    x: Float[np.ndarray, " point"], values: Float[np.ndarray, "draw point"]
) -> Float[np.ndarray, " draw"]:
    """Find where values fall below 0 for good, linearly interpolated.

    Infinite where the last value is above 0, and -infinite where all values are below.
    """
    places = []
    for row in values:
        above = np.flatnonzero(row > 0)
        if not len(above):
            places.append(-np.inf)
        elif above[-1] == len(row) - 1:
            places.append(np.inf)
        else:
            i = above[-1]
            places.append(x[i] + (x[i + 1] - x[i]) * row[i] / (row[i] - row[i + 1]))
    return np.array(places)
