"""`patch`: exact activation patching over layers, heads and positions."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..sites import SiteName
from .agreement import Engine, agrees
from .comparison import Comparison, Prompts, compare
from .full import full
from .metrics import Metric
from .result import PatchResult
from .resume import Base, can_resume, resumed
from .rows import begin_of, stacked
from .sweep import Cell, Choice, Positions


def patch(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: SiteName | str,
    metric: Metric | Mapping[str, Metric],
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Positions = "auto",
    batch_tokens: int = 512,
    max_memory: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> PatchResult:
    """Run `corrupted` with single activations taken from `clean`, one patch at a time.

    Args:
        clean: as many prompts as `corrupted`; or another source: an activation cache, a
            `TaskVector`, "mean", "zero" or "resample" (all of `corrupted` itself).
        corrupted: text, texts, token lists or a tensor, padded or not. For noising, swap clean
            and corrupted. Where lengths differ, positions count from each prompt's own end.
        site: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (or head_out), q, k, v, or
            pattern.
        metric: from logits `[batch, pos, vocab]` to `[batch]`, or several of them by name.
        layers, heads, positions: "all" to sweep, numbers to sweep over these, one number, or None
            for all together. By default every position is swept on residual sites, and heads are
            patched at all positions together.
        batch_tokens: tokens per forward pass; halved when memory runs out.
        max_memory: gigabytes that a pass may take beside the model and the two runs, by estimate;
            fewer tokens ride in a pass where this asks for it, at least one patch.
        seed: of resampling.

    Cost: where the model can resume (checked once against a full forward), one pass from the
    patched layer up over the positions from the patched one on, shared by many patches; where it
    cannot, whole prompts from the patched layer up; else one full forward per patch, in batches.

    Raises:
        TvlensError: unknown site, layer, head or position; lengths that differ; equal prompts; a
            model in training mode; NaN in a metric or the wrong shape.
    """
    compared = compare(
        model,
        clean,
        corrupted,
        site=site,
        metric=metric,
        layers=layers,
        heads=heads,
        positions=positions,
        seed=seed,
    )
    cells = compared.grid.cells
    parts = [compared.part(cell) for cell in cells]
    if max_memory is not None:
        batch_tokens = min(batch_tokens, affordable(model, compared.base, max_memory))
    values = exact(model, compared, cells, parts, batch_tokens=batch_tokens, progress=progress)
    return compared.result(model, values, seed=seed, method="exact")


def affordable(model: Any, base: Base, gigabytes: float) -> int:
    """How many tokens of a pass fit into memory: what one takes in the widest block and behind it.

    States and their copies, the MLP's hidden units, scores and mask over all keys, and logits.
    """
    cfg = model.cfg
    keys = base.prompts.inputs.shape[1]
    logits = cfg.d_vocab if base.vocabulary is None else len(base.vocabulary)
    hidden = getattr(cfg, "d_mlp", None) or 4 * cfg.d_model
    numbers = 12 * cfg.d_model + 3 * hidden + 4 * cfg.n_heads * keys + 2 * logits
    size = next(model.parameters()).element_size()
    return max(1, int(gigabytes * 2**30 / (numbers * size)))


def exact(
    model: Any,
    compared: Comparison,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    *,
    batch_tokens: int = 512,
    progress: bool = False,
) -> Float[Tensor, "metric cell batch"]:
    """The metrics with each cell's part written in; what is there already keeps the baseline."""
    base = compared.base
    values = compared.measure(base.seen.logits)[:, None].repeat(1, len(cells), 1)
    todo = [i for i, c in enumerate(cells) if not torch.equal(parts[i], compared.own(c))]
    if not todo:
        return values
    engine, size = _engine(model, base, [cells[i] for i in todo], compared.reads)
    with tqdm(total=len(todo), desc="patching", disable=None if progress else True) as bar:
        for chunk, logits in _run(engine, size, cells, parts, todo, batch_tokens):
            for i, one in zip(chunk, logits, strict=True):
                values[:, i] = compared.measure(one)
            bar.update(len(chunk))
    return values


def _engine(
    model: Any, base: Base, cells: Sequence[Cell], reads: Sequence[int]
) -> tuple[Engine, Callable[[Cell], int]]:
    """How to run a group of cells with their parts, and how many tokens one of them takes."""
    lengths = base.prompts.lengths

    def tree(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return resumed(model, base, group, parts, reads)

    def rows(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return stacked(model, base, group, parts, reads)

    def whole(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return full(model, base.prompts, group, parts, reads, base.vocabulary)

    # A pattern's keys would have to be those of its own branch.
    able = can_resume(model, base.prompts) and cells[0].site.component != "pattern"
    if able and agrees(model, base, cells, "resume at a position", tree, whole):
        return tree, lambda cell: len(lengths) * int((lengths - cell.start(lengths)).max())
    width = base.prompts.inputs.shape[1]
    if agrees(model, base, cells, "begin at a layer", rows, whole):
        return rows, lambda cell: len(lengths) * (width - begin_of(model, cell, base.prompts))
    return whole, lambda cell: len(lengths) * width


def _run(
    engine: Callable,
    size: Callable[[Cell], int],
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    todo: Sequence[int],
    batch_tokens: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Cells in groups of neighbouring layers; lack of memory halves a group and goes on."""
    order = sorted(todo, key=lambda i: (cells[i].layer, cells[i].position or 0))
    while order:
        sizes = [(cells[i].layer, size(cells[i])) for i in order]
        chunk = order[: _fitting(sizes, batch_tokens)]
        try:
            logits = engine([cells[i] for i in chunk], [parts[i] for i in chunk])
        except RuntimeError as error:
            if "memory" not in str(error).lower() or len(chunk) == 1:
                raise
            batch_tokens = sum(size(cells[i]) for i in chunk) // 2
            continue
        yield chunk, logits
        order = order[len(chunk) :]


def _fitting(sizes: Sequence[tuple[int, int]], batch_tokens: int) -> int:
    """How many of these cells, given by layer and tokens, go into the next pass.

    Whole layers where they fit: a pass begins at its lowest layer, so a layer that is cut in two
    costs the upper layers' cells a block more. A layer too large is cut into even pieces.
    """
    count = filled = 0
    for _, layer in itertools.groupby(sizes, key=lambda pair: pair[0]):
        tokens = [n for _, n in layer]
        if filled + sum(tokens) <= batch_tokens:
            count, filled = count + len(tokens), filled + sum(tokens)
            continue
        if count:
            return count
        share = sum(tokens) / -(-sum(tokens) // batch_tokens)
        return max(1, sum(total <= share for total in itertools.accumulate(tokens)))
    return count
