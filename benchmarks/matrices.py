"""Linear maps between two models' states at nine penalties, against scikit-learn and numpy.

States as wide and layers as many as BERT-base's. What sharing is worth depends on what is compared,
so each row says what the other side does:

- one base layer to the last tuned one, the penalty chosen without refitting: scikit-learn's
  `RidgeCV`, by its default and by a singular value decomposition, which was the default up to 1.7;
- the same for every base layer, and for every pair of a base and a tuned layer;
- every base layer at every penalty, fitted afresh each time: `Ridge`;
- every base layer and every pair of layers, the penalty chosen by five folds, fitted afresh for
  each fold and penalty: `GridSearchCV` of `Ridge`;
- least squares without bias, the paper's own fit: `numpy.linalg.lstsq`.

All results are checked to be equal. Ours is one run over all that is named; of the other side's
equal pieces one is timed, and counted as often as it would be needed. Times are CPU seconds of the
process, so that others on the machine count less, and the better of two rounds. Writes
out/bench/matrices.json.
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
from tvlens.matrices import Ridge
from tvlens.matrices.folds import Folds

PAIRS, WIDTH, LAYERS, BATCH, FOLDS = 8000, 768, 12, 1600, 5
ALPHAS = np.logspace(-3, 5, 9)
ROUNDS = 2


def states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a spread of scales at every base layer; as tuned ones, these mapped, with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    scales = torch.logspace(0, -2, WIDTH)[:, None]
    x = torch.stack([normal(PAIRS, WIDTH) @ (scales * normal(WIDTH, WIDTH)) for _ in range(LAYERS)])
    y = [one @ normal(WIDTH, WIDTH) / WIDTH**0.5 + normal(PAIRS, WIDTH) for one in x]
    return x, torch.stack(y)


def summed(x: torch.Tensor, y: torch.Tensor) -> PairMoments:
    """Moments of all layers in one pass."""
    moments, rows = PairMoments(), x.shape[-2]
    for begin in range(0, rows, BATCH):
        part = slice(begin, begin + BATCH)
        moments.update(x[..., part, :], y[..., part, :])
    return moments


def to_last(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer to the last tuned one, the penalty by GCV; gives the last layer's."""
    moments = summed(x, y[-1])
    return [TaskMatrix.from_moments(moments.pair(i), ridges=ALPHAS) for i in range(len(x))][-1]


def to_every(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every pair of layers: one decomposition per base layer; gives the last pair's."""
    moments = summed(x, y)
    for i in range(len(x)):
        solution = Ridge.of(moments.pair(i))
        for j in range(len(y)):
            found = TaskMatrix.of(solution.to(j), ridges=ALPHAS)
    return found


def at_every_penalty(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    """Every base layer at every penalty; gives the last layer's weights."""
    moments = summed(x, y[-1])
    for i in range(len(x)):
        solution = Ridge.of(moments.pair(i))
        found = [solution.weight(ridge) for ridge in ALPHAS]
    return found


def by_folds(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer, the penalty by folds in order; gives the last layer's."""
    parts = [summed(x[:, f], y[-1, f]) for f in folds()]
    for i in range(len(x)):
        mine = [part.pair(i) for part in parts]
        found = TaskMatrix.from_moments(mine, ridge="kfold", ridges=ALPHAS)
    return found


def to_every_by_folds(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every pair of layers, the penalty by folds in order; gives the last pair's."""
    parts = [summed(x[:, f], y[:, f]) for f in folds()]
    for i in range(len(x)):
        shared = Folds([part.pair(i) for part in parts])
        solution = Ridge.of(shared.whole)
        for j in range(len(y)):
            errors = functools.partial(shared.errors, tuned=j)
            found = TaskMatrix.of(solution.to(j), ridge="kfold", ridges=ALPHAS, folds=errors)
    return found


def least_squares(x: torch.Tensor, y: torch.Tensor) -> TaskMatrix:
    """Every base layer without bias or penalty; gives the last layer's."""
    moments = summed(x, y[-1])
    options = dict(method="lstsq", bias=False)
    return [TaskMatrix.from_moments(moments.pair(i), **options) for i in range(len(x))][-1]


def folds() -> list[slice]:
    """Equal parts in order, as `KFold` takes them."""
    return [slice(begin, begin + PAIRS // FOLDS) for begin in range(0, PAIRS, PAIRS // FOLDS)]


def seconds(way: Callable) -> tuple[float, object]:
    """CPU seconds of the better round, and what it gave."""
    spent = []
    for _ in range(ROUNDS):
        start = time.process_time()
        found = way()
        spent.append(time.process_time() - start)
    return min(spent), found


def compare(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    """All comparisons, from the plainest to the one with most to share."""
    a, b = x[-1].double().numpy(), y[-1].double().numpy()
    one, layers = x[-1:], len(x)
    single, every = seconds(lambda: to_last(one, y)), seconds(lambda: to_last(x, y))
    searched = GridSearchCV(
        PeerRidge(),
        {"alpha": ALPHAS},
        cv=KFold(FOLDS),
        scoring="neg_mean_squared_error",
    )
    default, svd, fit, search, lstsq = (
        seconds(way)
        for way in (
            lambda: RidgeCV(ALPHAS).fit(a, b),
            lambda: RidgeCV(ALPHAS, gcv_mode="svd").fit(a, b),
            lambda: PeerRidge(ALPHAS[4]).fit(a, b),
            lambda: searched.fit(a, b),
            lambda: np.linalg.lstsq(a, b, rcond=None)[0],
        )
    )

    def row(name: str, mine: tuple, peer: tuple, times: int, check: Callable) -> dict:
        return said(name, mine[0], times * peer[0], check(mine[1], peer[1]))

    return [
        row("RidgeCV, one layer", single, default, 1, same_choice),
        row("RidgeCV by SVD, one layer", single, svd, 1, same_choice),
        row(f"RidgeCV for each of {layers} layers", every, default, layers, same_choice),
        row(f"RidgeCV by SVD for each of {layers} layers", every, svd, layers, same_choice),
        row(
            f"RidgeCV for each of {layers} x {layers} pairs of layers",
            seconds(lambda: to_every(x, y)),
            default,
            layers**2,
            same_choice,
        ),
        row(
            f"Ridge for each of {layers} layers x {len(ALPHAS)} penalties",
            seconds(lambda: at_every_penalty(x, y)),
            fit,
            layers * len(ALPHAS),
            lambda mine, peer: same(mine[4], peer.coef_.T),
        ),
        row(
            f"GridSearchCV of Ridge, {FOLDS} folds, for each of {layers} layers",
            seconds(lambda: by_folds(x, y)),
            search,
            layers,
            lambda mine, peer: same_choice(mine, peer.best_estimator_),
        ),
        row(
            f"the same for each of {layers} x {layers} pairs of layers",
            seconds(lambda: to_every_by_folds(x, y)),
            search,
            layers**2,
            lambda mine, peer: same_choice(mine, peer.best_estimator_),
        ),
        row(
            "numpy lstsq, one layer",
            seconds(lambda: least_squares(one, y)),
            lstsq,
            1,
            lambda mine, peer: same(mine.weight, peer, within=1e-6),
        ),
        row(
            f"numpy lstsq for each of {layers} layers",
            seconds(lambda: least_squares(x, y)),
            lstsq,
            layers,
            lambda mine, peer: same(mine.weight, peer, within=1e-6),
        ),
    ]


def same_choice(mine: TaskMatrix, peer: RidgeCV | PeerRidge) -> float:
    """Both chose one penalty and found one map: by how much the weights differ."""
    chosen = peer.alpha_ if hasattr(peer, "alpha_") else peer.alpha
    assert mine.ridge == chosen, (mine.ridge, chosen)
    return same(mine.weight, peer.coef_.T)


def same(mine: torch.Tensor, peer: np.ndarray, within: float = 1e-8) -> float:
    """Largest difference of any weight."""
    found = float(np.abs(mine.numpy() - peer).max())
    assert found < within, found
    return found


def said(name: str, ours_s: float, peer_s: float, difference: float) -> dict:
    """One comparison, and a line about it."""
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
        print("  scikit-learn and numpy run on the CPU: so does the comparison")
    settings = {"pairs": PAIRS, "width": WIDTH, "layers": LAYERS, "penalties": len(ALPHAS)}
    settings |= {"threads": torch.get_num_threads(), "scikit-learn": sklearn.__version__}
    print("  " + ", ".join(f"{name} {value}" for name, value in settings.items()))
    rows = compare(*states())
    path = write("out/bench/matrices.json", json.dumps(settings | {"rows": rows}, indent=1))
    print(f"  written to {path}")
