"""`Base`: the run without a patch, as far as the engines need it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.families import family, input_device
from ..models.forward import Batch, run
from ..models.hooks import read_at, restricted_vocabulary, unembed_only
from ..sites import Site
from .source import Observed


@dataclass(frozen=True)
class Base:
    """The unpatched run, as far as patches need it.

    Attributes:
        prompts: the corrupted prompts.
        seen: the patched component at the swept layers, and the logits that metrics read.
        vocabulary: the tokens whose logits these are; None for all.
        resid: residual stream before every block from the lowest swept one up.
        cache: keys and values of every block, in the model's own kind of cache, if it has one.
    """

    prompts: Batch
    seen: Observed
    vocabulary: Sequence[int] | None
    resid: Mapping[int, Float[Tensor, "batch pos d_model"]]
    cache: Any


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


def base_run(
    model: Any,
    prompts: Batch,
    *,
    component: str,
    layers: Sequence[int],
    reads: Sequence[int],
    vocabulary: Sequence[int] | None = None,
) -> Base:
    """Run the prompts once and keep what patches compare with and resume from."""
    own: dict[int, Tensor] = {}
    resid: dict[int, Tensor] = {}
    hooks = [read_at(Site(component, l).hook(model), own, l) for l in layers]
    hooks += [
        read_at(Site("resid_pre", l).hook(model), resid, l)
        for l in range(min(layers), model.cfg.n_layers)
    ]
    hooks.append(unembed_only(model, prompts.positions(list(reads))))
    cache, options = _new_cache(model, prompts)
    with restricted_vocabulary(model, vocabulary):
        logits = run(model, prompts, hooks=hooks, **options)
    return Base(prompts, Observed(own, prompts.lengths, logits), vocabulary, resid, cache)


def _new_cache(model: Any, prompts: Batch) -> tuple[Any, dict[str, Any]]:
    """An empty cache of the model's kind, and the options that have a run fill it."""
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
        seen = torch.ones(len(prompts), prompts.inputs.shape[1], dtype=torch.long, device=device)
        return cache, {"past_kv_cache": cache, "attention_mask": seen}
    return None, {}
