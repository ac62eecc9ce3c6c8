"""Linear maps between two models' states at nine penalties, against scikit-learn and numpy.

Width and number of layers are those of BERT-base. The speed-up depends on what is compared:

- one base layer to the last finetuned layer, penalty chosen without refitting: scikit-learn's
  `RidgeCV`, by its default and by a singular value decomposition, the default up to 1.7;
- the same for every base layer, and for every pair of a base and a finetuned layer;
- every base layer at every penalty, fitted afresh each time: `Ridge`;
- every base layer and every pair of layers, the penalty chosen by five folds, fitted afresh for
  each fold and penalty: `GridSearchCV` of `Ridge`;
- least squares without bias, the paper's own fit: `numpy.linalg.lstsq`.

All results are checked for equality. tvlens is timed over the whole task; of the peer's equal
pieces one is timed and multiplied. Times are CPU seconds of the process, the minimum of two
rounds. Writes out/bench/matrices.json.
"""

import functools
import json
import time
from collections.abc import Callable

import numpy as np
import sklearn
import torch
from sklearn.linear_model import Ridge as PeerRidge
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold

from tvlens import PairMoments, TaskMatrix
from tvlens.files import write
from tvlens.matrices import FitConfig, RidgePath
from tvlens.matrices.ridge import Folds

PAIRS, WIDTH, LAYERS, BATCH, FOLDS = 8000, 768, 12, 1600, 5
ALPHAS = np.logspace(-3, 5, 9)
ROUNDS = 2


def generate_states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Base states with a range of scales, and finetuned states as noisy linear maps of them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    scales = torch.logspace(0, -2, WIDTH)[:, None]
    x = torch.stack([normal(PAIRS, WIDTH) @ (scales * normal(WIDTH, WIDTH)) for _ in range(LAYERS)])
    y = [states @ normal(WIDTH, WIDTH) / WIDTH**0.5 + normal(PAIRS, WIDTH) for states in x]
    return x, torch.stack(y)


def sum_moments(x: torch.Tensor, y: torch.Tensor) -> PairMoments:
    """Moments of all layers in one pass."""
    moments, rows = PairMoments(), x.shape[-2]
    for begin in range(0, rows, BATCH):
        part = slice(begin, begin + BATCH)
        moments.update(x[..., part, :], y[..., part, :])
    return moments


def fit_last_target(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer to the last finetuned layer, penalty by GCV; returns the last layer's."""
    moments = sum_moments(x, y[-1])
    return [TaskMatrix.from_moments(moments.pair(i), ridges=ALPHAS) for i in range(len(x))][-1]


def fit_every_target(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every pair of layers: one decomposition per base layer; returns the last pair's."""
    moments = sum_moments(x, y)
    for i in range(len(x)):
        path = RidgePath.from_moments(moments.pair(i))
        for j in range(len(y)):
            matrix = TaskMatrix.from_path(path.for_target(j), FitConfig(ridges=ALPHAS))
    return matrix


def fit_every_penalty(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Every base layer at every penalty; returns the last layer's weights."""
    moments = sum_moments(x, y[-1])
    for i in range(len(x)):
        path = RidgePath.from_moments(moments.pair(i))
        weights = [path.weight(ridge) for ridge in ALPHAS]
    return weights


def fit_by_folds(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer, penalty by folds in order; returns the last layer's."""
    parts = [sum_moments(x[:, f], y[-1, f]) for f in split_folds()]
    for i in range(len(x)):
        folds = [part.pair(i) for part in parts]
        matrix = TaskMatrix.from_moments(folds, ridge="kfold", ridges=ALPHAS)
    return matrix


def fit_every_target_by_folds(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every pair of layers, penalty by folds in order; returns the last pair's."""
    parts = [sum_moments(x[:, f], y[:, f]) for f in split_folds()]
    for i in range(len(x)):
        folds = Folds([part.pair(i) for part in parts])
        path = RidgePath.from_moments(folds.whole)
        for j in range(len(y)):
            errors = functools.partial(folds.errors, tuned=j)
            config = FitConfig(ridge="kfold", ridges=ALPHAS)
            matrix = TaskMatrix.from_path(path.for_target(j), config, fold_errors=errors)
    return matrix


def fit_least_squares(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer without bias or penalty; returns the last layer's."""
    moments = sum_moments(x, y[-1])
    options = dict(method="lstsq", bias=False)
    return [TaskMatrix.from_moments(moments.pair(i), **options) for i in range(len(x))][-1]


def split_folds() -> list[slice]:
    """Equal parts in order, as `KFold` takes them."""
    return [slice(begin, begin + PAIRS // FOLDS) for begin in range(0, PAIRS, PAIRS // FOLDS)]


def time_call(function: Callable) -> tuple[float, object]:
    """CPU seconds, the minimum over rounds, and the result."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def compare(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    """All comparisons, from the simplest to the one that shares most work."""
    a, b = x[-1].double().numpy(), y[-1].double().numpy()
    last_layer, layers = x[-1:], len(x)
    single, every = (
        time_call(lambda: fit_last_target(last_layer, y)),
        time_call(lambda: fit_last_target(x, y)),
    )
    searched = GridSearchCV(
        PeerRidge(),
        {"alpha": ALPHAS},
        cv=KFold(FOLDS),
        scoring="neg_mean_squared_error",
    )
    default, svd, fit, search, lstsq = (
        time_call(function)
        for function in (
            lambda: RidgeCV(ALPHAS).fit(a, b),
            lambda: RidgeCV(ALPHAS, gcv_mode="svd").fit(a, b),
            lambda: PeerRidge(ALPHAS[4]).fit(a, b),
            lambda: searched.fit(a, b),
            lambda: np.linalg.lstsq(a, b, rcond=None)[0],
        )
    )

    def row(name: str, ours: tuple, peer: tuple, times: int, check: Callable) -> dict:
        return report(name, ours[0], times * peer[0], check(ours[1], peer[1]))

    return [
        row("RidgeCV, one layer", single, default, 1, compare_choice),
        row("RidgeCV by SVD, one layer", single, svd, 1, compare_choice),
        row(f"RidgeCV for each of {layers} layers", every, default, layers, compare_choice),
        row(f"RidgeCV by SVD for each of {layers} layers", every, svd, layers, compare_choice),
        row(
            f"RidgeCV for each of {layers} x {layers} pairs of layers",
            time_call(lambda: fit_every_target(x, y)),
            default,
            layers**2,
            compare_choice,
        ),
        row(
            f"Ridge for each of {layers} layers x {len(ALPHAS)} penalties",
            time_call(lambda: fit_every_penalty(x, y)),
            fit,
            layers * len(ALPHAS),
            lambda ours, peer: compare_weights(ours[4], peer.coef_.T),
        ),
        row(
            f"GridSearchCV of Ridge, {FOLDS} folds, for each of {layers} layers",
            time_call(lambda: fit_by_folds(x, y)),
            search,
            layers,
            lambda ours, peer: compare_choice(ours, peer.best_estimator_),
        ),
        row(
            f"the same for each of {layers} x {layers} pairs of layers",
            time_call(lambda: fit_every_target_by_folds(x, y)),
            search,
            layers**2,
            lambda ours, peer: compare_choice(ours, peer.best_estimator_),
        ),
        row(
            "numpy lstsq, one layer",
            time_call(lambda: fit_least_squares(last_layer, y)),
            lstsq,
            1,
            lambda ours, peer: compare_weights(ours.weight, peer, tolerance=1e-6),
        ),
        row(
            f"numpy lstsq for each of {layers} layers",
            time_call(lambda: fit_least_squares(x, y)),
            lstsq,
            layers,
            lambda ours, peer: compare_weights(ours.weight, peer, tolerance=1e-6),
        ),
    ]


def compare_choice(ours: TaskMatrix, peer: RidgeCV | PeerRidge) -> float:
    """Largest difference of any weight; the chosen penalties must be equal."""
    alpha = peer.alpha_ if hasattr(peer, "alpha_") else peer.alpha
    assert ours.ridge == alpha, (ours.ridge, alpha)
    return compare_weights(ours.weight, peer.coef_.T)


def compare_weights(ours: torch.Tensor, peer: np.ndarray, tolerance: float = 1e-8) -> float:
    """Largest difference of any weight."""
    difference = float(np.abs(ours.numpy() - peer).max())
    assert difference < tolerance, difference
    return difference


def report(name: str, ours_s: float, peer_s: float, difference: float) -> dict:
    """Print one comparison and return it as plain data."""
    ratio = peer_s / ours_s
    print(
        f"  {name:54} ours {ours_s:6.2f} s   peer {peer_s:7.1f} s   {ratio:5.1f} times   "
        f"weights differ by {difference:.0e}",
        flush=True,
    )
    times = {"against": name, "ours_s": ours_s, "peer_s": peer_s, "ratio": ratio}
    return times | {"difference": difference}


def run(device: str) -> None:
    if device != "cpu":
        print("  scikit-learn and numpy run on the CPU, and so does the comparison")
    settings = {"pairs": PAIRS, "width": WIDTH, "layers": LAYERS, "penalties": len(ALPHAS)}
    settings |= {"threads": torch.get_num_threads(), "scikit-learn": sklearn.__version__}
    print("  " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    rows = compare(*generate_states())
    path = write("out/bench/matrices.json", json.dumps(settings | {"rows": rows}, indent=1))
    print(f"  written to {path}")
