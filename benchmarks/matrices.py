"""Ridge maps of all layers of a model at nine penalties, against scikit-learn and numpy.

States as wide and layers as many as BERT-base's. Three comparisons, each of equal results: one
base layer to the last tuned one against `RidgeCV`, which chooses among the same penalties without
refitting; all base layers against a `RidgeCV` each, of which one is timed; least squares against
`numpy.linalg.lstsq`. Times are CPU seconds of the process, so that others on the machine count
less, and the better of two rounds. Writes out/bench/matrices.json.
"""

import json
import time

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from tvlens import PairMoments, TaskMatrix
from tvlens.files import write

PAIRS, WIDTH, LAYERS, BATCH = 8000, 768, 12, 1000
ALPHAS = np.logspace(-3, 5, 9)
ROUNDS = 2


def states(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """States of a spread of scales at every base layer; the first, mapped, with noise."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    scales = torch.logspace(0, -2, WIDTH)[:, None]
    x = torch.stack([normal(PAIRS, WIDTH) @ (scales * normal(WIDTH, WIDTH)) for _ in range(LAYERS)])
    return x, x[0] @ normal(WIDTH, WIDTH) / WIDTH**0.5 + normal(PAIRS, WIDTH)


def ours(x: torch.Tensor, y: torch.Tensor) -> list[TaskMatrix]:
    """Every base layer to the last tuned one: one pass, one eigendecomposition each."""
    moments = PairMoments()
    for begin in range(0, PAIRS, BATCH):
        moments.update(x[:, begin : begin + BATCH], y[begin : begin + BATCH])
    return [TaskMatrix.from_moments(moments.pair(i), ridges=ALPHAS) for i in range(len(x))]


def gap(matrix: TaskMatrix, weight: np.ndarray) -> float:
    """Largest difference of any weight."""
    return float(np.abs(matrix.weight.numpy() - weight).max())


def timed(*ways) -> tuple[list[float], list]:
    """CPU seconds of each way, run in turn, and what they gave."""
    results, seconds = [None] * len(ways), [[] for _ in ways]
    for _ in range(ROUNDS):
        for i, way in enumerate(ways):
            start = time.process_time()
            results[i] = way()
            seconds[i].append(time.process_time() - start)
    return [min(spent) for spent in seconds], results


def ridge(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    """One layer against one fit; all layers against as many fits as the one that was timed."""
    a, b = x[0].double().numpy(), y.double().numpy()
    (one_s, all_s, peer_s), (one, every, peer) = timed(
        lambda: ours(x[:1], y), lambda: ours(x, y), lambda: RidgeCV(ALPHAS).fit(a, b)
    )
    return [
        row("RidgeCV, one layer", one_s, peer_s, check(one[0], peer)),
        row(f"RidgeCV, {len(x)} layers", all_s, len(x) * peer_s, check(every[0], peer)),
    ]


def least_squares(x: torch.Tensor, y: torch.Tensor) -> list[dict]:
    """One layer without bias or penalty, as the paper fits."""
    a, b = x[0].double().numpy(), y.double().numpy()

    def fitted() -> TaskMatrix:
        moments = PairMoments().update(x[0], y)
        return TaskMatrix.from_moments(moments, method="lstsq", bias=False)

    (mine_s, peer_s), (mine, weight) = timed(fitted, lambda: np.linalg.lstsq(a, b, rcond=None)[0])
    assert gap(mine, weight) < 1e-6, gap(mine, weight)
    return [row("numpy lstsq, one layer", mine_s, peer_s, gap(mine, weight))]


def check(mine: TaskMatrix, peer: RidgeCV) -> float:
    """Both chose one penalty and found one map: by how much the weights differ."""
    assert mine.ridge == peer.alpha_, (mine.ridge, peer.alpha_)
    found = gap(mine, peer.coef_.T)
    assert found < 1e-8, found
    return found


def row(name: str, ours_s: float, peer_s: float, difference: float) -> dict:
    """One comparison, and a line about it."""
    ratio = peer_s / ours_s
    print(
        f"  {name:24} ours {ours_s:7.2f} s   peer {peer_s:8.2f} s   {ratio:6.1f} times   "
        f"weights differ by {difference:.0e}",
        flush=True,
    )
    times = {"against": name, "ours_s": ours_s, "peer_s": peer_s, "ratio": ratio}
    return times | {"difference": difference}


def run(device: str) -> None:
    if device != "cpu":
        print("  scikit-learn and numpy run on the CPU: so does the comparison")
    print(f"  {PAIRS} pairs, {WIDTH} dimensions, {LAYERS} layers, {len(ALPHAS)} penalties")
    x, y = states()
    rows = [*ridge(x, y), *least_squares(x, y)]
    settings = {"pairs": PAIRS, "width": WIDTH, "layers": LAYERS, "penalties": len(ALPHAS)}
    settings["threads"] = torch.get_num_threads()
    path = write("out/bench/matrices.json", json.dumps(settings | {"rows": rows}, indent=1))
    print(f"  written to {path}")
