"""One pass over the training pictures, and how well names are told after it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..data import step_seed
from .captions import TEMPLATES, Names, Phrase, loss, named
from .hands import lent
from .views import States


def plan_of(
    epoch: int, count: int, batch_size: int, views: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Rows, their views and the phrase of every batch: every row once."""
    rng = np.random.default_rng(step_seed(seed, epoch))
    order, looks = rng.permutation(count), rng.integers(views, size=count)
    starts = range(0, count, batch_size)
    said = rng.integers(len(TEMPLATES), size=len(starts)).tolist()
    parts = ((order[i : i + batch_size], looks[i : i + batch_size]) for i in starts)
    return [(*part, phrase) for part, phrase in zip(parts, said, strict=True)]


def pass_over(
    model: Any,
    optimizer: torch.optim.Optimizer,
    seen: States,
    names: Names,
    phrases: Sequence[Phrase],
    pairs: np.ndarray,
    plan: Sequence[tuple[np.ndarray, np.ndarray, int]],
    rates: Sequence[float],
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the training pictures, in hands that others lend; returns the mean loss."""
    model.projector.train()
    total = 0.0
    for k, ((rows, looks, said), rate) in enumerate(zip(plan, rates, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        states = seen[rows, looks].float() + lent(seen, pairs, len(rows), seed=(seed, k))
        soft = model.projector(states.to(model.device))
        cost = loss(model, soft, phrases[said], [names[row] for row in rows])
        cost.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += len(rows) * cost.item()
        bar.update()
        bar.set_postfix(loss=f"{cost.item():.3f}")
    return total / sum(len(rows) for rows, _, _ in plan)


def accuracies(
    model: Any,
    seen: Mapping[str, States],
    names: Mapping[str, Names],
    kinds: Sequence[str],
    phrase: Phrase,
    *,
    batch_size: int = 64,
) -> dict[str, float]:
    """Share of whole names right in each of the test parts, from the picture on white.

    Args:
        kinds: of the pictures under "new_artist", whose shares are given apart too.
    """
    model.projector.eval()
    found = {}
    for part in ("new_artist", "new_things", "new_both"):
        right = []
        for start in range(0, len(seen[part]), batch_size):
            rows = slice(start, start + batch_size)
            with torch.no_grad():
                soft = model.projector(seen[part][rows, 0].to(model.device).float())
            right.append(named(model, soft, phrase, names[part][rows]))
        right = torch.cat(right)
        found[part] = _share(right)
        if part == "new_artist":
            for kind in sorted(set(kinds)):
                found[kind] = _share(right[torch.tensor([k == kind for k in kinds])])
    return found


def _share(right: Tensor) -> float:
    return right.double().mean().item()
