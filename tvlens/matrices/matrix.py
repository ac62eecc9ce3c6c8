"""`TaskMatrix`: one affine map that turns a base model's states into its finetuned twin's."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..models.readouts import Readout, ReadoutName
from ..saved import Saved
from ..sites import Layers
from .attach import attached, place
from .folds import Folds
from .moments import PairMoments
from .penalty import Rule
from .rank import check_rank, output_axes, reduced
from .ridge import Ridge
from .solve import Fit, solved
from .twins import check_same


@dataclass(frozen=True)
class TaskMatrix(Saved):
    """An affine map of row vectors: state of the base model -> state of the finetuned one.

    Attributes:
        weight: W, in float64.
        bias: b; zero where the map was fitted without one.
        ridge: the penalty it was fitted with; 0 for least squares and Procrustes.
        rank: the rank it was reduced to; None for a whole map.
        center: mean of the base states; what truncating leaves unmoved.
        factor: what the map explains of the tuned states along each axis of the base states; gives
            the best maps of lower rank. None for Procrustes.
        layer: block of the base model whose output it reads, where it was fitted on models.
        target: block of the tuned model whose output it predicts.
        meta: how it was fitted, as JSON: method, rule of the penalty, number of pairs, predicted
            R^2, models and their fingerprints.
    """

    weight: Float[Tensor, "d_base d_tuned"]
    bias: Float[Tensor, " d_tuned"]
    ridge: float = 0.0
    rank: int | None = None
    center: Float[Tensor, " d_base"] | None = None
    factor: Float[Tensor, "r d_tuned"] | None = None
    layer: int | None = None
    target: int | None = None
    meta: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        d_base, d_tuned = self.weight.shape
        where = "" if self.layer is None else f"layer {self.layer}, "
        rank = "" if self.rank is None else f", rank {self.rank}"
        method = self.meta.get("method", "given")
        return f"TaskMatrix({where}{d_base} to {d_tuned}, {method}, penalty {self.ridge:.3g}{rank})"

    def _repr_html_(self) -> str:
        from .show import matrix_figure

        return matrix_figure(self)._repr_html_()

    @classmethod
    def from_moments(
        cls,
        moments: PairMoments | Sequence[PairMoments],
        *,
        ridge: Rule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Fit = "ridge",
        ridges: Iterable[float] | None = None,
    ) -> "TaskMatrix":
        """The best map for these pairs, from their moments alone.

        Args:
            moments: of one base layer and one target. Several are summed: the folds of one task,
                or several tasks that are to share one matrix.
            ridge: penalty on the squared weights; "gcv" chooses it by generalised
                cross-validation, "kfold" by the given folds; None for least squares (of least
                norm where samples are fewer than dimensions).
            bias: fit b too, which is not penalised.
            rank: reduce the map to this rank.
            method: "ridge"; "lstsq", least squares whatever `ridge` says (the paper's own fit
                with bias=False); or "procrustes", a rotation and a scale.
            ridges: penalties to choose from, in scikit-learn's units (`Ridge`'s alpha); by
                default a grid in units of the mean eigenvalue.

        Raises:
            TvlensError: fewer than 2 pairs, unknown rule or method, an impossible rank, base
                states that are all the same, or least squares with constant features.
        """
        parts = [moments] if isinstance(moments, PairMoments) else list(moments)
        folds = Folds(parts, bias)
        options = dict(rank=rank, ridge=ridge, method=method, ridges=ridges, folds=folds.errors)
        return cls.of(Ridge.of(folds.whole, bias=bias), **options)

    @classmethod
    def from_states(
        cls,
        x: Float[Tensor, "n d_base"],
        y: Float[Tensor, "rows d_tuned"],
        *,
        ridge: Rule | float | None = "gcv",
        folds: int = 5,
        seed: int = 0,
        **options: Any,
    ) -> "TaskMatrix":
        """The best map from states x to states y of the same inputs.

        Args:
            ridge: as in `from_moments`, and "loo" for exact leave-one-out.
            folds: into how many parts "kfold" divides the pairs, at random by `seed`.
            options: bias, rank, method and ridges of `from_moments`.

        Raises:
            TvlensError: as `from_moments`, and different numbers of rows or NaN.
        """
        if ridge == "kfold":
            PairMoments().update(x, y)  # names what is wrong before anything is divided
            order = np.random.default_rng(seed).permutation(len(x))
            parts = [torch.from_numpy(p) for p in np.array_split(order, min(folds, len(x)))]
            return cls.from_moments(
                [PairMoments().update(x[p], y[p]) for p in parts], ridge=ridge, **options
            )
        moments = PairMoments().update(x, y)
        if ridge != "loo":
            return cls.from_moments(moments, ridge=ridge, **options)
        solution = Ridge.of(moments, bias=options.pop("bias", True))
        return cls.of(solution, ridge=ridge, pairs=lambda: [(x, y)], **options)

    @classmethod
    def of(cls, solution: Ridge, *, rank: int | None = None, **options: Any) -> "TaskMatrix":
        """One map of a decomposition that may serve many.

        Args:
            options: ridge, method, ridges, folds, pairs, layer, target and entries of `meta`.
        """
        matrix = cls(**solved(solution, **options))
        return matrix if rank is None else matrix.truncate(rank)

    @classmethod
    def fit(
        cls,
        base: Any,
        tuned: Any,
        batches: Iterable[Any],
        *,
        layers: Layers = "all",
        targets: Layers | Literal["last"] = "last",
        ridge: Rule | float | None = "gcv",
        bias: bool = True,
        rank: int | None = None,
        method: Fit = "ridge",
        ridges: Iterable[float] | None = None,
        readout: ReadoutName | Readout = "first",
        folds: int = 5,
        shard: int | None = None,
        progress: bool = True,
    ) -> Any:
        """Fit a matrix from one or every base layer to the last (or every) tuned layer.

        Args:
            base, tuned: models that `load` gives; twins with one tokenizer or image size. Several
                tuned models by name share the runs of the base model.
            batches: batches of texts, token lists or pictures; anything that can be gone through
                once, or again and again where several passes are asked for.
            layers: "all", one base layer or several.
            targets: "last", "all", one tuned layer or several.
            ridge, bias, rank, method, ridges: as in `from_moments`, and ridge="loo", which holds
                the readout states of the shard in memory.
            readout: what stands for an input: its "first", "mean" or "last" position, or any
                function of (states, lengths).
            folds: for ridge="kfold"; the examples take turns.
            shard: how many base layers to hold moments of at once; a pass over the batches for
                each shard. All by default. Memory is 8 (d^2 + targets x d x d_tuned) bytes a layer.

        Returns:
            A `TaskMatrix` for one layer and one target, otherwise `TaskMatrices`; by name where
            the tuned models have names.

        Raises:
            TvlensError: models of different tokenizers or image sizes, unknown layer, rule or
                method, NaN states, fewer than 2 examples.
        """
        from .fit import fit

        chosen = {k: v for k, v in locals().items() if k not in ("cls", "fit")}
        return fit(**chosen)

    @property
    def d_base(self) -> int:
        """Width of the states it reads."""
        return self.weight.shape[0]

    @property
    def d_tuned(self) -> int:
        """Width of the states it predicts."""
        return self.weight.shape[1]

    def predict(self, states: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_tuned"]:
        """Compute states @ W + b in float64; returns the dtype of the states.

        Raises:
            TvlensError: states of another width.
        """
        if states.shape[-1] != self.d_base:
            raise TvlensError(f"the states have width {states.shape[-1]}, not {self.d_base}")
        mapped = states.double() @ self.weight.to(states.device) + self.bias.to(states.device)
        return mapped.to(states.dtype)

    def spectrum(self) -> Float[Tensor, " rank"]:
        """Singular values of W, in descending order."""
        return torch.linalg.svdvals(self.weight)

    def explained_by_rank(self) -> Float[Tensor, " d_tuned"]:
        """Share of what the whole map explains that the best map of each rank, from 1, explains."""
        strengths = self.axes[0].cumsum(0)
        return strengths / strengths[-1]

    def truncate(self, rank: int) -> "TaskMatrix":
        """The best map of this rank for the same pairs and penalty.

        Raises:
            TvlensError: an impossible rank.
        """
        check_rank(rank, self.weight)
        weight = reduced(self.weight, self.axes[1], rank)
        center = torch.zeros_like(self.weight[:, 0]) if self.center is None else self.center
        bias = self.bias + center @ (self.weight - weight)
        least = rank if self.rank is None else min(rank, self.rank)
        return replace(self, weight=weight, bias=bias, rank=least)

    @contextlib.contextmanager
    def attach(
        self, model: Any, *, layer: int | None = None, other_model: bool = False
    ) -> Iterator[None]:
        """Let the model exit early within the `with` block.

        After block `layer` the states are mapped by the matrix and take the place of the last
        block's output; the blocks between do not run.

        Every position goes through it. A readout is a position or a mean of positions, and an
        affine map commutes with both. Final norm and head are the model's own.

        Args:
            layer: the block to leave after; by default, and at most, the one it was fitted at.
            other_model: allow weights other than those it was fitted on.

        Raises:
            TvlensError: another layer, model or width than it was fitted for.
        """
        layer = place(self, model, layer)
        if not other_model:
            check_same(model, self.meta.get("base"))
        with attached(model, self.weight, self.bias, layer=layer):
            yield

    @cached_property
    def axes(self) -> tuple[Float[Tensor, " d_tuned"], Float[Tensor, "d_tuned d_tuned"]]:
        """What it explains along each of its output directions, and these as columns.

        Both in descending order: the first r span the best map of rank r.
        """
        # Without the data's own measure every direction of the base states counts the same.
        return output_axes(self.weight if self.factor is None else self.factor)
