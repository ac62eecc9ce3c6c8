"""`TaskVector`: one direction per layer that carries a task, with its provenance."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..deprecation import warn_renamed
from ..errors import TvlensError, unknown
from ..field_checks import check_value
from ..integers import Integer, Integers, as_integers
from ..models.forward import check_model
from ..models.hooks import Hook, row_positions, with_hooks, write_at
from ..models.loading import model_name
from ..results import Result
from ..saved import reading
from ..sites import Site

Mode = Literal["replace", "add", "add_preserving_norm"]
MODES = get_args(Mode)


# Deprecated name of "add_preserving_norm".
_FORMER_MODE = "turn"


def read_mode(mode: str) -> Mode:
    """Check a mode of writing; the deprecated name "turn" is accepted with a warning.

    Raises:
        TvlensError: no such mode.
    """
    if mode == _FORMER_MODE:
        warn_renamed(f'mode="{_FORMER_MODE}"', 'mode="add_preserving_norm"', stacklevel=4)
        return "add_preserving_norm"
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    return cast(Mode, mode)


def apply_vector(
    state: Float[Tensor, "*#row d_model"], vector: Float[Tensor, "*#row d_model"], mode: Mode
) -> Float[Tensor, "*#row d_model"]:
    """Apply a vector to a state.

    Args:
        mode: "replace" the state (Hendel et al. 2023), "add" the vector to it (Todd et al. 2024),
            or "add_preserving_norm": add it and rescale the sum to the state's norm (Liu et al.
            2023).
    """
    if mode == "replace":
        return vector.expand_as(state)
    total = state + vector
    if mode == "add":
        return total
    scale: Tensor = state.norm(dim=-1, keepdim=True) / total.norm(dim=-1, keepdim=True)
    return total * scale


@dataclass(frozen=True)
class TaskVector(Result):
    """A task as one vector per layer.

    Attributes:
        values: the vector at every layer.
        site: the component it was read from and is written to.
        meta: provenance, as JSON: model, task, method, template, shots, seed, examples, prompts,
            versions.

    Example:
        >>> vector = tv.TaskVector(torch.ones(2, 4), "resid_post", {"task": "plural"})
        >>> vector.save("plural.safetensors")
        >>> tv.TaskVector.load("plural.safetensors").norms
        tensor([2., 2.])
    """

    former_names: ClassVar = ("tvlens",)

    values: Float[Tensor, "layer d_model"]
    site: str = "resid_post"
    meta: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        bad = ~self.values.isfinite()
        if bad.any():
            layer = int(bad.nonzero()[0, 0]) if bad.ndim else 0
            raise TvlensError(
                f"{int(bad.sum())} of {bad.numel()} numbers of the vector {self.name!r} are NaN or "
                f"infinite, first at layer {layer}"
            )

    def __repr__(self) -> str:
        layers, width = self.values.shape
        return f"TaskVector({self.name!r}, {layers} layers, d_model {width}, at {self.site})"

    @property
    def name(self) -> str:
        """The task's name."""
        name: str = self.meta.get("task", "")
        return name

    @property
    def mode(self) -> Mode:
        """Default mode of writing into a model."""
        mode = self.meta.get("mode", "replace")
        return "add_preserving_norm" if mode == _FORMER_MODE else mode

    @property
    def examples(self) -> list[tuple[str, str]]:
        """The input-output pairs it was extracted from."""
        return [(x, y) for x, y in self.meta.get("examples", [])]

    @property
    def norms(self) -> Float[Tensor, " layer"]:
        """Euclidean norm at every layer."""
        norms: Tensor = self.values.norm(dim=-1)
        return norms

    def cosine(self, other: "TaskVector") -> Float[Tensor, " layer"]:
        """Compute the cosine similarity with another vector, layer by layer."""
        self._check_like(other)
        return torch.cosine_similarity(self.values, other.values, dim=-1)

    def __add__(self, other: "TaskVector") -> "TaskVector":
        self._check_like(other)
        return self._combined(self.values + other.values, "sum", [self, other])

    def __sub__(self, other: "TaskVector") -> "TaskVector":
        self._check_like(other)
        return self._combined(self.values - other.values, "difference", [self, other])

    def __mul__(self, factor: float) -> "TaskVector":
        return replace(
            self, values=self.values * factor, meta=self.meta | {"scaled_by": float(factor)}
        )

    __rmul__ = __mul__

    def __neg__(self) -> "TaskVector":
        return self * -1.0

    def scale(self, factor: float) -> "TaskVector":
        """Multiply the vector by a factor."""
        return self * factor

    @classmethod
    def average(cls, vectors: Sequence["TaskVector"]) -> "TaskVector":
        """Average several vectors of one model (an ensemble)."""
        if not vectors:
            raise TvlensError("no vectors to average")
        first, *rest = vectors
        if not isinstance(first, TaskVector):
            raise TvlensError(f"only TaskVectors can be averaged, not {type(first).__name__}")
        for other in rest:
            first._check_like(other)
        values = torch.stack([v.values for v in vectors]).mean(0)
        return first._combined(values, "average", vectors)

    @contextlib.contextmanager
    def applied(
        self,
        model: Any,
        *,
        layer: Integer,
        mode: Mode | None = None,
        scale: float = 1.0,
        positions: Integers = -1,
        other_model: bool = False,
    ) -> Iterator[None]:
        """Write the vector into every forward pass inside the `with` block.

        Args:
            layer: layer or layers to write at; negative ones count from the last.
            mode: "replace" the activation, "add" to it, or "add_preserving_norm"; by default that
                of the vector's method.
            scale: factor on the vector.
            positions: one position for all rows (negative: from the end of the tensor, right for
                prompts of one length), or one absolute position per row.
            other_model: allow a model of another name, such as a finetuned one.

        Raises:
            TvlensError: wrong width, layer, mode or model, or the hook never fired.
        """
        self.check(model, other_model=other_model)
        hook = self.hook(model, layer, mode=mode, scale=scale, positions=positions)
        with with_hooks(model, [hook]):
            yield

    def hook(
        self,
        model: Any,
        layer: Integer,
        *,
        mode: Mode | None = None,
        scale: float = 1.0,
        positions: Integers = -1,
    ) -> Hook:
        """The (name, function) pair that `applied` installs, for `model.run_with_hooks`."""
        mode = read_mode(mode or self.mode)
        site = Site(self.site, layer).on(model)
        if site.axes != ("batch", "pos", "d_model"):
            raise TvlensError(f"{site.component} is not one vector of the model's width")
        try:
            vector = self.values[site.layer] * float(scale)
        except (TypeError, ValueError):
            raise TvlensError(f"scale must be one number, not {scale!r}") from None
        as_integers(positions, name="positions")  # what is no position is an error before any work

        def select(activation: Tensor) -> tuple:
            return row_positions(positions, activation)

        def edit(state: Tensor) -> Tensor:
            return apply_vector(state, vector.to(state), mode)

        return write_at(site.hook(model), (select, edit))

    def check(self, model: Any, *, other_model: bool = False) -> None:
        """Raise TvlensError unless this vector fits the model."""
        check_model(model)
        if self.values.ndim != 2:
            raise TvlensError(f"a vector is [layer, d_model], not {list(self.values.shape)}")
        layers, width = self.values.shape
        if (layers, width) != (model.cfg.n_layers, model.cfg.d_model):
            raise TvlensError(
                f"the vector has {layers} layers of width {width}; {model_name(model)} has "
                f"{model.cfg.n_layers} of width {model.cfg.d_model}"
            )
        origin = self.meta.get("model")
        if origin and origin != model_name(model) and not other_model:
            raise TvlensError(
                f"the vector comes from {origin!r}, this model is {model_name(model)!r}: "
                "pass other_model=True to apply it anyway"
            )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "TaskVector":
        """Load a vector that `save` wrote.

        Raises:
            TvlensError: no such file, it is damaged, or it holds no task vector.
        """
        vector = super().load(path)
        with reading(path, "TaskVector"):
            check_value("mode", vector.mode, str, {})
            check_value("task", vector.name, str, {})
            check_value("examples", vector.examples, list[tuple[str, str]], {})
        return vector

    def _check_like(self, other: "TaskVector") -> None:
        if not isinstance(other, TaskVector):
            raise TvlensError(
                f"a TaskVector combines with a TaskVector, not with {type(other).__name__}"
            )
        if self.values.shape != other.values.shape or self.site != other.site:
            raise TvlensError(
                f"{self.name!r} at {self.site} {list(self.values.shape)} and {other.name!r} at "
                f"{other.site} {list(other.values.shape)} are vectors of different models or sites"
            )

    def _combined(self, values: Tensor, method: str, parts: Sequence["TaskVector"]) -> "TaskVector":
        examples = dict.fromkeys(pair for part in parts for pair in part.examples)
        meta = self.meta | {
            # Sets of one task are that task still.
            "task": f" {'-' if method == 'difference' else '+'} ".join(
                dict.fromkeys(part.name for part in parts)
            ),
            "method": method,
            "examples": [list(pair) for pair in examples],
            "of": [part.meta for part in parts],
        }
        return TaskVector(values, self.site, meta)
