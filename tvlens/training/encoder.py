"""Encoders with a new classifier, frozen blocks or low-rank adapters, as Hugging Face models.

They are trained without hooks, which is faster.
"""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..errors import TvlensError
from ..models import encoders
from ..models.boot import tokenizer_of
from ..models.damage import load_weights
from ..models.loading import folder_of

EncoderReadout = Literal["mean", "first"]
READOUTS = get_args(EncoderReadout)


def build_classifier(
    base: str | os.PathLike, kind: str, classes: Sequence[str], *, readout: str, seed: int
) -> tuple[Any, Any]:
    """Load an encoder, add a new classifier, and load the tokenizer.

    Args:
        base: zoo name, folder or hub id of the encoder.
        kind: "text" or "image".
        classes: names of the classes.
        readout: input of the classifier, one of `READOUTS`.
        seed: seed of the new weights.

    Returns:
        The model and its tokenizer, which is None for images.

    Raises:
        TvlensError: unknown encoder, one that reads other inputs or that TransformerLens cannot
            open afterwards, or one without a classifier of this readout.
    """
    import transformers

    name = folder_of(str(base))
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TvlensError(f"cannot read the model {str(base)!r} ({error})") from error
    cls = _find_architecture(base, config, kind, readout)
    labels = {"id2label": dict(enumerate(classes)), "num_labels": len(classes)}
    labels["label2id"] = {label: i for i, label in labels["id2label"].items()}

    def is_new(tensor: str) -> bool:
        """Whether the tensor belongs to the classifier or the pooler below it."""
        return not tensor.startswith(f"{cls.base_model_prefix}.") or ".pooler." in tensor

    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)  # of the new weights
        model = load_weights(cls, name, is_new=is_new, dtype=torch.float32, **labels)
    return model, tokenizer_of(name) if kind == "text" else None


def _find_architecture(base: Any, config: Any, kind: str, readout: str) -> type:
    import transformers

    family, other = transformers.AutoModelForSequenceClassification, "images"
    if kind == "image":
        family, other = transformers.AutoModelForImageClassification, "texts"
    if type(config) not in family._model_mapping:
        raise TvlensError(f"{base} ({config.model_type}) reads {other}, not {kind}s")
    name = family._model_mapping[type(config)].__name__
    if readout == "mean":
        name = name.replace("ForSequenceClassification", "ForMeanClassification")
    if name not in encoders.supported_architectures():
        kinds = ("SequenceClassification", "MeanClassification", "ImageClassification")
        near = ", ".join(n for n in sorted(encoders.supported_architectures()) if n.endswith(kinds))
        raise TvlensError(
            f"{base} with readout {readout!r} would be a {name}, which TransformerLens cannot "
            f"open; it opens {near}"
        )
    return encoders.model_class(name)


def freeze_blocks(model: Any, count: int) -> None:
    """Freeze the embeddings and the lowest blocks; 0 freezes nothing.

    Raises:
        TvlensError: fewer blocks than that.
    """
    blocks = get_blocks(model)
    if not 0 <= count <= len(blocks):
        raise TvlensError(f"frozen must be 0 to {len(blocks)} blocks, not {count}")
    if count:
        for part in (model.base_model.embeddings, *blocks[:count]):
            part.requires_grad_(False)


def get_blocks(model: Any) -> nn.ModuleList:
    """Return the encoder's blocks."""
    trunk = model.base_model
    blocks: nn.ModuleList = trunk.layers if hasattr(trunk, "layers") else trunk.encoder.layer
    return blocks


def is_head(name: str) -> bool:
    """Whether a parameter of this name belongs to the classifier or the pooler."""
    return "classifier" in name or "pooler" in name


def parameter_groups(model: nn.Module, *, lr: float, head_lr: float) -> list[dict[str, Any]]:
    """Group the trained parameters by peak learning rate: encoder and head."""
    body: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (head if is_head(name) else body).append(weight)
    groups = [{"params": body, "peak": lr}, {"params": head, "peak": head_lr}]
    return [group for group in groups if group["params"]]


def check_lora(rank: int | None) -> None:
    """Raise TvlensError for an impossible rank, or if peft is missing."""
    if rank is None:
        return
    if rank < 1:
        raise TvlensError(f"the rank of LoRA must be at least 1, not {rank}")
    if importlib.util.find_spec("peft") is None:
        raise TvlensError("LoRA needs the library peft: pip install 'tvlens[lora]'")


def add_adapters(model: Any, rank: int, *, seed: int) -> Any:
    """Add a low-rank adapter to every linear map of the blocks.

    Of W + 2 B A only B and A are trained, and the head. B is initialized to zero, so that the
    model is unchanged at first.

    Source: Hu et al. 2022 (LoRA), section 4.1; all linear maps rather than queries and values.
    """
    import peft

    inside = {id(module) for block in get_blocks(model) for module in block.modules()}
    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside
    ]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=linear)
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft uses a deprecated name of transformers.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)  # of A
        wrapped = peft.get_peft_model(model, config)
    for name, weight in wrapped.named_parameters():
        if is_head(name):
            weight.requires_grad_(True)
    return wrapped


def merge_adapters(model: Any) -> Any:
    """Add the adapters to the weights, and return the Hugging Face model."""
    return model.merge_and_unload()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress Hugging Face's report of newly initialized weights."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
