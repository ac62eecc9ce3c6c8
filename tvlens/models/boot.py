"""Loading of Hugging Face models as TransformerLens models."""

import copy
from pathlib import Path
from typing import Any

import torch

from ..errors import TvlensError
from ..files import one_line
from . import encoders
from .compat import without_torchvision
from .damage import find_damaged_file, load_weights
from .equivalence import check_same_logits, is_language_model, reference_logits
from .processor import load_processor


def boot(
    name: str,
    *,
    tokenizer: Any,
    device: str | torch.device | None,
    dtype: torch.dtype,
    revision: str | None,
    trust_remote_code: bool,
    **loading: Any,
) -> Any:
    """Load a folder or hub id as a TransformerLens model.

    TransformerLens loads it if it does so correctly, else the Hugging Face model is
    converted.

    Args:
        loading: for Hugging Face's `from_pretrained`.
    """
    import transformers
    from transformer_lens.model_bridge import TransformerBridge

    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = transformers.AutoConfig.from_pretrained(name, **options)
    architecture = (config.architectures or [""])[0]
    if _is_hosted(architecture, config):
        source = _load_pretrained(
            name, encoders.model_class(architecture), device, dtype, options, loading
        )
        model = from_module(source, _as_trained(tokenizer or tokenizer_of(name, **options)))
        # Else `to_tokens` would cut the token that ends a text, which a language model must not
        # see, but an encoder must.
        model.cfg.tokenizer_appends_eos = False
        if getattr(model.cfg, "is_multimodal", False):
            model.processor = load_processor(name, **options)
    else:
        cls = transformers.AutoModelForCausalLM
        if not is_language_model(architecture, config):
            cls = getattr(transformers, architecture, cls)
        source = _load_pretrained(name, cls, device, dtype, options, loading)
        source.set_attn_implementation("eager")  # as TransformerLens runs it
        reference = reference_logits(source)
        model = TransformerBridge.boot_transformers(
            name, device=device, dtype=dtype, tokenizer=tokenizer, hf_model=source, **options
        )
        encoders.set_context_length(model.original_model, model.cfg)
        check_same_logits(model.eval(), reference)
    model.cfg.tvlens_revision = revision
    return model.eval()


def from_module(hf_model: Any, tokenizer: Any) -> Any:
    """Wrap a loaded Hugging Face model in place."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    encoders.register_adapters()
    # Fused attention never materialises the attention pattern, so its hook would never fire.
    hf_model.set_attn_implementation("eager")
    reference = reference_logits(hf_model)
    name = Path(getattr(hf_model.config, "_name_or_path", "") or type(hf_model).__name__).name
    architecture = type(hf_model).__name__
    try:
        with without_torchvision():
            bridge = build_bridge_from_module(
                hf_model,
                architecture,
                hf_config=hf_model.config,
                tokenizer=tokenizer,
                model_name=name,
            )
    except (ValueError, KeyError, RuntimeError) as error:
        message = f"TransformerLens cannot open {architecture}: {one_line(error)}"
        raise TvlensError(message) from error
    encoders.set_context_length(hf_model, bridge.cfg)
    check_same_logits(bridge.eval(), reference)
    return bridge


def tokenizer_of(name: str, **options: Any) -> Any:
    """Load the tokenizer of a folder or hub id; None if there is none."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError):  # a folder of weights alone: tokens can still be given
        if Path(name).is_dir() and find_damaged_file(name):
            raise
        return None


def _is_hosted(architecture: str, config: Any) -> bool:
    """Whether an architecture is opened by tvlens instead of TransformerLens.

    TransformerLens would go by the family alone, and give a classifier another model's head; and
    where the processor of a vision-language model asks for torchvision, it would install that,
    and with it another torch.
    """
    return architecture in encoders.register_adapters() or hasattr(config, "vision_config")


def _load_pretrained(
    name: str,
    cls: Any,
    device: str | torch.device | None,
    dtype: torch.dtype,
    options: dict,
    loading: dict,
) -> Any:
    model = load_weights(cls, name, dtype=dtype, **options, **loading)
    # Where a map of devices or a quantiser has put it, it stays.
    if "device_map" in loading or "quantization_config" in loading:
        return model
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _as_trained(tokenizer: Any) -> Any:
    """Prepare a tokenizer that TransformerLens leaves unchanged.

    It sets others up anew, to begin texts with a first token, and loses the token that ends them.
    """
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.init_kwargs["add_bos_token"] = True
    return tokenizer
