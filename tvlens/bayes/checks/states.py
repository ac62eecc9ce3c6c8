"""`StateSource`: states of a layer, or of an ideal model, at the positions of prediction."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from ...activations import collect
from ...errors import TvlensError, unknown
from ...integers import require_at_least
from ...models.loading import model_name
from ...sites import Site
from ..ideal_states import KINDS, ReferenceKind, last_observation, reference_states
from ..regression import LinearRegression
from ..sequences import Data, Pairs, data_shape
from .model_predictions import inputs_within_context, max_length, require_compatible

# Sequences whose states are computed at once.
_BATCH_SIZE = 256
# Dimensions of the posterior over many minor tasks in an ideal state.
_MINOR_DIMENSIONS = 64


@dataclass(frozen=True)
class StateSource(ABC):
    """Whatever has a state at every position from which an observation is predicted.

    Entry t of the states is the position that predicts observation t + 1: token t, or the input
    x_t of a regression, which has read t complete pairs.

    Attributes:
        family: the family whose sequences are read.
        name: of the model, or of the ideal model.
        layer: the block whose output is read, counted from 0; 0 for an ideal model.
        length: the context: tokens, or pairs, of which the last target is not read.
    """

    family: Any
    name: str
    layer: int
    length: int

    @property
    def longest(self) -> int:
        """The most observations that a state can have read."""
        return self.length - isinstance(self.family, LinearRegression)

    @property
    @abstractmethod
    def width(self) -> int:
        """Number of entries of a state."""

    @abstractmethod
    def read(self, data: Data) -> Float[Tensor, "n position d"]:
        """Read the states at every position of prediction.

        Raises:
            TvlensError: the sequences exceed the context.
        """

    @abstractmethod
    def read_last(self, data: Data) -> Float[Tensor, "n d"]:
        """Read the states at the last position only."""


@dataclass(frozen=True)
class ModelStates(StateSource):
    """Outputs of one block of a model."""

    model: Any

    @property
    def width(self) -> int:
        """Number of entries of a state."""
        return int(self.model.cfg.d_model)

    def read(self, data: Data) -> Float[Tensor, "n position d"]:
        """Read the states at every position of prediction."""
        inputs = inputs_within_context(self.model, data)
        step = 2 if isinstance(data, Pairs) else 1
        return self._collect(inputs, list(range(0, inputs.shape[1], step)))

    def read_last(self, data: Data) -> Float[Tensor, "n d"]:
        """Read the states at the last position only."""
        return self._collect(inputs_within_context(self.model, data), [-1])[:, 0]

    def _collect(self, inputs: Tensor, positions: list[int]) -> Float[Tensor, "n position d"]:
        options = dict(positions=positions, batch_size=_BATCH_SIZE, progress=False)
        layers = collect(self.model, inputs, "resid_post", layers=self.layer, **options)
        (states,) = layers.tensors.values()
        return states


@dataclass(frozen=True)
class ReferenceStates(StateSource):
    """States of an ideal model, as `reference_states` computes them.

    Where retrieval knows more than 64 minor tasks, their directions are random vectors in 64
    dimensions, which bounds the width of the states.
    """

    kind: ReferenceKind

    @property
    def width(self) -> int:
        """Number of entries of a state."""
        return self.read_last(self.family.sample(1, 1, split="major")).shape[1]

    def read(self, data: Data) -> Float[Tensor, "n position d"]:
        """Compute the states at every position of prediction."""
        return torch.cat(list(self._batches(data)))

    def read_last(self, data: Data) -> Float[Tensor, "n d"]:
        """Compute the states at the last position only."""
        return torch.cat([states[:, -1] for states in self._batches(data)])

    def _batches(self, data: Data) -> Iterator[Float[Tensor, "n position d"]]:
        n, length = data_shape(data)
        if length > self.length:
            raise TvlensError(
                f"these sequences have {length} observations; {self.name} has a context of "
                f"{self.length}"
            )
        for start in range(0, n, _BATCH_SIZE):
            batch = data[start : start + _BATCH_SIZE]
            states = reference_states(self.family, batch, kind=self.kind)
            yield self._project_minors(states) if self.kind == "retrieval" else states

    def _project_minors(
        self, states: Float[Tensor, "n position d"]
    ) -> Float[Tensor, "n position m"]:
        majors, minors = self.family.majors, self.family.minors
        if minors <= _MINOR_DIMENSIONS:
            return states
        rng = np.random.default_rng(0)
        directions = rng.standard_normal((minors, _MINOR_DIMENSIONS)) / _MINOR_DIMENSIONS**0.5
        parts = states.split([majors, minors, states.shape[-1] - majors - minors], -1)
        return torch.cat([parts[0], parts[1] @ torch.from_numpy(directions), parts[2]], -1)


def state_source(
    model: Any | ReferenceKind, family: Any, *, layer: int = -1, length: int | None = None
) -> StateSource:
    """Return the states of a model's layer, or of an ideal model.

    Args:
        model: a model, or the name of an ideal one: "retrieval", "learner", "label", "readout".
        family: the family whose sequences are read.
        layer: the block whose output is read; an ideal model has layer 0 only.
        length: context of an ideal model: tokens, or pairs. A model has its own.

    Raises:
        TvlensError: the vocabularies of model and family differ, the layer does not exist, the name
            is unknown, or an ideal model has no length.
    """
    if not isinstance(model, str):
        if length is not None:
            raise TvlensError("length is the context of an ideal model; this one has its own")
        require_compatible(model, family)
        Site("resid_post", layer).on(model)
        context = max_length(model, family)
        return ModelStates(family, model_name(model), layer % model.cfg.n_layers, context, model)
    if model not in KINDS:
        raise unknown("kind of reference states", model, KINDS)
    if layer not in (-1, 0):
        raise TvlensError(f"layer {layer} does not exist: the ideal model {model!r} has layer 0")
    if length is None:
        raise TvlensError(f"the ideal model {model!r} needs length=, its context")
    require_at_least(2, length=length)
    return ReferenceStates(family, model, 0, length, model)


def ruled_layers(n_layers: int) -> tuple[int, int]:
    """Return the blocks at half and at two thirds of the depth, at which claims are tested.

    The rule precedes every result. The last layer is no choice: where logits are linear in the
    state, the data alone determine its geometry.

    Raises:
        TvlensError: there is one layer only.

    Example:
        >>> from tvlens.bayes.checks.states import ruled_layers
        >>> ruled_layers(6), ruled_layers(4), ruled_layers(16)
        ((2, 3), (1, 2), (7, 10))
    """
    if n_layers < 2:
        raise TvlensError(f"a layer rule needs at least two layers, not {n_layers}")
    return -(-n_layers // 2) - 1, -(-2 * n_layers // 3) - 1


def last_features(family: Any, data: Data) -> Float[Tensor, "n position f"]:
    """Return an intercept and the last observation, for regressions at every position."""
    return pad(last_observation(family, data), (1, 0), value=1.0)


def fit_by_position(
    features: Float[Tensor, "n position f"], values: Float[Tensor, "n position d"]
) -> Float[Tensor, "position f d"]:
    """Fit values by least squares at every position; of dependent features, the smallest fit."""
    gram = einsum(features, features, "n position f, n position g -> position f g")
    moments = einsum(features, values, "n position f, n position d -> position f d")
    inverse: Tensor = torch.linalg.pinv(gram, rtol=1e-10, hermitian=True)
    return inverse @ moments


def predict_by_position(
    features: Float[Tensor, "n position f"], coefficients: Float[Tensor, "position f d"]
) -> Float[Tensor, "n position d"]:
    """Compute the values that coefficients of `fit_by_position` predict."""
    return einsum(features, coefficients, "n position f, position f d -> n position d")
