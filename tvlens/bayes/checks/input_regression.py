"""`regress_on_inputs`: how well task and last input determine the states of a regression."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad

from ...errors import TvlensError
from .states import StateSource

# Units of the hidden layer of the neural network.
_HIDDEN_UNITS = 64


@dataclass(frozen=True)
class InputRegression:
    """Squared residuals of states, out of sample.

    Attributes:
        columns: squared residual of each state, and its squared distance from the mean state.
        null: ratios of their sums in the linear regression, with tasks permuted over sequences.
    """

    columns: Float[Tensor, "n 2"]
    null: list[float]


def regress_on_inputs(
    source: StateSource, observations: int, sequences: int, *, draws: int, seed: int
) -> tuple[InputRegression, InputRegression]:
    """Predict the states of natural sequences from task and last input, on other sequences.

    Args:
        source: states of a regression.
        observations: pairs before the last input.
        sequences: number of sequences of the fit, and of the test.
        draws: number of permutations of the tasks.

    Returns:
        A saturated linear regression (ANCOVA: intercept and slopes by task), and a neural network
        that is fitted to what it leaves.

    Raises:
        TvlensError: there are fewer than two sequences for every coefficient.
    """
    family = source.family
    needed = 2 * family.majors * (family.dim + 1)
    if sequences < needed:
        raise TvlensError(
            f"{sequences} sequences cannot fit {needed // 2} effects of task and last input: give "
            f"at least {needed}"
        )
    data = [
        family.sample(sequences, observations + 1, split="major", seed=seed + i) for i in (0, 1)
    ]
    states = [source.read_last(part).double() for part in data]
    inputs = [part.inputs[:, -1] for part in data]
    tasks = [one_hot(part.task, family.majors).double() for part in data]
    deviation = (states[1] - states[0].mean(0)).square().sum(1)
    rng = np.random.default_rng(seed)

    def squared_residual(*, has_network: bool, is_permuted: bool) -> Float[Tensor, " n"]:
        designs = []
        for task, x in zip(tasks, inputs, strict=True):
            order = rng.permutation(sequences) if is_permuted else np.arange(sequences)
            with_intercept = pad(x, (1, 0), value=1.0)
            designs.append((task[order][..., None] * with_intercept[:, None]).flatten(1))
        coefficients = torch.linalg.lstsq(designs[0], states[0], driver="gelsd").solution
        remainder = [h - design @ coefficients for h, design in zip(states, designs, strict=True)]
        if has_network:
            features = [torch.cat(pair, 1) for pair in zip(designs, inputs, strict=True)]
            remainder[1] -= _fit_network(*features, remainder[0], seed=seed)
        squared: Tensor = remainder[1].square().sum(1)
        return squared

    permuted = [squared_residual(has_network=False, is_permuted=True) for _ in range(draws)]
    null = [float(each.sum() / deviation.sum()) for each in permuted]
    residuals = [squared_residual(has_network=has, is_permuted=False) for has in (False, True)]
    linear, network = (InputRegression(torch.stack([r, deviation], 1), null) for r in residuals)
    return linear, network


def _fit_network(
    features: Float[Tensor, "n f"],
    test_features: Float[Tensor, "m f"],
    targets: Float[Tensor, "n d"],
    *,
    seed: int,
) -> Float[Tensor, "m d"]:
    """Fit a neural network with one hidden layer and predict for the test features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    scale = targets.square().mean().sqrt().clamp(min=1e-30)
    options = dict(early_stopping=True, max_iter=500, learning_rate_init=3e-3)
    network = MLPRegressor(hidden_layer_sizes=(_HIDDEN_UNITS,), random_state=seed, **options)
    scaled = (targets / scale).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        network.fit(features.numpy(), scaled if scaled.shape[1] > 1 else scaled[:, 0])
    prediction = torch.from_numpy(network.predict(test_features.numpy()))
    return scale * prediction.view(len(test_features), -1)
