"""`Family`: how the architecture of a model differs where tvlens runs it in pieces.

One record per model, computed once. What can be observed is observed in a forward pass of one
token; what cannot is read from the model's configuration.
"""

import contextlib
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .locks import locked

# Layers whose whole memory of earlier positions is one key and one value per position.
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

# Families that derive masks or position biases from the index of a key in the tensor, not from
# position ids: local windows (GPT-Neo) and ALiBi (MPT, BLOOM; Falcon where its config asks).
_MASKS_BY_INDEX = {"gpt_neo", "mpt", "bloom"}

_families: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Family:
    """What patching needs to know about an architecture.

    Attributes:
        block_outputs: for each block, the length of the tuple that it returns, or None where it
            returns the residual stream itself. A skipped block must return the same form.
        has_kv_cache: every block remembers earlier positions by keys and values alone, in a cache
            that Hugging Face's `DynamicCache` holds. False for recurrent and convolutional layers.
        has_index_masks: masks or position biases follow the index of a key, so that tokens of
            other positions cannot stand between a prefix and its continuation.
    """

    block_outputs: tuple[int | None, ...]
    has_kv_cache: bool
    has_index_masks: bool

    def block_output(self, block: int, hidden: Tensor) -> Any:
        """`hidden` in the form in which a block returns it."""
        length = self.block_outputs[block]
        return hidden if length is None else (hidden, *[None] * (length - 1))


def family(model: Any) -> Family:
    """The record of a model.

    Cost: a forward pass of one token (one image for a vision encoder), once per model.
    """
    with locked(model):
        if model not in _families:
            config = text_config(model)
            _families[model] = Family(
                block_outputs=_block_outputs(model),
                has_kv_cache=_has_kv_cache(model, config),
                has_index_masks=_has_index_masks(config),
            )
    return _families[model]


def text_config(model: Any) -> Any:
    """The Hugging Face configuration of the language model, or None where there is none."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _has_kv_cache(model: Any, config: Any) -> bool:
    if config is None or not getattr(model.adapter, "supports_kv_cache", False):
        return False
    layers = set(getattr(config, "layer_types", None) or ())
    stateful = getattr(model.original_model, "_is_stateful", False)
    return not stateful and layers <= _ATTENTION_LAYERS


def _has_index_masks(config: Any) -> bool:
    kind = getattr(config, "model_type", None)
    return kind in _MASKS_BY_INDEX or (kind == "falcon" and bool(config.alibi))


def _block_outputs(model: Any) -> tuple[int | None, ...]:
    """The length of the tuple that each block returns; None for the tensor itself."""
    lengths: dict[int, int | None] = {}

    def observe(index: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            lengths[index] = len(output) if isinstance(output, tuple | list) else None

        return hook

    handles = [b.register_forward_hook(observe(i)) for i, b in enumerate(model.blocks)]
    try:
        with torch.no_grad(), _without_hooks(model):
            _forward_one_position(model)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(lengths.get(i) for i in range(len(model.blocks)))


@contextlib.contextmanager
def _without_hooks(model: Any) -> Iterator[None]:
    """Within, hooks on the model's hook points do not run: they expect the caller's prompts."""
    points = list(model.hook_dict.values())
    hooks = [point._forward_hooks for point in points]
    for point in points:
        point._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for point, own in zip(points, hooks, strict=True):
            point._forward_hooks = own


def _forward_one_position(model: Any) -> None:
    """The smallest forward pass: one token, one image, or one input vector."""
    device = next(model.parameters()).device
    config = getattr(getattr(model, "original_model", None), "config", None)
    if text_config(model) is config and hasattr(config, "image_size"):
        dtype = next(model.parameters()).dtype
        size = (1, config.num_channels, config.image_size, config.image_size)
        model(torch.zeros(size, device=device, dtype=dtype))
        return
    try:
        model(torch.zeros(1, 1, dtype=torch.long, device=device))
    except (RuntimeError, TypeError, ValueError):  # a model that reads vectors
        model(torch.zeros(1, 1, model.cfg.d_vocab, device=device))
