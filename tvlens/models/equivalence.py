"""Check that a wrapped model computes the same logits as the Hugging Face model."""

import contextlib
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..files import one_line
from .families import input_device, weight_dtype

# Tokens of the check: enough for positions, biases by distance and grouped heads to matter.
_LENGTH = 12

# What configurations call the longest prompt.
_CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length")

# Largest difference that is rounding, as a share of the largest logit.
_TOLERANCE = {torch.float16: 0.05, torch.bfloat16: 0.2}
_TOLERANCE_FLOAT32 = 1e-3


def reference_logits(hf_model: Any) -> Float[Tensor, "1 pos vocab"] | None:
    """Compute logits of a Hugging Face language model on a few tokens, before it is wrapped.

    None for what has no logits per token: encoders without a head, classifiers, vision encoders,
    encoder-decoders. Cost: a forward pass of twelve tokens.
    """
    if not is_language_model(type(hf_model).__name__, hf_model.config):
        return None
    hf_model.eval()  # as `load` leaves it
    device = hf_model.get_input_embeddings().weight.device
    with torch.no_grad():
        logits: Tensor = hf_model(_tokens(hf_model).to(device)).logits.float().cpu()
        return logits


def check_same_logits(model: Any, reference: Float[Tensor, "1 pos vocab"] | None) -> None:
    """Raise TvlensError if the logits of a wrapped model differ from those before wrapping.

    Cost: a forward pass of twelve tokens.
    """
    if reference is None:
        return
    name = type(model.original_model).__name__
    try:
        with torch.no_grad():
            logits = model(_tokens(model.original_model).to(input_device(model)))
    except RuntimeError as error:
        raise TvlensError(f"TransformerLens cannot run this {name}: {one_line(error)}") from error
    logits = logits.float().cpu()
    scale = reference.abs().nan_to_num(0, posinf=0).amax().clamp_min(1e-6)
    gaps = (logits - reference).abs().nan_to_num(torch.inf)
    gap = float(gaps.masked_fill(logits == reference, 0).max() / scale)
    allowed = _TOLERANCE.get(weight_dtype(model), _TOLERANCE_FLOAT32)
    if not gap <= allowed:
        raise TvlensError(
            f"TransformerLens computes this {name} otherwise than "
            f"Hugging Face does (logits differ by {gap:.1e} of the largest): results would be "
            "wrong. Choose another model, or give a TransformerBridge of your own"
        )


def is_language_model(architecture: str, config: Any) -> bool:
    """Whether an architecture outputs logits of the next token at every position."""
    causal = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    return causal and not getattr(config, "is_encoder_decoder", False)


def _tokens(hf_model: Any) -> Int[Tensor, "1 pos"]:
    """A few tokens from the middle of the vocabulary."""
    config = hf_model.config.get_text_config()
    size: int = config.vocab_size
    with contextlib.suppress(AttributeError, TypeError):
        size = min(size, hf_model.get_input_embeddings().num_embeddings)
    contexts = [getattr(config, key, None) for key in _CONTEXTS]
    length = min([_LENGTH, *(n for n in contexts if isinstance(n, int) and n > 0)])
    return (torch.arange(length) * 7 + size // 2).remainder(size)[None]
