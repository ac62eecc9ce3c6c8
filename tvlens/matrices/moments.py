"""`PairMoments`: the sufficient statistics of a linear map between two spaces of states."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.linalg.blas import dsyrk
from torch import Tensor

from ..errors import TvlensError
from ..results import Result

_TENSORS = ("mean_x", "mean_y", "xx", "xy", "yy")

# Narrower blocks of X'X cost more to start than their half saves.
_BLOCK = 64


@dataclass(eq=False)
class PairMoments(Result):
    """Count, means and centered second moments of paired states, in float64.

    Several base (or finetuned) layers can be stacked in a leading axis of x (or y); the second
    moments of a layer are then shared by all its pairs of layers.

    Attributes:
        count: number of pairs.
        mean_x, mean_y: means of the base and of the finetuned states.
        xx, xy, yy: sums over pairs of products of deviations from the means.

    Example:
        >>> import torch
        >>> x, y = torch.randn(20, 4), torch.randn(20, 3)
        >>> first, second = (tv.PairMoments().update(x[k::2], y[k::2]) for k in (0, 1))
        >>> first + second
        PairMoments(20 pairs, 4 to 3)
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
        """Add pairs, in place.

        Args:
            x: base states, one row per pair.
            y: finetuned states of the same inputs in the same order.

        Returns:
            The same object.

        Raises:
            TvlensError: different numbers of rows, no rows, a number that is not finite, or
                another width than before.

        Source: Chan, Golub and LeVeque 1983, equation 2.1 (pairwise updates of centred sums).
        """
        _check_rows(x, y)
        (mean_x, x), (mean_y, y) = _center("x", x), _center("y", y)
        if not self.count:
            self._initialize(mean_x, mean_y)
        self._check_shapes(mean_x, mean_y)
        rows = x.shape[-2] - 1
        share = rows / (self.count + rows)
        shift_x, shift_y = mean_x - self.mean_x, mean_y - self.mean_y
        # The shift of the mean enters the sums as one more row of deviations.
        scale = math.sqrt(self.count * share)
        x[..., -1, :], y[..., -1, :] = scale * shift_x, scale * shift_y
        _add_grams(self.xx, x)
        _add_grams(self.yy, y)
        self._cross_matrix().addmm_(_flatten_layers(x).T, _flatten_layers(y))
        self.mean_x += share * shift_x
        self.mean_y += share * shift_y
        self.count += rows
        return self

    def merge(self, other: "PairMoments") -> "PairMoments":
        """Compute the moments of the pairs of both, as a new object.

        Raises:
            TvlensError: the other is of other widths or layers.
        """
        return self.total([self, other])

    @classmethod
    def total(cls, parts: Sequence["PairMoments"]) -> "PairMoments":
        """Compute the moments of the pairs of all parts; a single part is returned unchanged."""
        if len(parts) == 1:
            return parts[0]
        filled = [part for part in parts if part.count]
        total = filled[0]._copy() if filled else cls()
        for part in filled[1:]:
            total._check_shapes(part.mean_x, part.mean_y)
            total._combine(part, total.count + part.count, sign=1)
        return total

    def subtract(self, other: "PairMoments") -> "PairMoments":
        """Compute the moments without the pairs of `other` (such as a fold), as a new object.

        Raises:
            TvlensError: the pairs of `other` cannot have been among these.
        """
        if not other.count:
            return self._copy()
        count = self.count - other.count
        if count < 0:
            raise TvlensError(f"cannot subtract {other.count} pairs from {self.count}")
        self._check_shapes(other.mean_x, other.mean_y)
        if not count:
            return PairMoments()
        rest = self._copy()
        rest._combine(other, count, sign=-1)
        for name in ("xx", "yy"):
            before, after = (getattr(m, name).diagonal(dim1=-2, dim2=-1) for m in (self, rest))
            if (after < -1e-6 * before.amax(-1, keepdim=True)).any():
                raise TvlensError("the pairs to subtract were not part of these moments")
        return rest

    __add__ = merge
    __sub__ = subtract

    def pair(self, base: int | None = None, tuned: int | slice | None = None) -> "PairMoments":
        """Select one stacked base layer and one stacked finetuned layer, as views.

        Args:
            base, tuned: index into the leading axis of that side; None if it has no such axis, or
                to keep the axis.
        """
        self._check_not_empty()
        x_axes, y_axes = self.mean_x.ndim - 1, self.mean_y.ndim - 1
        x = (slice(None),) * x_axes if base is None else (base,)
        y = (slice(None),) * y_axes if tuned is None else (tuned,)
        for name, index, axes in (("base", x, x_axes), ("tuned", y, y_axes)):
            if len(index) > axes:
                raise TvlensError(f"the {name} side is not stacked: leave {name} out")
        return PairMoments(
            self.count, self.mean_x[x], self.mean_y[y], self.xx[x], self.xy[x + y], self.yy[y]
        )

    def uncentered(self) -> "PairMoments":
        """Compute moments about the origin instead of the means, for maps without a bias."""
        self._check_not_empty()
        raw = self._copy()
        raw._add_outer(self.mean_x, self.mean_y, weight=self.count)
        raw.mean_x.zero_()
        raw.mean_y.zero_()
        return raw

    def _initialize(
        self, x: Float[Tensor, "*base d_base"], y: Float[Tensor, "*tuned d_tuned"]
    ) -> None:
        self.mean_x, self.mean_y = torch.zeros_like(x), torch.zeros_like(y)
        self.xx = x.new_zeros(*x.shape, x.shape[-1])
        self.yy = y.new_zeros(*y.shape, y.shape[-1])
        self.xy = x.new_zeros(*x.shape, *y.shape).movedim(x.ndim - 1, -2)

    def _add_outer(
        self, x: Float[Tensor, "*base d_base"], y: Float[Tensor, "*tuned d_tuned"], *, weight: float
    ) -> None:
        """Add the outer products of one weighted pair, in place: the sums are large."""
        _add_outer_products(self.xx, x, weight=weight)
        _add_outer_products(self.yy, y, weight=weight)
        self._cross_matrix().addr_(x.flatten(), y.flatten(), alpha=weight)

    def _cross_matrix(self) -> Float[Tensor, "base_rows tuned_columns"]:
        """X'Y of all stacked layers as one matrix, a view into `xy`, which is copied if necessary.

        A product of all layers at once is a fifth faster than one of each pair of them.
        """
        base = self.mean_x.ndim - 1
        rows = self.xy.movedim(-2, base).contiguous()
        self.xy = rows.movedim(base, -2)
        return rows.view(self.mean_x.numel(), self.mean_y.numel())

    def _combine(self, other: "PairMoments", count: int, *, sign: int) -> None:
        """Add or subtract the sums of `other` in place, corrected for the shift of the means."""
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
        copies = {name: getattr(self, name).clone() for name in _TENSORS if name != "xy"}
        return PairMoments(self.count, xy=rows.movedim(base, -2), **copies)

    def _check_not_empty(self) -> None:
        if not self.count:
            raise TvlensError("these moments hold no pairs yet: update them with states")

    def _check_shapes(self, x: Tensor, y: Tensor) -> None:
        for name, mean, other in (("x", self.mean_x, x), ("y", self.mean_y, y)):
            if mean.shape != other.shape:
                raise TvlensError(
                    f"these moments have {name} of shape {list(mean.shape)}, "
                    f"not {list(other.shape)}"
                )


def _check_rows(x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> None:
    """Raise TvlensError unless both have the same number of rows, at least one."""
    if x.ndim < 2 or y.ndim < 2:
        raise TvlensError("x and y need a row per pair: give them two axes or more")
    if x.shape[-2] != y.shape[-2]:
        raise TvlensError(
            f"x has {x.shape[-2]} rows and y has {y.shape[-2]}: row i of both must be one input"
        )
    if not x.shape[-2]:
        raise TvlensError("x and y have no rows")


def _center(
    name: str, states: Float[Tensor, "*stack n d"]
) -> tuple[Float[Tensor, "*stack d"], Float[Tensor, "*stack more d"]]:
    """Compute mean and deviations, with a spare row, in float64 (on the CPU if necessary)."""
    states = states.detach().cpu() if states.device.type == "mps" else states.detach()
    *stack, n, width = states.shape
    # In memory the layers of an input are adjacent.
    rows = states.new_empty(n + 1, *stack, width, dtype=torch.float64).movedim(0, -2)
    deviations = rows[..., :-1, :].copy_(states)
    mean = deviations.mean(-2)
    # A finite mean implies finite states; a mean that is not may have overflowed.
    if not mean.isfinite().all() and (bad := ~states.isfinite()).any():
        first = bad.nonzero()[0].tolist()
        raise TvlensError(
            f"{int(bad.sum())} of {bad.numel()} numbers in {name} are NaN or infinite, "
            f"first at {first}"
        )
    deviations -= mean.unsqueeze(-2)
    return mean, rows


def _flatten_layers(states: Float[Tensor, "*stack n d"]) -> Float[Tensor, "n stack_d"]:
    """Flatten stacked layers to one matrix with a row per pair and adjacent columns per layer."""
    return states.movedim(-2, 0).reshape(states.shape[-2], -1)


def _add_grams(sums: Float[Tensor, "*stack d d"], states: Float[Tensor, "*stack n d"]) -> None:
    """Add X'X of every layer in place: the sums are larger than a batch."""
    layers = states.reshape(-1, *states.shape[-2:])
    for total, layer in zip(sums.view(-1, *sums.shape[-2:]), layers, strict=True):
        _add_gram(total, layer)


def gram(x: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """Compute X'X by a symmetric product, in about half the operations of a general one."""
    sums = x.new_zeros(x.shape[1], x.shape[1])
    _add_gram(sums, x)
    return sums


def _add_outer_products(
    sums: Float[Tensor, "*stack d d"], x: Float[Tensor, "*stack d"], *, weight: float
) -> None:
    """Add the weighted outer product of every layer's vector with itself, in place."""
    width = x.shape[-1]
    for total, vector in zip(sums.view(-1, width, width), x.reshape(-1, width), strict=True):
        total.add_(torch.outer(vector, vector), alpha=weight)


def _add_gram(sums: Float[Tensor, "d d"], x: Float[Tensor, "n d"]) -> None:
    """Add X'X in place. The product is symmetric: its lower triangle is copied."""
    if x.device.type == "cpu" and torch.get_num_threads() == 1:
        _add_gram_blas(sums, x)
        return
    width = len(sums)
    step = max(_BLOCK, math.ceil(width / 4))
    for begin in range(0, width, step):
        end = begin + step
        sums[begin:end, begin:].addmm_(x[:, begin:end].T, x[:, begin:])
        sums[end:, begin:end] = sums[begin:end, end:].T


def _add_gram_blas(sums: Float[Tensor, "d d"], x: Float[Tensor, "n d"]) -> None:
    """`_add_gram` by the symmetric product of SciPy's BLAS, which is a quarter faster.

    For one thread only: the thread pools of SciPy and PyTorch spin against each other, which takes
    twice as long.
    """
    # Fortran is column-major: rows are columns there, and the upper triangle is the lower one.
    is_transposed = x.T.is_contiguous()
    a = x.numpy() if is_transposed else x.contiguous().numpy().T
    dsyrk(1.0, a, trans=is_transposed, beta=1.0, c=sums.numpy().T, lower=True, overwrite_c=True)
    for begin in range(0, len(sums), _BLOCK):
        end = begin + _BLOCK
        sums[end:, begin:end] = sums[begin:end, end:].T
        corner = sums[begin:end, begin:end]
        corner.copy_(corner.triu() + corner.triu(1).T)
