"""`Family`: properties of a model's architecture, computed once per model.

Every architecture-dependent choice in tvlens is made from this record. It is read once per model
from the model's configuration and hook points, without a forward pass.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch

# Layers whose whole memory of earlier positions is one key and one value per position.
_ATTENTION_LAYERS = {"full_attention", "sliding_attention"}

# Model types that derive masks or position biases from the index of a key in the tensor, not from
# position ids: local windows (GPT-Neo) and ALiBi (MPT, BLOOM; Falcon where its config asks).
_MASKS_BY_INDEX = {"gpt_neo", "mpt", "bloom"}

_families: weakref.WeakKeyDictionary[Any, "Family"] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Family:
    """Properties of a model's architecture.

    Attributes:
        config: Hugging Face's configuration, or None where there is none.
        text_config: the part of it that describes the language model.
        is_encoder_decoder: the model has two stacks of blocks.
        is_bidirectional: every position attends to every other one (text and vision encoders).
        is_classifier: logits are one row per input, from a pooled state.
        is_post_norm: norms follow the residual sums (BERT, GPT-1, OPT-350m). The state between
            attention and MLP is then the output of the first norm, and attention's output does not
            reach the end of the model by addition alone.
        is_hooked_transformer: a `HookedTransformer`, with `start_at_layer` and its own cache.
        has_kv_cache: every block remembers earlier positions by keys and values alone, in a cache
            that Hugging Face's `DynamicCache` holds. False for recurrent and convolutional layers.
        has_index_masks: masks or position biases follow the index of a key, so that tokens of
            no positions can be inserted between a prefix and its continuation.
        image_shape: [channel, height, width] that a vision model reads; None for other models.
        heads: number of heads by axis, "head" and "kv_head".
        unembedding_input: the last hook point whose activation may lose positions, since all
            that follows is computed position by position.
        unreadable_components: components whose hooks are not `[pos, head, d_head]`: in DeepSeek's
            latent attention TransformerLens puts the head of queries, keys and values first, and
            expects a head's output to be as wide as the rotary part of its query.
        attention_window: window of sliding attention, in positions; None without it.
        layer_types: the different kinds of layers that the configuration lists.
    """

    config: Any
    text_config: Any
    is_encoder_decoder: bool
    is_bidirectional: bool
    is_classifier: bool
    is_post_norm: bool
    is_hooked_transformer: bool
    has_kv_cache: bool
    has_index_masks: bool
    image_shape: tuple[int, int, int] | None
    heads: dict[str, int]
    unembedding_input: str
    unreadable_components: tuple[str, ...]
    attention_window: int | None
    layer_types: frozenset[str]


def family(model: Any) -> Family:
    """Return the properties of a model's architecture, computed at the first call."""
    if model not in _families:
        _families[model] = _read_family(model)
    return _families[model]


def input_device(model: Any) -> torch.device:
    """Return the device of a model's inputs."""
    device: torch.device = next(model.parameters()).device
    return device


def weight_dtype(model: Any) -> torch.dtype:
    """Return the dtype of a model's weights."""
    dtype: torch.dtype = next(model.parameters()).dtype
    return dtype


def _read_family(model: Any) -> Family:
    source = getattr(model, "original_model", None)
    config = getattr(source, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    n_heads = getattr(model.cfg, "n_heads", 0)
    layer_types = frozenset(getattr(text, "layer_types", None) or ())
    return Family(
        config=config,
        text_config=text,
        is_encoder_decoder=bool(getattr(config, "is_encoder_decoder", False)),
        is_bidirectional=_is_bidirectional(model, text),
        is_classifier=hasattr(source, "classifier"),
        is_post_norm=_is_post_norm(model, config),
        is_hooked_transformer=type(model).__name__ == "HookedTransformer",
        has_kv_cache=_has_kv_cache(model, text, layer_types),
        has_index_masks=_has_index_masks(text),
        image_shape=_image_shape(config, text),
        heads={
            "head": n_heads,
            "kv_head": getattr(model.cfg, "n_key_value_heads", None) or n_heads,
        },
        unembedding_input=_unembedding_input(model),
        unreadable_components=_unreadable_components(model, config),
        attention_window=getattr(text, "sliding_window", None),
        layer_types=layer_types,
    )


def _is_bidirectional(model: Any, text_config: Any) -> bool:
    if getattr(model.cfg, "attention_dir", "causal") == "bidirectional":
        return True
    # Gemma 3 as an encoder; "vision" is for the tokens of one image alone.
    if getattr(text_config, "use_bidirectional_attention", None) in (True, "all"):
        return True
    if getattr(text_config, "is_causal", None) is False:
        return True
    # TransformerLens 3.9 marks its BERT bridge as causal, but as unable to generate.
    return not getattr(getattr(model, "adapter", None), "supports_generation", True)


def _is_post_norm(model: Any, config: Any) -> bool:
    blocks = getattr(model, "blocks", None)
    norm = getattr(blocks[0], "ln1", None) if blocks else None
    return (
        str(getattr(norm, "name", "") or "").startswith("attention.output")
        or getattr(config, "do_layer_norm_before", True) is False
        or getattr(config, "model_type", "") == "openai-gpt"
    )


def _has_kv_cache(model: Any, text_config: Any, layer_types: frozenset[str]) -> bool:
    supported = getattr(getattr(model, "adapter", None), "supports_kv_cache", False)
    if text_config is None or not supported:
        return False
    is_stateful = getattr(model.original_model, "_is_stateful", False)
    return not is_stateful and layer_types <= _ATTENTION_LAYERS


def _has_index_masks(text_config: Any) -> bool:
    model_type = getattr(text_config, "model_type", None)
    return model_type in _MASKS_BY_INDEX or (
        model_type == "falcon" and bool(getattr(text_config, "alibi", False))
    )


def _image_shape(config: Any, text_config: Any) -> tuple[int, int, int] | None:
    """Shape of the images of a vision model without a language model."""
    if text_config is not config or not hasattr(config, "image_size"):
        return None
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    return getattr(config, "num_channels", 3), height, width


def _unembedding_input(model: Any) -> str:
    if "unembed.hook_in" in model.hook_dict:
        return "unembed.hook_in"
    # HookedTransformer: the end of the last block; the final norm and the unembedding follow.
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"


def _unreadable_components(model: Any, config: Any) -> tuple[str, ...]:
    if getattr(config, "kv_lora_rank", None) is None:
        return ()
    same_width = getattr(config, "v_head_dim", None) == getattr(model.cfg, "d_head", None)
    return ("q", "k", "v") if same_width else ("q", "k", "v", "z")
