"""Low-rank adapters in place of an encoder's own weights, through the library peft."""

import importlib.util
import warnings
from typing import Any

import torch
from torch import nn

from ..errors import TvlensError
from .encoder import blocks, is_head


def check_lora(rank: int | None) -> None:
    """Raise TvlensError for an impossible rank, or where peft is missing."""
    if rank is None:
        return
    if rank < 1:
        raise TvlensError(f"the rank of LoRA must be at least 1, not {rank}")
    if importlib.util.find_spec("peft") is None:
        raise TvlensError("LoRA needs the library peft: pip install 'tvlens[lora]'")


def adapted(model: Any, rank: int, *, seed: int) -> Any:
    """The model with an adapter beside every linear map of its blocks.

    W + 2 B A is trained by its B and A alone, beside what reads the encoder out. B starts
    at zero, so that the model starts as it was.

    Source: Hu et al. 2022 (LoRA), section 4.1; all linear maps rather than queries and values.
    """
    import peft

    inside = {id(module) for block in blocks(model) for module in block.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    ]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear)
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers for what has another name there by now.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)  # of A
        wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if is_head(name):
            weight.requires_grad_(True)
    return wrapped


def merged(model: Any) -> Any:
    """The model as Hugging Face knows it, with its adapters added to its weights."""
    return model.merge_and_unload()
