"""The reference engine: every patch is a set of rows of a full forward pass of the model."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..models.forward import Batch, logits_at
from ..models.hooks import Hook, replace_at, write_at
from ..models.loading import model_name
from ..sites import Site
from .sweep import Cell

# model -> components whose hooks were seen to be read back
_writable: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def check_writable(model: Any, prompts: Batch, site: Site) -> None:
    """Raise TvlensError where a model shows an activation but goes on with its own.

    Native models of TransformerLens 3.9 do so with attention patterns: every patch would then
    seem to have no effect. Cost: two forwards of one prompt, once per model and component.
    """
    known = _writable.setdefault(model, set())
    # One token attends to itself whatever its query and key are.
    if site.component in known or int(prompts.lengths[0]) < 2:
        return
    batch = prompts  # which images are the first prompt's, only the processor knows
    if not prompts.processor_outputs:
        batch = Batch(prompts.inputs[:1, : prompts.lengths[0]], prompts.lengths[:1])
    noise = torch.Generator().manual_seed(0)

    def disturb(activation: Tensor) -> Tensor:
        drawn = torch.randn(activation.shape, generator=noise).to(activation)
        return activation + drawn * (1 + activation.abs().max())

    at = batch.positions(-1)
    plain, disturbed = (
        logits_at(model, batch, at, hooks=hooks)
        for hooks in ([], [replace_at(Site(site.component, site.layer).hook(model), disturb)])
    )
    if torch.equal(plain, disturbed):
        raise TvlensError(
            f"{model_name(model)} computes {site.component} but does not read it back: "
            "patching it would change nothing"
        )
    known.add(site.component)


def full_forward(
    model: Any,
    prompts: Batch,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    reads: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> Float[Tensor, "cell batch position vocab"]:
    """Logits at `reads` with each patch's part written in. Cost: a forward of all rows each."""
    batch, count = len(prompts), len(cells)
    rows = prompts.repeat(count)

    def where(j: int) -> tuple:
        return torch.arange(j * batch, (j + 1) * batch), cells[j].place(prompts.lengths)

    hooks = edits(model, cells, parts, where)
    at = rows.positions(list(reads))
    logits = logits_at(model, rows, at, hooks=hooks, vocabulary=vocabulary)
    return logits.unflatten(0, (count, batch))


def forward_examples(
    model: Any,
    prompts: Batch,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    examples: Sequence[int],
    reads: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> Float[Tensor, "cell position vocab"]:
    """As `full_forward`, but each patch on one example only: a row per patch.

    Args:
        examples: for each cell, the index of its prompt.
    """
    if prompts.processor_outputs:  # which images belong to which prompt, only the processor knows
        logits = full_forward(model, prompts, cells, parts, reads, vocabulary)
        return logits[range(len(cells)), list(examples)]
    index = torch.tensor(list(examples))
    rows = Batch(prompts.inputs[index.to(prompts.inputs.device)], prompts.lengths[index])
    parts = [part[i : i + 1] for part, i in zip(parts, examples, strict=True)]

    def where(j: int) -> tuple:
        place = cells[j].place(rows.lengths)
        return torch.tensor([j]), place if isinstance(place, slice) else place[j : j + 1]

    hooks = edits(model, cells, parts, where)
    at = rows.positions(list(reads))
    return logits_at(model, rows, at, hooks=hooks, vocabulary=vocabulary)


def edits(
    model: Any, cells: Sequence[Cell], parts: Sequence[Tensor], where: Callable[[int], tuple]
) -> list[Hook]:
    """One hook per layer, writing each cell's part into its own rows and positions.

    Args:
        where: cell's number -> (rows, positions) in the running tensor.
    """
    by_layer: dict[int, list[int]] = {}
    for j, cell in enumerate(cells):
        by_layer.setdefault(cell.layer, []).append(j)

    return [
        write_at(
            cells[members[0]].site.hook(model),
            *((cells[j].index(*where(j)), parts[j]) for j in members),
        )
        for members in by_layer.values()
    ]
