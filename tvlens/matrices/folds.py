"""`Folds`: pairs in parts, each judged by the map that is fitted to all others."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .moments import PairMoments
from .ridge import Ridge


@dataclass(frozen=True)
class Folds:
    """A decomposition for every fold; it serves all targets of one base layer.

    Attributes:
        parts: moments of each fold.
        rests: decompositions of the moments of all others.
        turned: moments of each fold's base states in the other's directions.
    """

    parts: Sequence[PairMoments]
    rests: Sequence[Ridge]
    turned: Sequence[Float[Tensor, "r r"]]

    @classmethod
    def of(cls, parts: Sequence[PairMoments], *, bias: bool = True) -> "Folds":
        """Decompose what each fold leaves.

        Raises:
            TvlensError: fewer than two folds with pairs in them.
        """
        parts = [part for part in parts if part.count]
        if len(parts) < 2:
            raise TvlensError(
                f"ridge='kfold' needs the moments of at least 2 folds, not {len(parts)}: give them "
                "as a list, or use TaskMatrix.from_states or .fit with folds="
            )
        whole = sum(parts[1:], parts[0])
        rests = [Ridge.of(whole - part, bias=bias) for part in parts]
        turned = [rest.turned(part) for rest, part in zip(rests, parts, strict=True)]
        return cls(parts, rests, turned)

    def to(self, tuned: int) -> "Folds":
        """The same decompositions, towards one of several stacked targets."""
        parts = [part.pair(tuned=tuned) for part in self.parts]
        return Folds(parts, [rest.to(tuned) for rest in self.rests], self.turned)

    def errors(self, ridges: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
        """Squared error of each fold under the map fitted to all others, summed."""
        each = zip(self.rests, self.parts, self.turned, strict=True)
        return sum(rest.held_out(part, ridges, turned=turned) for rest, part, turned in each)
