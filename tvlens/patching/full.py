"""Patches as rows of full forward passes: exact on every model, and what faster ways answer to."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ..models.forward import Batch, Hook, logits_at
from .sweep import Cell

# layer -> the whole source activation there, `[batch, ...]`
Source = Mapping[int, Tensor]


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
