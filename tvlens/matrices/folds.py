"""`Folds`: pairs in parts, each judged by the map that is fitted to all others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .moments import PairMoments
from .ridge import Ridge


@dataclass(frozen=True)
class Folds:
    """Moments of one base layer in parts; what is decomposed once serves all its targets.

    Attributes:
        parts: moments of each fold; targets can be stacked.
        bias: whether the maps have one.
    """

    parts: Sequence[PairMoments]
    bias: bool = True

    @cached_property
    def whole(self) -> PairMoments:
        """Moments of all folds together.

        Raises:
            TvlensError: there are none.
        """
        if not self.parts:
            raise TvlensError("no moments to fit a matrix to")
        return PairMoments.total(self.parts)

    def errors(
        self, ridges: Float[Tensor, " k"], *, tuned: int | None = None
    ) -> Float[Tensor, " k"]:
        """Squared error of each fold under the map fitted to all others, summed, by penalty.

        Args:
            tuned: place of the target where several are stacked.

        Raises:
            TvlensError: fewer than two folds with pairs in them, or several targets and none taken.
        """
        whole, *held = (part.pair(tuned=tuned) for part in (self.whole, *self._held))
        if whole.mean_y.ndim > 1:
            raise TvlensError("these moments stack several targets: take one with pair(tuned=)")
        if not self.bias:
            whole, *held = (part.about_origin() for part in (whole, *held))
        each = zip(held, self._rests, self._spreads, strict=True)
        costs = [rest.left_out(whole, fold, ridges, spread=s) for fold, rest, s in each]
        return sum(costs[1:], start=costs[0])

    @cached_property
    def _held(self) -> list[PairMoments]:
        held = [part for part in self.parts if part.count]
        if len(held) < 2:
            raise TvlensError(
                f"ridge='kfold' needs the moments of at least 2 folds, not {len(held)}: give them "
                "as a list, or use TaskMatrix.from_states or .fit with folds="
            )
        return held

    @cached_property
    def _rests(self) -> list[Ridge]:
        """Decompositions of what each fold leaves; the target does not matter for them."""
        any_target = 0 if self.whole.mean_y.ndim > 1 else None
        whole, *held = (part.pair(tuned=any_target) for part in (self.whole, *self._held))
        return [Ridge.of(whole - part, bias=self.bias) for part in held]

    @cached_property
    def _spreads(self) -> list[Float[Tensor, "r r"]]:
        """Of each fold's base states, by the decomposition of the others."""
        return [rest.spread(fold) for rest, fold in zip(self._rests, self._held, strict=True)]
