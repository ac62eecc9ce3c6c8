"""Patches as rows of full forward passes: exact on every model, and what faster ways answer to."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, Hook, logits_at
from ..models.load import model_name
from ..sites import Site
from .sweep import Cell

# layer -> the whole source activation there, `[batch, ...]`
Source = Mapping[int, Tensor]

# model -> components whose hooks were seen to be read back
_writable: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def check_writable(model: Any, tokens: Int[Tensor, "batch pos"], site: Site) -> None:
    """Raise TvlensError where a model shows an activation but goes on with its own.

    Native models of TransformerLens 3.9 do so with attention patterns: every patch would then
    seem to have no effect. Cost: two forwards of one prompt, once per model and component.
    """
    known = _writable.setdefault(model, set())
    # One token attends to itself whatever its query and key are.
    if site.component in known or tokens.shape[1] < 2:
        return
    batch = Batch.of(model, tokens[:1])
    noise = torch.Generator().manual_seed(0)

    def disturb(activation: Tensor, hook_point: Any) -> Tensor:
        drawn = torch.randn(activation.shape, generator=noise).to(activation)
        return activation + drawn * (1 + activation.abs().max())

    at = batch.positions(-1)
    plain, disturbed = (
        logits_at(model, batch, at, hooks=hooks)
        for hooks in ([], [(Site(site.component, site.layer).hook(model), disturb)])
    )
    if torch.equal(plain, disturbed):
        raise TvlensError(
            f"{model_name(model)} computes {site.component} but does not read it back: "
            "patching it would change nothing"
        )
    known.add(site.component)


def full(
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    cells: Sequence[Cell],
    source: Source,
    positions: Sequence[int],
) -> Float[Tensor, "cell batch position vocab"]:
    """Logits at `positions` under each patch. Cost: one forward of every row per patch."""
    batch = len(tokens)
    rows = Batch.of(model, tokens.repeat(len(cells), 1))
    at = rows.positions(list(positions))
    hooks = edits(model, cells, source, lambda j: (slice(j * batch, (j + 1) * batch), None))
    logits = logits_at(model, rows, at, hooks=hooks)
    return logits.view(len(cells), batch, *logits.shape[1:])


def edits(
    model: Any, cells: Sequence[Cell], source: Source, where: Callable[[int], tuple]
) -> list[Hook]:
    """One hook per layer, writing each cell's source into its own rows and positions.

    Args:
        where: cell's number -> (rows, position in the running tensor; None: as in the prompt).
    """
    by_layer: dict[int, list[int]] = {}
    for j, cell in enumerate(cells):
        by_layer.setdefault(cell.layer, []).append(j)

    def write(members: list[int]) -> Callable:
        def hook(activation: Tensor, hook_point: Any) -> Tensor:
            edited = activation.clone()
            for j in members:
                cell = cells[j]
                rows, position = where(j)
                target = cell.index(rows, cell.own if position is None else position)
                edited[target] = cell.part(source[cell.layer]).to(edited)
            return edited

        return hook

    return [(cells[m[0]].site.hook(model), write(m)) for m in by_layer.values()]
