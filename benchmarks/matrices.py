"""Ridge maps between all layers of two models, at nine penalties, against scikit-learn and numpy.

States as wide as MiniLM's. Three comparisons, each of equal results: one base layer to one tuned
layer against `RidgeCV`, which chooses among the same penalties without refitting; all pairs of
layers against a `RidgeCV` each; least squares against `numpy.linalg.lstsq`. Times are CPU seconds
of the process, so that others on the machine do not count. Writes out/bench/matrices.json.
"""

import json
import statistics
import time

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from tvlens import PairMoments, TaskMatrix
from tvlens.files import write
from tvlens.matrices import Ridge

PAIRS, WIDTH, LAYERS, BATCH = 4000, 384, 6, 1000
ALPHAS = np.logspace(-3, 5, 9)
ROUNDS = 3


def states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a spread of scales at every base layer, and what follows from them with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    scales = torch.logspace(0, -2, WIDTH)[:, None]
    x = torch.stack([normal(PAIRS, WIDTH) @ (scales * normal(WIDTH, WIDTH)) for _ in range(LAYERS)])
    y = x @ normal(LAYERS, WIDTH, WIDTH) / WIDTH**0.5 + normal(LAYERS, PAIRS, WIDTH)
    return x, y


def ours(x: torch.Tensor, y: torch.Tensor) -> list[list[TaskMatrix]]:
    """Every base layer to every target: one pass, one eigendecomposition per base layer."""
    moments = PairMoments()
    for begin in range(0, PAIRS, BATCH):
        moments.update(x[:, begin : begin + BATCH], y[:, begin : begin + BATCH])
    solutions = [Ridge.of(moments.pair(i)) for i in range(len(x))]
    return [[TaskMatrix.of(s.to(j), ridges=ALPHAS) for j in range(len(y))] for s in solutions]


def gap(matrix: TaskMatrix, weight: np.ndarray) -> float:
    """Largest difference of any weight."""
    return float(np.abs(matrix.weight.numpy() - weight).max())


def timed(*ways) -> tuple[list[float], list]:
    """Median CPU seconds of each way, run in turn after a warm-up, and what they gave."""
    results, seconds = [way() for way in ways], [[] for _ in ways]
    for _ in range(ROUNDS):
        for way, spent in zip(ways, seconds, strict=True):
            start = time.process_time()
            way()
            spent.append(time.process_time() - start)
    return [statistics.median(spent) for spent in seconds], results


def one_layer(x: torch.Tensor, y: torch.Tensor) -> dict:
    """The first base layer to the last target."""
    a, b = x[0].double().numpy(), y[-1].double().numpy()
    found, (mine, peer) = timed(
        lambda: ours(x[:1], y[-1:])[0][0], lambda: RidgeCV(ALPHAS).fit(a, b)
    )
    return row("RidgeCV, one layer", found, check(mine, peer))


def every_pair(x: torch.Tensor, y: torch.Tensor) -> dict:
    """All base layers to all targets, against a refit for each; one of these refits is timed."""
    a, b = x[1].double().numpy(), y[2].double().numpy()
    (mine_s, peer_s), (mine, peer) = timed(lambda: ours(x, y), lambda: RidgeCV(ALPHAS).fit(a, b))
    pairs = len(x) * len(y)
    found = row(f"RidgeCV, {pairs} layer pairs", [mine_s, pairs * peer_s], check(mine[1][2], peer))
    return found | {"refits": pairs, "refits timed": 1}


def least_squares(x: torch.Tensor, y: torch.Tensor) -> dict:
    """The first base layer to the last target, without bias or penalty, as the paper fits."""
    a, b = x[0].double().numpy(), y[-1].double().numpy()

    def fitted() -> TaskMatrix:
        moments = PairMoments().update(x[0], y[-1])
        return TaskMatrix.from_moments(moments, method="lstsq", bias=False)

    found, (mine, weight) = timed(fitted, lambda: np.linalg.lstsq(a, b, rcond=None)[0])
    assert gap(mine, weight) < 1e-6, gap(mine, weight)
    return row("numpy lstsq, one layer", found, gap(mine, weight))


def check(mine: TaskMatrix, peer: RidgeCV) -> float:
    """Both chose one penalty and found one map: by how much the weights differ."""
    assert mine.ridge == peer.alpha_, (mine.ridge, peer.alpha_)
    found = gap(mine, peer.coef_.T)
    assert found < 1e-8, found
    return found


def row(name: str, seconds: list[float], difference: float) -> dict:
    """One comparison, and a line about it."""
    ratio = seconds[1] / seconds[0]
    print(
        f"  {name:38} ours {seconds[0]:7.3f} s   peer {seconds[1]:8.3f} s   {ratio:6.1f} times   "
        f"weights differ by {difference:.0e}",
        flush=True,
    )
    return {
        "against": name,
        "ours_s": seconds[0],
        "peer_s": seconds[1],
        "ratio": ratio,
        "difference": difference,
    }


def run(device: str) -> None:
    if device != "cpu":
        print("  scikit-learn and numpy run on the CPU: so does the comparison")
    print(f"  {PAIRS} pairs, {WIDTH} dimensions, {LAYERS} layers, {len(ALPHAS)} penalties")
    x, y = states()
    rows = [way(x, y) for way in (one_layer, every_pair, least_squares)]
    settings = {"pairs": PAIRS, "width": WIDTH, "layers": LAYERS, "penalties": len(ALPHAS)}
    settings["threads"] = torch.get_num_threads()
    path = write("out/bench/matrices.json", json.dumps(settings | {"rows": rows}, indent=1))
    print(f"  written to {path}")
