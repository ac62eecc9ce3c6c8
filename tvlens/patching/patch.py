"""`patch`: exact activation patching over layers, heads and positions."""

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ..models.load import model_name
from ..sites import Site
from .comparison import Comparison, Prompts, compare
from .full import full
from .metrics import Metric
from .result import PatchResult
from .resume import Base, resumed
from .sweep import Cell, Choice

# model -> component -> (longest prompt, lowest layer) at which resuming was seen to equal full
# forwards, or None where it did not
_checked: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def patch(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: str,
    metric: Metric | Mapping[str, Metric],
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Choice = "auto",
    batch_tokens: int = 256,
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
        seed: of resampling.

    Cost: where the model can resume (checked once against a full forward), one pass from the
    patched layer up over the positions from the patched one on, shared by many patches; else one
    full forward per patch, in batches.

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
    values = exact(model, compared, cells, parts, batch_tokens=batch_tokens, progress=progress)
    return compared.result(model, values, seed=seed, method="exact")


def exact(
    model: Any,
    compared: Comparison,
    cells: Sequence[Cell],
    parts: Sequence[Tensor],
    *,
    batch_tokens: int = 256,
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
) -> tuple[Callable, Callable]:
    """How to run a group of cells with their parts, and how many tokens one of them takes."""
    lengths = base.prompts.lengths

    def slow(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return full(model, base.prompts, group, parts, reads, base.vocabulary)

    def fast(group: Sequence[Cell], parts: Sequence[Tensor]) -> Tensor:
        return resumed(model, base, group, parts, reads)

    # A pattern's keys would have to be those of its own branch.
    able = base.resid and cells[0].site.component != "pattern"
    if able and _resumes(model, base, cells, fast, slow):
        return fast, lambda cell: len(lengths) * int((lengths - cell.start(lengths)).max())
    return slow, lambda cell: base.prompts.inputs.numel()


def _resumes(model: Any, base: Base, cells: Sequence[Cell], fast: Callable, slow: Callable) -> bool:
    """Whether resuming equals full forwards here: one patch run both ways.

    The patch stands at the lowest layer asked for, in the middle of the prompt, so that every
    block and a prefix take part. An answer holds for prompts up to this length (a sliding window
    shows only on longer ones) and from this layer up.
    """
    name, length = cells[0].site.component, int(base.prompts.lengths.min())
    lowest = min(cell.layer for cell in cells)
    known = _checked.setdefault(model, {})
    if name in known and known[name] is None:
        return False
    if name in known and known[name][0] >= length and known[name][1] <= lowest:
        return True
    head = None if cells[0].site.head is None else 0
    probe = Cell(Site(name, lowest, head=head, position=length // 2))
    # Some other activation of the right size: those of the examples, negated.
    part = -probe.part(base.seen.activations[lowest], base.prompts.lengths)
    try:
        found, true = fast([probe], [part]), slow([probe], [part])
        gap = float((found - true).abs().max() / true.abs().max().clamp_min(1e-6))
        problem = "" if gap < 1e-4 else f"they differ by {gap:.1e} of the largest logit"
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    known[name] = None if problem else (length, lowest)
    if problem:
        warnings.warn(
            f"{model_name(model)} cannot resume at a layer for {name} ({problem}): "
            "patching runs full forwards instead",
            stacklevel=5,
        )
    return not problem


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
        filled = itertools.accumulate(size(cells[i]) for i in order)
        chunk = order[: max(1, sum(total <= batch_tokens for total in filled))]
        try:
            logits = engine([cells[i] for i in chunk], [parts[i] for i in chunk])
        except RuntimeError as error:
            if "memory" not in str(error).lower() or len(chunk) == 1:
                raise
            batch_tokens = sum(size(cells[i]) for i in chunk) // 2
            continue
        yield chunk, logits
        order = order[len(chunk) :]
