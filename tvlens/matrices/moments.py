"""`PairMoments`: all that a linear map between two spaces of states needs to know of the data."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..saved import Saved
from .rows import add_grams, add_squares, centred, check_rows, side_by_side

_TENSORS = ("mean_x", "mean_y", "xx", "xy", "yy")


@dataclass(eq=False)
class PairMoments(Saved):
    """Count, means and centred second moments of paired states, in float64.

    Several base layers (or tuned ones) can be stacked in a leading axis of x (or y): the moments
    of one space are then shared by all its pairs.

    Attributes:
        count: number of pairs.
        mean_x, mean_y: means of the two sides.
        xx, xy, yy: sums over pairs of products of deviations from the means.
    """

    count: int = 0
    mean_x: Float[Tensor, "*base d_base"] | None = None
    mean_y: Float[Tensor, "*tuned d_tuned"] | None = None
    xx: Float[Tensor, "*base d_base d_base"] | None = None
    xy: Float[Tensor, "... d_base d_tuned"] | None = None
    yy: Float[Tensor, "*tuned d_tuned d_tuned"] | None = None

    def __repr__(self) -> str:
        if not self.count:
            return "PairMoments(no pairs)"
        sides = " to ".join(" x ".join(map(str, m.shape)) for m in (self.mean_x, self.mean_y))
        return f"PairMoments({self.count} pairs, {sides})"

    def update(
        self, x: Float[Tensor, "*base n d_base"], y: Float[Tensor, "*tuned rows d_tuned"]
    ) -> "PairMoments":
        """Take in more pairs, in place; returns itself.

        Args:
            x: base states, one row per pair.
            y: tuned states of the same inputs in the same order.

        Raises:
            TvlensError: different numbers of rows, none, a number that is not finite, or widths
                other than before.

        Source: Chan, Golub and LeVeque 1983, equation 2.1 (pairwise updates of centred sums).
        """
        check_rows(x, y)
        (mean_x, x), (mean_y, y) = centred("x", x), centred("y", y)
        if not self.count:
            self._begin(mean_x, mean_y)
        self._check_like(mean_x, mean_y)
        rows = x.shape[-2] - 1
        share = rows / (self.count + rows)
        shift_x, shift_y = mean_x - self.mean_x, mean_y - self.mean_y
        # The shift of the mean enters the sums like one more row of deviations.
        lever = math.sqrt(self.count * share)
        x[..., -1, :], y[..., -1, :] = lever * shift_x, lever * shift_y
        add_grams(self.xx, x)
        add_grams(self.yy, y)
        self._side_by_side().addmm_(side_by_side(x).T, side_by_side(y))
        self.mean_x += share * shift_x
        self.mean_y += share * shift_y
        self.count += rows
        return self

    def merge(self, other: "PairMoments") -> "PairMoments":
        """New moments of the pairs of both; the order does not matter, up to rounding.

        Raises:
            TvlensError: the other is of other widths or layers.
        """
        return self.total([self, other])

    @classmethod
    def total(cls, parts: Sequence["PairMoments"]) -> "PairMoments":
        """Moments of the pairs of all parts together; of a single part these moments themselves."""
        if len(parts) == 1:
            return parts[0]
        filled = [part for part in parts if part.count]
        found = filled[0]._copy() if filled else cls()
        for part in filled[1:]:
            found._check_like(part.mean_x, part.mean_y)
            found._join(part, found.count + part.count, sign=1)
        return found

    def subtract(self, other: "PairMoments") -> "PairMoments":
        """New moments without the pairs of `other`, such as those of a fold.

        Raises:
            TvlensError: the other's pairs cannot have been among these.
        """
        if not other.count:
            return self._copy()
        left = self.count - other.count
        if left < 0:
            raise TvlensError(f"cannot take {other.count} pairs from {self.count}")
        self._check_like(other.mean_x, other.mean_y)
        if not left:
            return PairMoments()
        found = self._copy()
        found._join(other, left, sign=-1)
        for name in ("xx", "yy"):
            before, after = (getattr(m, name).diagonal(dim1=-2, dim2=-1) for m in (self, found))
            if (after < -1e-6 * before.amax(-1, keepdim=True)).any():
                raise TvlensError("the pairs to subtract were not part of these moments")
        return found

    __add__ = merge
    __sub__ = subtract

    def pair(self, base: int | None = None, tuned: int | slice | None = None) -> "PairMoments":
        """The moments of one stacked base layer and one stacked tuned layer, as views.

        Args:
            base, tuned: place in the leading axis of that side; None where it has no such axis,
                or to keep it.
        """
        self._check_any()
        x_axes, y_axes = self.mean_x.ndim - 1, self.mean_y.ndim - 1
        x = (slice(None),) * x_axes if base is None else (base,)
        y = (slice(None),) * y_axes if tuned is None else (tuned,)
        for name, place, axes in (("base", x, x_axes), ("tuned", y, y_axes)):
            if len(place) > axes:
                raise TvlensError(f"the {name} side is not stacked: leave {name} out")
        return PairMoments(
            self.count, self.mean_x[x], self.mean_y[y], self.xx[x], self.xy[x + y], self.yy[y]
        )

    def about_origin(self) -> "PairMoments":
        """Raw moments in place of centred ones: the means are zero, as for maps without a bias."""
        self._check_any()
        found = self._copy()
        found._add_outer(self.mean_x, self.mean_y, weight=self.count)
        found.mean_x.zero_()
        found.mean_y.zero_()
        return found

    def _begin(self, x: Float[Tensor, "*base d_base"], y: Float[Tensor, "*tuned d_tuned"]) -> None:
        self.mean_x, self.mean_y = torch.zeros_like(x), torch.zeros_like(y)
        self.xx = x.new_zeros(*x.shape, x.shape[-1])
        self.yy = y.new_zeros(*y.shape, y.shape[-1])
        self.xy = x.new_zeros(*x.shape, *y.shape).movedim(x.ndim - 1, -2)

    def _add_outer(
        self, x: Float[Tensor, "*base d_base"], y: Float[Tensor, "*tuned d_tuned"], *, weight: float
    ) -> None:
        """Add a pair that stands for so many; in place, as these sums are large."""
        add_squares(self.xx, x, weight=weight)
        add_squares(self.yy, y, weight=weight)
        self._side_by_side().addr_(x.flatten(), y.flatten(), alpha=weight)

    def _side_by_side(self) -> Float[Tensor, "base_rows tuned_columns"]:
        """X'Y of all stacked layers as one matrix in their memory; laid out anew if need be.

        A product of all layers at once is a fifth faster than one of each pair of them.
        """
        base = self.mean_x.ndim - 1
        rows = self.xy.movedim(-2, base).contiguous()
        self.xy = rows.movedim(base, -2)
        return rows.view(self.mean_x.numel(), self.mean_y.numel())

    def _join(self, other: "PairMoments", count: int, *, sign: int) -> None:
        """Add or take away the other's sums in place, with what the shift of the means brings."""
        x, y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share = sign * other.count / count
        for name in ("xx", "xy", "yy"):
            getattr(self, name).add_(getattr(other, name), alpha=sign)
        self._add_outer(x, y, weight=self.count * share)
        self.mean_x += share * x
        self.mean_y += share * y
        self.count = count

    def _copy(self) -> "PairMoments":
        if not self.count:
            return PairMoments()
        base = self.mean_x.ndim - 1
        rows = self.xy.movedim(-2, base).clone(memory_format=torch.contiguous_format)
        own = {name: getattr(self, name).clone() for name in _TENSORS if name != "xy"}
        return PairMoments(self.count, xy=rows.movedim(base, -2), **own)

    def _check_any(self) -> None:
        if not self.count:
            raise TvlensError("these moments hold no pairs yet: update them with states")

    def _check_like(self, x: Tensor, y: Tensor) -> None:
        for name, mine, theirs in (("x", self.mean_x, x), ("y", self.mean_y, y)):
            if mine.shape != theirs.shape:
                raise TvlensError(
                    f"these moments have {name} of shape {list(mine.shape)}, "
                    f"not {list(theirs.shape)}"
                )
