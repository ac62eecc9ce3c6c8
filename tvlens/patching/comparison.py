"""`Comparison`: a clean source, a corrupted run, and the grid of patches between them.

What exact patching and its gradient estimates have in common, checked before any work is done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..models.forward import Batch
from ..models.load import model_name
from .full import Source, check_writable
from .metrics import Metric, positions_of
from .result import PatchResult
from .resume import Base, base_run
from .source import Observed, source_of
from .sweep import Choice, Sweep, sweep

Prompts = str | Sequence[str] | Sequence[Sequence[int]] | Int[Tensor, "batch pos"]


@dataclass(frozen=True)
class Comparison:
    """Everything a sweep needs, from one run of each side.

    Attributes:
        base: the corrupted run.
        seen: the source: activations, and logits where it is a run.
        clean: the clean prompts, where the source is a run.
        reads: the positions that the metrics read.
    """

    base: Base
    seen: Observed
    clean: Int[Tensor, "batch pos"] | None
    grid: Sweep
    metrics: dict[str, Metric]
    reads: list[int]

    @property
    def source(self) -> Source:
        """What patches write, by layer."""
        return self.seen.activations

    def measure(
        self, logits: Float[Tensor, "batch position vocab"]
    ) -> Float[Tensor, "metric batch"]:
        """Every metric, checked."""
        measured = [_measured(m, logits, self.reads) for m in self.metrics.values()]
        return torch.stack(measured)

    def result(
        self, model: Any, values: Float[Tensor, "metric cell batch"], **settings: Any
    ) -> PatchResult:
        """The values of all cells as a result with its grid."""
        several = list(self.metrics) != [""]
        shown = self.base.tokens if self.clean is None else self.clean
        whole = PatchResult(
            values=values.detach().cpu().reshape(len(self.metrics), *self.grid.shape, -1),
            axes=("metric", *self.grid.axes),
            coordinates={"metric": list(self.metrics), **self.grid.axes},
            baseline=self.measure(self.base.logits).cpu(),
            clean=None if self.seen.logits is None else self.measure(self.seen.logits).cpu(),
            site=self.grid.component,
            tokens=_words(model, self.base.tokens[0]),
            source_tokens=_words(model, shown[0]),
            settings={"model": model_name(model), "prompts": len(self.base.tokens)} | settings,
        )
        return _with_attention(model, shown, whole if several else whole[""])


def compare(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: str,
    metric: Metric | Mapping[str, Metric],
    layers: Choice,
    heads: Choice,
    positions: Choice,
    seed: int,
) -> Comparison:
    """Check what was asked and run both sides once. Arguments as in `patch`."""
    if model.training:
        raise TvlensError("the model is in training mode: call model.eval() first")
    tokens = _tokens(model, corrupted)
    given = clean if _is_source(clean) else _tokens(model, clean)
    if isinstance(given, Tensor) and torch.equal(given, tokens):
        raise TvlensError("clean and corrupted are the same prompts: there is nothing to patch")
    grid = sweep(
        model, site, layers=layers, heads=heads, positions=positions, length=tokens.shape[1]
    )
    check_writable(model, tokens, grid.cells[0].site)
    metrics = dict(metric) if isinstance(metric, Mapping) else {"": metric}
    reads = sorted({p for m in metrics.values() for p in positions_of(m)})
    swept = sorted({cell.layer for cell in grid.cells})
    base = base_run(model, tokens, component=grid.component, layers=swept, reads=reads)
    seen = source_of(
        model, given, base.own, tokens, component=grid.component, reads=reads, seed=seed
    )
    kept = given if isinstance(given, Tensor) else None
    return Comparison(base, seen, kept, grid, metrics, reads)


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
