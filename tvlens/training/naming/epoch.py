"""One pass over the training pictures, and how well names are told after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...pictures import Pictures
from ..data import step_seed
from .captions import TEMPLATES, Names, Phrase, loss, named, named_ids
from .hands import lent, same_thing
from .views import States


@dataclass(frozen=True)
class Lessons:
    """What an epoch goes through, and what is asked after it.

    Attributes:
        seen: the encoder's states of every view, by part.
        names: token ids of the names, by part.
        kinds: of the pictures under "new_artist", whose shares are given apart too.
        phrases: in which a picture can be named.
        pairs: training pictures of one thing, which lend each other their hands.
    """

    seen: Mapping[str, States]
    names: Mapping[str, Names]
    kinds: Sequence[str]
    phrases: Sequence[Phrase]
    pairs: np.ndarray

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        parts: Mapping[str, Pictures],
        seen: Mapping[str, States],
    ) -> "Lessons":
        """Those of these parts of the pictures, as the encoder saw them."""
        names = {
            k: [named_ids(tokenizer, name) for name in part.names] for k, part in parts.items()
        }
        phrases = [Phrase.of(model, tokenizer, template) for template in TEMPLATES]
        pairs = same_thing(parts["train"].names)
        return cls(seen, names, parts["new_artist"].kinds, phrases, pairs)


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
    lessons: Lessons,
    plan: Sequence[tuple[np.ndarray, np.ndarray, int]],
    rates: Sequence[float],
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the training pictures, in hands that others lend; returns the mean loss."""
    model.projector.train()
    seen, names, total = lessons.seen["train"], lessons.names["train"], 0.0
    for k, ((rows, looks, said), rate) in enumerate(zip(plan, rates, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        states = seen[rows, looks].float() + lent(seen, lessons.pairs, len(rows), seed=(seed, k))
        soft = model.projector(states.to(model.device))
        cost = loss(model, soft, lessons.phrases[said], [names[row] for row in rows])
        cost.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += len(rows) * cost.item()
        bar.update()
        bar.set_postfix(loss=f"{cost.item():.3f}")
    return total / sum(len(rows) for rows, _, _ in plan)


def accuracies(model: Any, lessons: Lessons, *, batch_size: int = 64) -> dict[str, float]:
    """Share of whole names right in each of the test parts, from the picture on white."""
    model.projector.eval()
    found = {}
    for part in ("new_artist", "new_things", "new_both"):
        seen, names, right = lessons.seen[part], lessons.names[part], []
        for start in range(0, len(seen), batch_size):
            rows = slice(start, start + batch_size)
            with torch.no_grad():
                soft = model.projector(seen[rows, 0].to(model.device).float())
            right.append(named(model, soft, lessons.phrases[0], names[rows]))
        right = torch.cat(right)
        found[part] = _share(right)
        if part == "new_artist":
            for kind in sorted(set(lessons.kinds)):
                found[kind] = _share(right[torch.tensor([k == kind for k in lessons.kinds])])
    return found


def _share(right: Tensor) -> float:
    return right.double().mean().item()
