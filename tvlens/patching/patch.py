"""`patch`: exact activation patching over layers, heads and positions."""

import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ..activations import collect
from ..errors import TvlensError
from ..models.forward import Batch
from ..models.load import model_name
from .full import Source, full
from .metrics import Metric, positions_of
from .result import PatchResult
from .resume import Base, base_run, resumed
from .source import source_of
from .sweep import Cell, Choice, Sweep, sweep

# model -> component -> the longest prompt on which resuming was seen to equal full forwards
_checked: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_NEVER = 0

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Int[Tensor, "batch pos"]


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
        clean: prompts as long as `corrupted`, token by token; or another source: an activation
            cache, a `TaskVector`, "mean", "zero" or "resample" (all of `corrupted` itself).
        corrupted: prompts of one length: text, texts, token lists or a tensor. For noising, swap
            clean and corrupted.
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
    if model.training:
        raise TvlensError("the model is in training mode: call model.eval() first")
    tokens = _tokens(model, corrupted)
    given = clean if _is_source(clean) else _tokens(model, clean)
    if isinstance(given, Tensor) and torch.equal(given, tokens):
        raise TvlensError("clean and corrupted are the same prompts: there is nothing to patch")
    grid = sweep(
        model, site, layers=layers, heads=heads, positions=positions, length=tokens.shape[1]
    )
    metrics = dict(metric) if isinstance(metric, Mapping) else {"": metric}
    reads = sorted({p for m in metrics.values() for p in positions_of(m)})
    layers = sorted({cell.layer for cell in grid.cells})
    base = base_run(model, tokens, component=grid.component, layers=layers, reads=reads)
    seen = source_of(
        model, given, base.own, tokens, component=grid.component, reads=reads, seed=seed
    )

    def measure(logits: Float[Tensor, "batch position vocab"]) -> Float[Tensor, "metric batch"]:
        return torch.stack([_measured(m, logits, reads) for m in metrics.values()]).cpu()

    values = _values(model, base, grid, seen.activations, reads, measure, batch_tokens, progress)
    result = PatchResult(
        values=values.reshape(len(metrics), *grid.shape, -1),
        axes=("metric", *grid.axes),
        coordinates={"metric": list(metrics), **grid.axes},
        baseline=measure(base.logits),
        clean=None if seen.logits is None else measure(seen.logits),
        site=grid.component,
        tokens=_words(model, tokens[0]),
        settings={"model": model_name(model), "seed": seed, "prompts": len(tokens)},
    )
    shown = result if isinstance(metric, Mapping) else result[""]
    return _with_attention(model, given if isinstance(given, Tensor) else tokens, shown)


def _values(
    model: Any,
    base: Base,
    grid: Sweep,
    source: Source,
    reads: Sequence[int],
    measure: Callable,
    batch_tokens: int,
    progress: bool,
) -> Float[Tensor, "metric cell batch"]:
    """The metrics under every cell; cells that would write what is there keep the baseline."""
    cells = grid.cells
    values = measure(base.logits)[:, None].repeat(1, len(cells), 1)
    todo = [
        i
        for i, cell in enumerate(cells)
        if not torch.equal(cell.part(source[cell.layer]), cell.part(base.own[cell.layer]))
    ]
    if not todo:
        return values
    engine, size = _engine(model, base, [cells[i] for i in todo], source, reads)
    with tqdm(total=len(todo), desc="patching", disable=None if progress else True) as bar:
        for chunk, logits in _run(engine, size, cells, todo, batch_tokens):
            for i, one in zip(chunk, logits, strict=True):
                values[:, i] = measure(one)
            bar.update(len(chunk))
    return values


def _engine(
    model: Any, base: Base, cells: Sequence[Cell], source: Source, reads: Sequence[int]
) -> tuple[Callable, Callable]:
    """How to run a group of cells, and how many tokens one of them takes."""
    batch, length = base.tokens.shape

    def slow(group: Sequence[Cell]) -> Tensor:
        return full(model, base.tokens, group, source, reads)

    def fast(group: Sequence[Cell]) -> Tensor:
        return resumed(model, base, group, source, reads)

    # A pattern's keys would have to be those of its own branch.
    able = base.resid and cells[0].site.component != "pattern"
    if able and _resumes(model, base, cells, fast, slow):
        return fast, lambda cell: batch * (length - (cell.position or 0))
    return slow, lambda cell: batch * length


def _resumes(model: Any, base: Base, cells: Sequence[Cell], fast: Callable, slow: Callable) -> bool:
    """Whether resuming equals full forwards here: one patch in the middle, run both ways.

    Remembered per model and component for prompts up to this length: a sliding window shows only
    on prompts longer than it.
    """
    known = _checked.setdefault(model, {})
    length, name = base.tokens.shape[1], cells[0].site.component
    if known.get(name) == _NEVER:
        return False
    if known.get(name, _NEVER) >= length:
        return True
    ordered = sorted(cells, key=lambda cell: (cell.position or 0, cell.layer))
    probes = [ordered[len(ordered) // 2]]
    try:
        found, true = fast(probes), slow(probes)
        gap = float((found - true).abs().max() / true.abs().max().clamp_min(1e-6))
        problem = "" if gap < 1e-4 else f"they differ by {gap:.1e} of the largest logit"
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    known[name] = _NEVER if problem else length
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
    todo: Sequence[int],
    batch_tokens: int,
) -> Iterator[tuple[list[int], Tensor]]:
    """Cells in groups of neighbouring layers; lack of memory halves a group and goes on."""
    order = sorted(todo, key=lambda i: (cells[i].layer, cells[i].position or 0))
    while order:
        filled = itertools.accumulate(size(cells[i]) for i in order)
        chunk = order[: max(1, sum(total <= batch_tokens for total in filled))]
        try:
            logits = engine([cells[i] for i in chunk])
        except RuntimeError as error:
            if "memory" not in str(error).lower() or len(chunk) == 1:
                raise
            batch_tokens = sum(size(cells[i]) for i in chunk) // 2
            continue
        yield chunk, logits
        order = order[len(chunk) :]


def _measured(metric: Metric, logits: Tensor, reads: Sequence[int]) -> Float[Tensor, " batch"]:
    """One metric on the positions it reads, checked."""
    value = metric(logits[:, [reads.index(p) for p in positions_of(metric)]])
    if not isinstance(value, Tensor) or value.shape != (len(logits),):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TvlensError(f"a metric must give one number per example, not {shape}")
    if value.isnan().any():
        raise TvlensError(f"the metric is NaN for example {int(value.isnan().nonzero()[0])}")
    return value.float()


def _is_source(clean: Any) -> bool:
    """Whether `clean` is a source of activations and not prompts."""
    named = isinstance(clean, str) and clean in ("mean", "zero", "resample")
    return (
        named
        or isinstance(clean, Mapping)
        or hasattr(clean, "cache_dict")
        or hasattr(clean, "site")
    )


def _tokens(model: Any, prompts: Prompts) -> Int[Tensor, "batch pos"]:
    """Prompts as one tensor on the model's device; all of one length."""
    if isinstance(prompts, str):
        prompts = [prompts]
    if not isinstance(prompts, Tensor):
        rows = [model.to_tokens(p)[0].tolist() if isinstance(p, str) else list(p) for p in prompts]
        lengths = sorted({len(row) for row in rows})
        if len(lengths) != 1:
            raise TvlensError(
                f"prompts of {lengths} tokens cannot be patched together: use prompts of one length"
            )
        prompts = torch.tensor(rows)
    tokens = prompts if prompts.ndim == 2 else prompts[None]
    Batch.of(model, tokens)  # too long a prompt is an error before any forward
    return tokens.to(next(model.parameters()).device)


def _words(model: Any, tokens: Int[Tensor, " pos"]) -> list[str]:
    tokenizer = getattr(model, "tokenizer", None)
    return [str(int(t)) if tokenizer is None else tokenizer.decode([int(t)]) for t in tokens]


def _with_attention(
    model: Any, tokens: Int[Tensor, "batch pos"], result: PatchResult, *, count: int = 8
) -> PatchResult:
    """Add the patterns of the heads with the largest effect, on the first prompt."""
    if result.axes != ("layer", "head") or result.site not in ("z", "q", "pattern"):
        return result
    width = len(result.coordinates["head"])
    largest = result.effect.abs().flatten().topk(min(count, result.effect.numel())).indices
    layer_of, head_of = (result.coordinates[axis] for axis in result.axes)
    heads = [(layer_of[i // width], head_of[i % width]) for i in largest.tolist()]
    layers = sorted({layer for layer, _ in heads})
    found = collect(model, tokens[:1].tolist(), "pattern", layers=layers, progress=False)
    for layer, head in heads:
        pattern = found[f"pattern.{layer}"][0, :, head]
        result.attention[f"L{layer}H{head}"] = pattern.float()
    return result
