"""`PatchingSetup`: the base run, the source of activations, and the grid of patches.

What exact patching and its gradient estimates share; arguments are checked before any work.
"""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..activations import collect
from ..errors import TvlensError
from ..integers import as_integer
from ..models.families import family, input_device
from ..models.forward import Batch, check_runnable, logits_at, run
from ..models.hooks import read_at, replace_at, restricted_vocabulary, unembed_only
from ..models.loading import model_name
from ..models.prompts import Prompts, is_tokenizer_output, read_prompts
from ..sites import Site
from .grid import Patch, PatchGrid, SweptSites
from .metrics import Metric, narrow_metrics, positions_of, resolve_metrics
from .result import PatchResult
from .sources import SiteActivations, load_source, run_source

# model -> components whose changes are known to have an effect
_writable: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class BaseRun:
    """Activations and caches of the unpatched run.

    Attributes:
        prompts: the corrupted prompts.
        site_activations: the patched component at the swept layers, and the logits that metrics
            read.
        positions: positions of the logits that metrics read.
        vocabulary: the tokens whose logits these are; None for all.
        resid: residual stream before every block from the lowest swept one up.
        cache: keys and values of every block, in the model's own kind of cache, if it has one.
    """

    prompts: Batch
    site_activations: SiteActivations
    positions: Sequence[int]
    vocabulary: Sequence[int] | None
    resid: Mapping[int, Float[Tensor, "batch pos d_model"]]
    cache: Any


@dataclass(frozen=True)
class PatchingSetup:
    """The inputs of a sweep, from one run of each side.

    Attributes:
        base: the corrupted run.
        source: activations that patches write, and logits if it is a run.
        clean: the clean prompts, where the source is a run.
        metrics: by name, for logits of the base run's vocabulary.
    """

    base: BaseRun
    source: SiteActivations
    clean: Batch | None
    grid: PatchGrid
    metrics: dict[str, Metric]

    def source_part(self, patch: Patch) -> Tensor:
        """Select the source's activation at a patch."""
        return patch.select(self.source.activations[patch.layer], self.source.lengths)

    def base_part(self, patch: Patch) -> Tensor:
        """Select the corrupted run's activation at a patch."""
        return patch.select(
            self.base.site_activations.activations[patch.layer], self.base.site_activations.lengths
        )

    def measure(
        self, logits: Float[Tensor, "batch position vocab"]
    ) -> Float[Tensor, "metric batch"]:
        """Compute and check every metric."""
        measured = [_measure(m, logits, self.base.positions) for m in self.metrics.values()]
        return torch.stack(measured)

    def result(
        self, model: Any, values: Float[Tensor, "metric patch batch"], **settings: Any
    ) -> PatchResult:
        """Build the result from the values of all patches."""
        corrupted = _first_prompt(self.base.prompts)
        source = corrupted if self.clean is None else _first_prompt(self.clean)
        # A single layer is no axis, so the settings name it.
        is_swept = "layer" in self.grid.axes
        layer = {} if is_swept else {"layer": self.grid.patches[0].layer}
        result = PatchResult(
            values=values.detach().cpu().reshape(len(self.metrics), *self.grid.shape, -1),
            axes=("metric", *self.grid.axes),
            coordinates={"metric": list(self.metrics), **self.grid.axes},
            baseline=self.measure(self.base.site_activations.logits).cpu(),
            clean=None if self.source.logits is None else self.measure(self.source.logits).cpu(),
            site=self.grid.component,
            tokens=_decode_tokens(model, corrupted),
            source_tokens=_decode_tokens(model, source),
            settings={"model": model_name(model), "prompts": len(self.base.prompts)}
            | layer
            | settings,
        )
        return _add_attention(model, source, result[""] if list(self.metrics) == [""] else result)


def prepare_patching(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    sites: SweptSites,
    *,
    metric: Metric | Mapping[str, Metric],
    seed: int,
) -> PatchingSetup:
    """Check the arguments, which are those of `patch`, and run both sides once."""
    check_runnable(model)
    seed = as_integer(seed, name="seed", minimum=0)
    base_prompts = _read_batch(model, corrupted)
    source_prompts = None if _is_source(clean) else _read_batch(model, clean)
    lengths = base_prompts.lengths
    if source_prompts is not None:
        _check_sides(source_prompts, base_prompts)
        lengths = torch.cat([lengths, source_prompts.lengths])
    grid = sites.grid(model, lengths)
    if source_prompts is not None:
        _check_alignment(source_prompts.lengths, base_prompts.lengths, grid.patches[0])
    check_writable(model, base_prompts, grid.patches[0].site)
    metrics = resolve_metrics(metric, model)
    metric_positions = sorted({p for m in metrics.values() for p in positions_of(m)})
    vocabulary, metrics = narrow_metrics(metrics, model.cfg.d_vocab)
    options = dict(
        component=grid.component,
        layers=sorted({patch.layer for patch in grid.patches}),
        positions=metric_positions,
        vocabulary=vocabulary,
    )
    base = run_base(model, base_prompts, **options)
    for layer, activation in base.site_activations.activations.items():
        Site(grid.component, layer).check_shape(model, activation, any_width=True)
    if source_prompts is not None:
        source = run_source(model, source_prompts, **options)
    else:
        source = load_source(
            model, clean, base.site_activations, component=grid.component, seed=seed
        )
        _check_alignment(source.lengths, base_prompts.lengths, grid.patches[0])
    return PatchingSetup(base, source, source_prompts, grid, metrics)


def has_shared_prefix(model: Any, prompts: Batch) -> bool:
    """Whether the cache of a causal Hugging Face model is keys and values, masked by position.

    Per-token inputs of a processor (this token is part of an image) change masks or positions,
    and so do the grids of images; a branch has neither.
    """
    per_token = any(
        key.endswith("grid_thw") or value.shape == prompts.inputs.shape
        for key, value in prompts.processor_outputs.items()
    )
    architecture = family(model)
    return (
        not per_token
        and not architecture.is_bidirectional
        and architecture.unembedding_input == "unembed.hook_in"
        and architecture.has_kv_cache
        and not architecture.has_index_masks
    )


def run_base(
    model: Any,
    prompts: Batch,
    *,
    component: str,
    layers: Sequence[int],
    positions: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> BaseRun:
    """Run the prompts once, and store the states and caches from which patches resume."""
    component_activations: dict[int, Tensor] = {}
    resid: dict[int, Tensor] = {}
    hooks = [read_at(Site(component, l).hook(model), component_activations, l) for l in layers]
    hooks += [
        read_at(Site("resid_pre", l).hook(model), resid, l)
        for l in range(min(layers), model.cfg.n_layers)
    ]
    hooks.append(unembed_only(model, prompts.positions(list(positions))))
    cache, options = _new_cache(model, prompts)
    with restricted_vocabulary(model, vocabulary):
        logits = run(model, prompts, hooks=hooks, **options)
    activations = SiteActivations(component_activations, prompts.lengths, logits)
    return BaseRun(prompts, activations, positions, vocabulary, resid, cache)


def _new_cache(model: Any, prompts: Batch) -> tuple[Any, dict[str, Any]]:
    """Create an empty cache of the model's kind, and the options of the run that fills it."""
    if has_shared_prefix(model, prompts):
        from transformers import DynamicCache

        # One of our own keeps every position; a model's would drop those behind a window.
        cache = DynamicCache()
        return cache, {"past_key_values": cache, "use_cache": True}
    if family(model).is_hooked_transformer:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        device = input_device(model)
        cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, len(prompts))
        # Without a mask it asks the tokenizer for one, which small trained models do not have.
        mask = torch.ones(len(prompts), prompts.inputs.shape[1], dtype=torch.long, device=device)
        return cache, {"past_kv_cache": cache, "attention_mask": mask}
    return None, {}


def check_writable(model: Any, prompts: Batch, site: Site) -> None:
    """Raise TvlensError if a model ignores what is written to an activation.

    Native models of TransformerLens 3.9 do so with attention patterns: every patch would then
    seem to have no effect. Cost: two forwards of one prompt, once per model and component.
    """
    verified = _writable.setdefault(model, set())
    # One token attends to itself whatever its query and key are.
    if site.component in verified or int(prompts.lengths[0]) < 2:
        return
    batch = prompts  # only the processor assigns images to prompts
    if not prompts.processor_outputs:
        batch = Batch(prompts.inputs[:1, : prompts.lengths[0]], prompts.lengths[:1])
    noise = torch.Generator().manual_seed(0)

    def disturb(activation: Tensor) -> Tensor:
        sample = torch.randn(activation.shape, generator=noise).to(activation)
        return activation + sample * (1 + activation.abs().max())

    last = batch.positions(-1)
    plain, disturbed = (
        logits_at(model, batch, last, hooks=hooks)
        for hooks in ([], [replace_at(Site(site.component, site.layer).hook(model), disturb)])
    )
    if torch.equal(plain, disturbed):
        raise TvlensError(
            f"{model_name(model)} computes {site.component} but does not read it back: "
            "patching it would change nothing"
        )
    verified.add(site.component)


def _measure(metric: Metric, logits: Tensor, positions: Sequence[int]) -> Float[Tensor, " batch"]:
    """Compute and check one metric on the positions that it reads."""
    value = metric(logits[:, [positions.index(p) for p in positions_of(metric)]])
    if not isinstance(value, Tensor) or value.shape != (len(logits),):
        shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise TvlensError(f"a metric must give one number per example, not {shape}")
    if value.isnan().any():
        raise TvlensError(f"the metric is NaN for example {int(value.isnan().nonzero()[0])}")
    return value.float()


def _is_source(clean: Any) -> bool:
    """Whether `clean` is a source of activations and not prompts."""
    is_statistic = isinstance(clean, str) and clean in ("mean", "zero", "resample")
    return (
        is_statistic
        or (isinstance(clean, Mapping) and not is_tokenizer_output(clean))
        or hasattr(clean, "cache_dict")
        or (hasattr(clean, "site") and hasattr(clean, "mode"))
    )


def _read_batch(model: Any, prompts: Prompts) -> Batch:
    """Convert prompts of any form to a batch on the model's device."""
    rows = read_prompts(model, prompts)
    batch = Batch.of(model, rows)  # too long a prompt is an error before any forward
    return batch.to(input_device(model))


def _check_sides(clean: Batch, corrupted: Batch) -> None:
    """Raise TvlensError unless both sides have as many prompts, and different ones."""
    if len(clean) != len(corrupted):
        raise TvlensError(f"{len(clean)} clean prompts and {len(corrupted)} corrupted ones")
    if torch.equal(clean.lengths, corrupted.lengths) and _are_equal(clean, corrupted):
        raise TvlensError("clean and corrupted are the same prompts: there is nothing to patch")


def _are_equal(clean: Batch, corrupted: Batch) -> bool:
    """Whether two batches of the same lengths hold the same tokens and images."""
    same_images = clean.processor_outputs.keys() == corrupted.processor_outputs.keys() and all(
        torch.equal(clean.processor_outputs[key], value)
        for key, value in corrupted.processor_outputs.items()
    )
    return same_images and torch.equal(clean.inputs, corrupted.inputs)


def _check_alignment(
    clean: Int[Tensor, " row"], corrupted: Int[Tensor, " row"], patch: Patch
) -> None:
    """Raise TvlensError if all positions are patched together and lengths differ."""
    if patch.position is not None and patch.site.component != "pattern":
        return
    unequal = (clean != corrupted).nonzero().flatten()
    if len(unequal):
        i = int(unequal[0])
        raise TvlensError(
            f"prompt {i} has {int(clean[i])} clean and {int(corrupted[i])} corrupted "
            "tokens: give positions, such as -1, to patch between prompts of different lengths"
        )


def _first_prompt(prompts: Batch) -> Int[Tensor, " pos"]:
    """Return the first prompt without its padding."""
    return prompts.inputs[0, : prompts.lengths[0]]


def _decode_tokens(model: Any, tokens: Int[Tensor, " pos"]) -> list[str]:
    tokenizer = getattr(model, "tokenizer", None)
    return [str(int(t)) if tokenizer is None else tokenizer.decode([int(t)]) for t in tokens]


def _add_attention(
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
    patterns = collect(model, [tokens.tolist()], "pattern", layers=layers, progress=False)
    for layer, head in heads:
        pattern = patterns[f"pattern.{layer}"][0, :, head]
        result.attention[f"L{layer}H{head}"] = pattern.float()
    return result
