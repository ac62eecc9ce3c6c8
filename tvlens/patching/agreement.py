"""Whether a faster way of patching gives what full forwards give: seen, not believed."""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..models.load import model_name
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
    so that every block and a prefix take part, and lower blocks are left out. An answer holds for
    prompts up to this length (a sliding window shows only on longer ones) and between these
    layers. A failure is told once, as a warning.

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
    probes = [Cell(_middle(cells[0].site, layer, length)) for layer in {lowest, highest}]
    problem = next(filter(None, (_difference(base, probe, fast, slow) for probe in probes)), "")
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


def _difference(base: Base, probe: Cell, fast: Engine, slow: Engine) -> str:
    """What is wrong with the faster way on one patch; nothing where both agree."""
    # Some other activation of the right size: the examples' own, negated.
    part = -probe.part(base.seen.activations[probe.layer], base.prompts.lengths)
    true = slow([probe], [part])
    try:
        found = fast([probe], [part])
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:120]
    gap = float((found - true).abs().max() / true.abs().max().clamp_min(1e-6))
    return "" if gap < _ROUNDING else f"they differ by {gap:.1e} of the largest logit"
