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
from ..integers import as_integer
from ..models.families import input_device
from ..models.forward import Batch, check_runnable
from ..models.loading import model_name
from ..models.prompts import Prompts, is_tokenizer_output, read_prompts
from ..sites import Site, SiteName
from .base_run import Base, base_run
from .full_forward import check_writable
from .metrics import Metric, narrowed, positions_of, resolved
from .result import PatchResult
from .source import Observed, observe, source_of
from .sweep import Cell, Choice, Positions, Sweep, sweep


@dataclass(frozen=True)
class Comparison:
    """Everything a sweep needs, from one run of each side.

    Attributes:
        base: the corrupted run.
        source: what patches write, and logits where it is a run.
        clean: the clean prompts, where the source is a run.
        metrics: by name, for logits of the base run's vocabulary.
        reads: the positions that the metrics read.
    """

    base: Base
    source: Observed
    clean: Batch | None
    grid: Sweep
    metrics: dict[str, Metric]
    reads: list[int]

    def part(self, cell: Cell) -> Tensor:
        """What a patch writes."""
        return cell.part(self.source.activations[cell.layer], self.source.lengths)

    def own(self, cell: Cell) -> Tensor:
        """What stands there in the corrupted run."""
        return cell.part(self.base.seen.activations[cell.layer], self.base.seen.lengths)

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
        corrupted = _first(self.base.prompts)
        shown = corrupted if self.clean is None else _first(self.clean)
        # One layer makes no axis: the settings say which.
        one = {} if "layer" in self.grid.axes else {"layer": self.grid.cells[0].layer}
        whole = PatchResult(
            values=values.detach().cpu().reshape(len(self.metrics), *self.grid.shape, -1),
            axes=("metric", *self.grid.axes),
            coordinates={"metric": list(self.metrics), **self.grid.axes},
            baseline=self.measure(self.base.seen.logits).cpu(),
            clean=None if self.source.logits is None else self.measure(self.source.logits).cpu(),
            site=self.grid.component,
            tokens=_words(model, corrupted),
            source_tokens=_words(model, shown),
            settings={"model": model_name(model), "prompts": len(self.base.prompts)}
            | one
            | settings,
        )
        return _with_attention(model, shown, whole if several else whole[""])


def compare(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    site: SiteName | str | Site,
    metric: Metric | Mapping[str, Metric],
    layers: Choice,
    heads: Choice,
    positions: Positions,
    seed: int,
) -> Comparison:
    """Check what was asked and run both sides once. Arguments as in `patch`."""
    check_runnable(model)
    seed = as_integer(seed, name="seed", minimum=0)
    own = _prompts(model, corrupted)
    given = clean if _is_source(clean) else _prompts(model, clean)
    _check_sides(given, own)
    runs = [side.lengths for side in (own, given) if isinstance(side, Batch)]
    grid = sweep(
        model, site, layers=layers, heads=heads, positions=positions, lengths=torch.cat(runs)
    )
    if isinstance(given, Batch):
        _check_alignment(given.lengths, own.lengths, grid.cells[0])
    check_writable(model, own, grid.cells[0].site)
    metrics = resolved(metric, model)
    reads = sorted({p for m in metrics.values() for p in positions_of(m)})
    vocabulary, metrics = narrowed(metrics, model.cfg.d_vocab)
    wanted = dict(
        component=grid.component,
        layers=sorted({cell.layer for cell in grid.cells}),
        reads=reads,
        vocabulary=vocabulary,
    )
    base = base_run(model, own, **wanted)
    for layer, activation in base.seen.activations.items():
        Site(grid.component, layer).check_shape(model, activation, any_width=True)
    if isinstance(given, Batch):
        return Comparison(base, observe(model, given, **wanted), given, grid, metrics, reads)
    source = source_of(model, given, base.seen, component=grid.component, seed=seed)
    _check_alignment(source.lengths, own.lengths, grid.cells[0])
    return Comparison(base, source, None, grid, metrics, reads)


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
        or (isinstance(clean, Mapping) and not is_tokenizer_output(clean))
        or hasattr(clean, "cache_dict")
        or (hasattr(clean, "site") and hasattr(clean, "mode"))
    )


def _prompts(model: Any, prompts: Prompts) -> Batch:
    """Prompts of any form and of any lengths, on the model's device."""
    rows = read_prompts(model, prompts)
    batch = Batch.of(model, rows)  # too long a prompt is an error before any forward
    return batch.to(input_device(model))


def _check_sides(given: Any, own: Batch) -> None:
    """As many prompts on both sides, and not the same ones."""
    if not isinstance(given, Batch):
        return
    if len(given) != len(own):
        raise TvlensError(f"{len(given)} clean prompts and {len(own)} corrupted ones")
    if torch.equal(given.lengths, own.lengths) and _equal(given, own):
        raise TvlensError("clean and corrupted are the same prompts: there is nothing to patch")


def _equal(given: Batch, own: Batch) -> bool:
    """Whether two batches of the same lengths hold the same tokens and images."""
    same_images = given.processor_outputs.keys() == own.processor_outputs.keys() and all(
        torch.equal(given.processor_outputs[key], value)
        for key, value in own.processor_outputs.items()
    )
    return same_images and torch.equal(given.inputs, own.inputs)


def _check_alignment(
    clean: Int[Tensor, " row"], corrupted: Int[Tensor, " row"], cell: Cell
) -> None:
    """What is patched as a whole must be of one size on both sides, prompt by prompt."""
    if cell.position is not None and cell.site.component != "pattern":
        return
    unlike = (clean != corrupted).nonzero().flatten()
    if len(unlike):
        i = int(unlike[0])
        raise TvlensError(
            f"prompt {i} has {int(clean[i])} clean and {int(corrupted[i])} corrupted "
            "tokens: give positions, such as -1, to patch between prompts of different lengths"
        )


def _first(prompts: Batch) -> Int[Tensor, " pos"]:
    """The first prompt without its padding."""
    return prompts.inputs[0, : prompts.lengths[0]]


def _words(model: Any, tokens: Int[Tensor, " pos"]) -> list[str]:
    tokenizer = getattr(model, "tokenizer", None)
    return [str(int(t)) if tokenizer is None else tokenizer.decode([int(t)]) for t in tokens]


def _with_attention(
    model: Any, tokens: Int[Tensor, " pos"], result: PatchResult, *, count: int = 8
) -> PatchResult:
    """Add the patterns of the heads with the largest effect, on the first prompt."""
    if result.axes != ("layer", "head") or result.site not in ("z", "q", "pattern"):
        return result
    width = len(result.coordinates["head"])
    largest = result.effect.abs().flatten().topk(min(count, result.effect.numel())).indices
    layer_of, head_of = (result.coordinates[axis] for axis in result.axes)
    heads = [(layer_of[i // width], head_of[i % width]) for i in largest.tolist()]
    layers = sorted({layer for layer, _ in heads})
    found = collect(model, [tokens.tolist()], "pattern", layers=layers, progress=False)
    for layer, head in heads:
        pattern = found[f"pattern.{layer}"][0, :, head]
        result.attention[f"L{layer}H{head}"] = pattern.float()
    return result
