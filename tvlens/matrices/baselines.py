"""What a task matrix has to beat, or reach, with the same data at the same layer."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from .examples import Head, Pairs, decide
from .matrix import TaskMatrix
from .moments import PairMoments
from .ridge import COARSE_GRID, Ridge

# Inverse penalties of the logistic probe, for standardised features.
_LOGISTIC = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True)
class Setting:
    """What every method is given: one layer, three parts, and the finetuned model's head.

    Attributes:
        train, select, test: to fit to, to choose settings by, to decide on.
        head: logits from tuned states.
        seed: of whatever is random.
    """

    train: Pairs
    select: Pairs
    test: Pairs
    head: Head
    seed: int = 0


Method = Callable[[Setting], Int[Tensor, " n"]]


def finetuned(setting: Setting) -> Int[Tensor, " n"]:
    """The finetuned model itself: the ceiling."""
    return decide(setting.head, setting.test.y, setting.train.y)


def identity(setting: Setting) -> Int[Tensor, " n"]:
    """W = I: the finetuned head on the base states as they are."""
    _check_square(setting.train, "W = I")
    return decide(setting.head, setting.test.x, setting.train.y)


def mean_shift(setting: Setting) -> Int[Tensor, " n"]:
    """W = I with a bias: the finetuned head on base states moved by the difference of the means."""
    _check_square(setting.train, "a mean shift")
    x, y, _ = setting.train
    moved = setting.test.x.double() + (y.double().mean(0) - x.double().mean(0))
    return decide(setting.head, moved, y)


def procrustes(setting: Setting) -> Int[Tensor, " n"]:
    """A rotation, a scale and a bias in place of a free matrix."""
    x, y, _ = setting.train
    matrix = TaskMatrix.from_states(x, y, method="procrustes")
    return decide(setting.head, matrix.predict(setting.test.x.double()), y)


def permuted(setting: Setting) -> Int[Tensor, " n"]:
    """The null: a matrix fitted to the same states in pairs drawn at random."""
    x, y, _ = setting.train
    order = torch.from_numpy(np.random.default_rng(setting.seed).permutation(len(y)))
    matrix = TaskMatrix.from_states(x, y[order])
    return decide(setting.head, matrix.predict(setting.test.x.double()), y)


def constant(setting: Setting) -> Int[Tensor, " n"]:
    """W = 0: the finetuned head on the mean tuned state, whatever the input."""
    y = setting.train.y
    return decide(setting.head, y.double().mean(0).expand(len(setting.test.y), -1), y)


def majority(setting: Setting) -> Int[Tensor, " n"]:
    """The most common label of train."""
    return torch.full_like(setting.test.labels.cpu(), int(setting.train.labels.mode().values))


def ridge_probe(setting: Setting) -> Int[Tensor, " n"]:
    """A linear probe on the base states in closed form: ridge regression to one-hot labels.

    The penalty is the one of highest accuracy on select, the larger of equals.
    """
    return _ridge_probe(setting)[0]


def ridge_probe_accuracy(setting: Setting) -> float:
    """Accuracy of the ridge probe on select, at its best penalty."""
    return _ridge_probe(setting)[1]


def logistic_probe(setting: Setting) -> Int[Tensor, " n"]:
    """A linear probe by logistic regression on standardised base states (scikit-learn).

    The penalty is the one of highest accuracy on select, the larger of equals.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    x, _, labels = setting.train
    if len(labels.unique()) == 1:
        return majority(setting)
    scaler = StandardScaler().fit(_array(x))
    train, select, test = (scaler.transform(_array(p.x)) for p in _parts(setting))
    best, kept = -1.0, None
    probe = LogisticRegression(max_iter=1000, warm_start=True)
    for inverse in _LOGISTIC:  # from the largest penalty down, each from the last one's solution
        probe.set_params(C=inverse).fit(train, labels.numpy(force=True))
        score = float(probe.score(select, setting.select.labels.numpy(force=True)))
        if score > best:
            best, kept = score, probe.predict(test)
    return torch.from_numpy(kept).long()


# Every baseline by the name it has in reports.
BASELINES: dict[str, Method] = {
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


def _ridge_probe(setting: Setting) -> tuple[Int[Tensor, " n"], float]:
    x, _, labels = setting.train
    classes = labels.unique()
    one_hot = (labels[:, None] == classes).double()
    if len(classes) == 1:
        decisions = majority(setting)
        return decisions, float((setting.select.labels == classes[0]).double().mean())
    solution = Ridge.of(PairMoments().update(x, one_hot))
    best, kept = -1.0, 0.0
    for ridge in solution.grid(COARSE_GRID):
        found = _scores(solution, float(ridge), setting.select.x)
        score = float((classes[found.argmax(-1)] == setting.select.labels).double().mean())
        if score >= best:
            best, kept = score, float(ridge)
    return classes[_scores(solution, kept, setting.test.x).argmax(-1)].cpu(), best


def _scores(
    solution: Ridge, ridge: float, states: Float[Tensor, "n d"]
) -> Float[Tensor, "n classes"]:
    weight = solution.weight(ridge)
    return states.to(weight) @ weight + solution.intercept(weight)


def _parts(setting: Setting) -> tuple[Pairs, Pairs, Pairs]:
    return setting.train, setting.select, setting.test


def _array(states: Float[Tensor, "n d"]) -> np.ndarray:
    return states.double().numpy(force=True)


def _check_square(pairs: Pairs, name: str) -> None:
    widths = pairs.x.shape[-1], pairs.y.shape[-1]
    if widths[0] != widths[1]:
        raise TvlensError(f"{name} needs states of one width, not {widths[0]} and {widths[1]}")
