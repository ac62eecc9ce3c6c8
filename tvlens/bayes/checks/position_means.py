"""`PositionMeans`: mean and token effects of a model's states at every position."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from ...activations import collect
from ...geometry import Effects
from ..references import predict_in_batches, retrieval
from ..sequences import Data, Pairs
from .model_predictions import inputs_within_context, model_inputs


@dataclass(frozen=True)
class PositionMeans:
    """States without a task part: a mean and the effects of what is read, at every position.

    Attributes:
        mean: mean over tokens, by position.
        effects: effect of each token, or of each component of an input vector, by position.
        center: mean of the one-hot tokens, or of the input vectors, by position.
    """

    mean: Float[Tensor, "pos d"]
    effects: Float[Tensor, "pos feature d"]
    center: Float[Tensor, "pos feature"]

    def at(self, data: Data) -> Float[Tensor, "n pos d"]:
        """Return the mean state for the token, or input vector, at each position."""
        features = _read_features(data, self.center.shape[1])
        length = features.shape[1]
        offsets = (features - self.center[:length]).transpose(0, 1) @ self.effects[:length]
        return self.mean[:length] + offsets.transpose(0, 1)


def read_all_states(model: Any, data: Data, *, layer: int) -> Float[Tensor, "n pos d"]:
    """Read a block's output at every position, in float64."""
    options = dict(layers=layer, batch_size=256, progress=False)
    inputs = inputs_within_context(model, data)
    (states,) = collect(model, inputs, "resid_post", **options).tensors.values()
    return states.double()


def fit_position_means(
    model: Any, family: Any, data: Data, *, layer: int, effects: Effects
) -> PositionMeans:
    """Fit mean and token effects at every position by least squares.

    The task part, the task vectors weighted by the Bayesian posterior over the major tasks, is
    subtracted from the states before, because tokens are correlated with tasks. A token that does
    not occur at a position has the mean effect of the others.

    Args:
        data: sequences with their tasks, in the order of their sampling.
        layer: the block whose output is read.
        effects: result of `task_effects` at the same layer.
    """
    posterior = predict_in_batches(retrieval, family, data).posterior[..., : family.majors]
    if isinstance(data, Pairs):
        posterior = interleave_posterior(posterior, family.prior[: family.majors])
    states = read_all_states(model, data, layer=layer) - posterior @ effects.task.double()
    features = _read_features(data, int(model.cfg.d_vocab))
    mean, center = states.mean(0), features.mean(0)
    solution = [
        torch.linalg.pinv(x, rtol=1e-6) @ y
        for x, y in zip((features - center).unbind(1), (states - mean).unbind(1), strict=True)
    ]
    return PositionMeans(mean, torch.stack(solution), center)


def _read_features(data: Data, count: int) -> Float[Tensor, "n pos feature"]:
    """Return one-hot tokens, or the input vectors of a regression."""
    inputs = model_inputs(data)
    return (inputs if isinstance(data, Pairs) else one_hot(inputs.long(), count)).double()


def interleave_posterior(
    posterior: Float[Tensor, "n length k"], prior: Float[Tensor, " k"]
) -> Float[Tensor, "n pos k"]:
    """Return the posterior at each x, before its pair is complete, and at each y but the last."""
    before = torch.cat([prior.expand(len(posterior), 1, -1), posterior[:, :-1]], 1)
    return torch.stack([before, posterior], 2).flatten(1, 2)[:, :-1]
