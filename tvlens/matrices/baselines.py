"""Baselines of a task matrix, with the same data at the same layer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from .examples import Head, LayerExamples, predict_classes
from .matrix import TaskMatrix
from .moments import PairMoments
from .ridge import COARSE_GRID, RidgePath

# Inverse penalties of the logistic probe, for standardized features.
_INVERSE_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class BaselineData:
    """Inputs of a baseline: the examples at one layer, and the finetuned model's head.

    Attributes:
        train, validation, test: to fit to, to choose penalties on, to score on.
        head: from finetuned states to logits.
        seed: seed of the permutation.
    """

    train: LayerExamples
    validation: LayerExamples
    test: LayerExamples
    head: Head
    seed: int = 0


Baseline = Callable[[BaselineData], Int[Tensor, " n"]]


def finetuned(data: BaselineData) -> Int[Tensor, " n"]:
    """The finetuned model itself, an upper reference."""
    return predict_classes(data.head, data.test.y, data.train.y)


def identity(data: BaselineData) -> Int[Tensor, " n"]:
    """W = I: the finetuned head on the base states."""
    _check_square(data.train, "W = I")
    return predict_classes(data.head, data.test.x, data.train.y)


def mean_shift(data: BaselineData) -> Int[Tensor, " n"]:
    """W = I with a bias: the finetuned head on base states shifted by the difference of means."""
    _check_square(data.train, "a mean shift")
    x, y, _ = data.train
    shifted = data.test.x.double() + (y.double().mean(0) - x.double().mean(0))
    return predict_classes(data.head, shifted, y)


def procrustes(data: BaselineData) -> Int[Tensor, " n"]:
    """A rotation, a scale and a bias instead of an unconstrained matrix."""
    x, y, _ = data.train
    matrix = TaskMatrix.from_states(x, y, method="procrustes")
    return predict_classes(data.head, matrix.predict(data.test.x.double()), y)


def permuted(data: BaselineData) -> Int[Tensor, " n"]:
    """The null: a matrix fitted to the same states in randomly permuted pairs."""
    x, y, _ = data.train
    order = torch.from_numpy(np.random.default_rng(data.seed).permutation(len(y)))
    matrix = TaskMatrix.from_states(x, y[order])
    return predict_classes(data.head, matrix.predict(data.test.x.double()), y)


def constant(data: BaselineData) -> Int[Tensor, " n"]:
    """W = 0: the finetuned head on the mean finetuned state, for every input."""
    y = data.train.y
    return predict_classes(data.head, y.double().mean(0).expand(len(data.test.y), -1), y)


def majority(data: BaselineData) -> Int[Tensor, " n"]:
    """The most common label of train."""
    return torch.full_like(data.test.labels.cpu(), int(data.train.labels.mode().values))


def ridge_probe(data: BaselineData) -> Int[Tensor, " n"]:
    """A linear probe on the base states in closed form: ridge regression to one-hot labels.

    The penalty is the one of highest validation accuracy, the larger of equals.
    """
    return _fit_ridge_probe(data)[0]


def ridge_probe_accuracy(data: BaselineData) -> float:
    """Validation accuracy of the ridge probe at its best penalty."""
    return _fit_ridge_probe(data)[1]


def logistic_probe(data: BaselineData) -> Int[Tensor, " n"]:
    """A linear probe by logistic regression on standardized base states (scikit-learn).

    The penalty is the one of highest validation accuracy, the larger of equals.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, _, labels = data.train
    if len(labels.unique()) == 1:
        return majority(data)
    scaler = StandardScaler().fit(_to_numpy(x))
    train, validation, test = (
        scaler.transform(_to_numpy(part.x)) for part in (data.train, data.validation, data.test)
    )
    best_score, prediction = -1.0, None
    probe = LogisticRegression(max_iter=1000, warm_start=True)
    for inverse in _INVERSE_PENALTIES:  # from the largest penalty down, each warm-started
        probe.set_params(C=inverse).fit(train, labels.numpy(force=True))
        score = float(probe.score(validation, data.validation.labels.numpy(force=True)))
        if score > best_score:
            best_score, prediction = score, probe.predict(test)
    return torch.from_numpy(prediction).long()


# Baselines by their name in reports.
BASELINES: dict[str, Baseline] = {
    "finetuned": finetuned,
    "ridge_probe": ridge_probe,
    "logistic_probe": logistic_probe,
    "identity": identity,
    "mean_shift": mean_shift,
    "procrustes": procrustes,
    "permuted": permuted,
    "constant": constant,
    "majority": majority,
}


def _fit_ridge_probe(data: BaselineData) -> tuple[Int[Tensor, " n"], float]:
    """Predicted test classes, and validation accuracy."""
    x, _, labels = data.train
    classes = labels.unique()
    one_hot = (labels[:, None] == classes).double()
    if len(classes) == 1:
        prediction = majority(data)
        return prediction, float((data.validation.labels == classes[0]).double().mean())
    path = RidgePath.from_moments(PairMoments().update(x, one_hot))
    best_score, best_ridge = -1.0, 0.0
    for ridge in path.grid(COARSE_GRID):
        scores = _probe_scores(path, float(ridge), data.validation.x)
        is_right = classes[scores.argmax(-1)] == data.validation.labels
        score = float(is_right.double().mean())
        if score >= best_score:
            best_score, best_ridge = score, float(ridge)
    return classes[_probe_scores(path, best_ridge, data.test.x).argmax(-1)].cpu(), best_score


def _probe_scores(
    path: RidgePath, ridge: float, states: Float[Tensor, "n d"]
) -> Float[Tensor, "n classes"]:
    weight = path.weight(ridge)
    return states.to(weight) @ weight + path.intercept(weight)


def _to_numpy(states: Float[Tensor, "n d"]) -> np.ndarray:
    return states.double().numpy(force=True)


def _check_square(examples: LayerExamples, name: str) -> None:
    widths = examples.x.shape[-1], examples.y.shape[-1]
    if widths[0] != widths[1]:
        raise TvlensError(f"{name} needs states of one width, not {widths[0]} and {widths[1]}")
