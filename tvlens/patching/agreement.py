"""Whether a faster way of patching gives what full forwards give: seen, not believed."""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.loading import model_name
from ..sites import Site
from .resume import Base
from .sweep import Cell

# From cells and their parts to logits `[cell, batch, position, vocab]`.
Engine = Callable[[Sequence[Cell], Sequence[Tensor]], Tensor]

# Logits may differ by this share of the largest one: float32 rounding in another order.
_ROUNDING = 1e-4

# model -> (what, component) -> (longest prompt, lowest and highest layer) at which a faster way was
# seen to equal full forwards, or None where it did not
_seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def agrees(
    model: Any, base: Base, cells: Sequence[Cell], what: str, fast: Engine, slow: Engine
) -> bool:
    """Whether `fast` equals `slow` here: two patches run both ways, once per model and component.

    The patches stand at the lowest and the highest layer asked for, in the middle of the prompt,
    so that every block and a prefix take part; the faster way runs the upper one alone, so that
    lower blocks are left out, and then both in one group. An answer holds for prompts up to this
    length (a sliding window shows only on longer ones) and between these layers. A failure is told
    once, as a warning.

    Args:
        what: what the faster way needs of the model, for the warning.
    """
    component, length = cells[0].site.component, int(base.prompts.lengths.min())
    lowest, highest = (end(cell.layer for cell in cells) for end in (min, max))
    known = _seen.setdefault(model, {})
    if (what, component) in known:
        answer = known[what, component]
        if answer is None:
            return False
        if answer[0] >= length and answer[1] <= lowest and highest <= answer[2]:
            return True
    layers = sorted({lowest, highest})
    probes = [Cell(_middle(cells[0].site, layer, length)) for layer in layers]
    # Some other activations of the right size: the examples' own, negated.
    parts = [-p.part(base.seen.activations[p.layer], base.prompts.lengths) for p in probes]
    true = torch.cat([slow([p], [part]) for p, part in zip(probes, parts, strict=True)])
    begins = reversed(range(len(probes)))  # the upper one alone, then both
    problems = (_difference(fast, probes[i:], parts[i:], true[i:]) for i in begins)
    problem = next(filter(None, problems), "")
    known[what, component] = None if problem else (length, lowest, highest)
    if problem:
        warnings.warn(
            f"{model_name(model)} cannot {what} for {component} ({problem}): patching takes the "
            "slower way",
            stacklevel=6,
        )
    return not problem


def _middle(site: Site, layer: int, length: int) -> Site:
    head = None if site.head is None else 0
    return Site(site.component, layer, head=head, position=length // 2)


def _difference(fast: Engine, cells: Sequence[Cell], parts: Sequence[Tensor], true: Tensor) -> str:
    """What is wrong with the faster way on these patches; nothing where it gives the truth."""
    try:
        found = fast(cells, parts)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]
    gap = float((found - true).abs().max() / true.abs().max().clamp_min(1e-6))
    return "" if gap < _ROUNDING else f"they differ by {gap:.1e} of the largest logit"
