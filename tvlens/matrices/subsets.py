"""The matrix of every subset of tasks: their moments add up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from ..errors import TvlensError, unknown
from ..integers import as_integers
from .matrix import TaskMatrix
from .moments import PairMoments


def shared(
    moments: Mapping[str, PairMoments],
    *,
    sizes: int | Iterable[int] | None = None,
    **options: Any,
) -> Iterator[tuple[tuple[str, ...], TaskMatrix]]:
    """The matrix shared by each subset of tasks, from the smallest subsets up.

    Args:
        moments: of one base layer and one target, by task.
        sizes: of subsets; all by default, which are 2^tasks - 1.
        options: as in `TaskMatrix.from_moments`.

    Raises:
        TvlensError: no tasks, or a size that no subset has.
    """
    for subset in subsets(list(moments), sizes):
        yield subset, TaskMatrix.from_moments(total(moments, subset), **options)


def subsets(
    names: Sequence[str], sizes: int | Iterable[int] | None = None
) -> list[tuple[str, ...]]:
    """Subsets of these sizes, size by size; all by default.

    Raises:
        TvlensError: no tasks, or a size that no subset has.
    """
    if not names:
        raise TvlensError("no tasks to share a matrix")
    wanted = list(range(1, len(names) + 1)) if sizes is None else as_integers(sizes, name="sizes")
    for size in wanted:
        if not 1 <= size <= len(names):
            raise unknown("size of a subset", size, map(str, range(1, len(names) + 1)))
    return [subset for size in wanted for subset in combinations(names, size)]


def total(moments: Mapping[str, PairMoments], subset: Sequence[str]) -> PairMoments:
    """The moments of all pairs of these tasks."""
    first, *rest = (moments[name] for name in subset)
    return sum(rest, first)
