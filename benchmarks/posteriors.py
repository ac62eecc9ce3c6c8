"""Posterior and predictive at every position: `tv.bayes.retrieval`, against a plain loop over
positions and tasks in the same precision, with all sequences at once inside it."""

import math

import torch

import tvlens as tv

from .measure import compare


def _loop(prior, length, step, predictive) -> torch.Tensor:
    """Predictives [n, length, ...] from the log-probability of token t under task k, and from what
    task k tells of the next one."""
    log_joint = prior.log().repeat(step(0, 0).shape[0], 1)
    predictives = []
    for t in range(length):
        for k in range(len(prior)):
            log_joint[:, k] += step(t, k)
        posterior = log_joint.softmax(-1)
        predictives.append(sum(predictive(t, k, posterior[:, k]) for k in range(len(prior))))
    return torch.stack(predictives, dim=1)


def _dice(family, data) -> torch.Tensor:
    p, tokens = family.probabilities.to(data.tokens.device), data.tokens
    return _loop(
        family.prior.to(p.device),
        tokens.shape[1],
        lambda t, k: p[k, tokens[:, t]].log(),
        lambda t, k, weight: weight[:, None] * p[k],
    )


def _chain(family, data) -> torch.Tensor:
    p, tokens = family.transitions.to(data.tokens.device), data.tokens
    start = torch.full_like(tokens[:, 0], 1 / family.states, dtype=p.dtype)

    def step(t, k):
        return (p[k, tokens[:, t - 1], tokens[:, t]] if t else start).log()

    return _loop(
        family.prior.to(p.device),
        tokens.shape[1],
        step,
        lambda t, k, weight: weight[:, None] * p[k, tokens[:, t]],
    )


def _regression(family, data) -> torch.Tensor:
    w, x, y = family.weights.to(data.inputs.device), data.inputs, data.targets
    constant = math.log(2 * math.pi * family.noise**2) / 2

    def step(t, k):
        return -((y[:, t] - x[:, t] @ w[k]) ** 2) / (2 * family.noise**2) - constant

    return _loop(
        family.prior.to(w.device),
        y.shape[1] - 1,
        step,
        lambda t, k, weight: weight * (x[:, t + 1] @ w[k]),
    )


CASES = {
    "dice": (tv.bayes.Dice, 129, _dice),
    "chains": (tv.bayes.Markov, 192, _chain),
    "regression": (tv.bayes.LinearRegression, 64, _regression),
}


def run(device: str) -> None:
    for name, (kind, length, loop) in CASES.items():
        family = kind(minor=128)
        data = family.sample(128, length).to(device)

        def ours(family=family, data=data) -> torch.Tensor:
            predictive = tv.bayes.retrieval(family, data).predictive
            return predictive.mean if isinstance(predictive, tv.bayes.Moments) else predictive

        def peer(family=family, data=data, loop=loop) -> torch.Tensor:
            return loop(family, data)

        print(f"  {name}: 128 sequences of {length} under {len(family.prior)} tasks")
        ours_predictive, loop_predictive = compare(ours, peer, rounds=1)
        gap = float((ours_predictive - loop_predictive).abs().max())
        assert gap < 1e-9, f"{name}: predictives differ by {gap:.1e}"
        print(f"  largest difference {gap:.1e}")
