"""An encoder with a new classifier, as Hugging Face trains it: without hooks, so faster."""

import contextlib
import os
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


def classifier(
    base: str | os.PathLike, kind: str, classes: Sequence[str], *, readout: str, seed: int
) -> tuple[Any, Any]:
    """The encoder called `base` with a new classifier, and its tokenizer (None for images).

    Raises:
        TvlensError: no such encoder, one that reads other inputs or that TransformerLens could not
            open afterwards, or one that has no classifier of this readout.
    """
    import transformers

    name = folder_of(str(base))
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TvlensError(f"cannot read the model {str(base)!r} ({error})") from error
    cls = _architecture(base, config, kind, readout)
    labels = {"id2label": dict(enumerate(classes)), "num_labels": len(classes)}
    labels["label2id"] = {label: i for i, label in labels["id2label"].items()}

    def is_new(tensor: str) -> bool:
        """The classifier and the pooler below it."""
        return not tensor.startswith(f"{cls.base_model_prefix}.") or ".pooler." in tensor

    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)  # of the new weights
        model = load_weights(cls, name, is_new=is_new, dtype=torch.float32, **labels)
    return model, tokenizer_of(name) if kind == "text" else None


def _architecture(base: Any, config: Any, kind: str, readout: str) -> type:
    import transformers

    family, other = transformers.AutoModelForSequenceClassification, "images"
    if kind == "image":
        family, other = transformers.AutoModelForImageClassification, "texts"
    if type(config) not in family._model_mapping:
        raise TvlensError(f"{base} ({config.model_type}) reads {other}, not {kind}s")
    name = family._model_mapping[type(config)].__name__
    if readout == "mean":
        name = name.replace("ForSequenceClassification", "ForMeanClassification")
    if name not in encoders.hosted():
        kinds = ("SequenceClassification", "MeanClassification", "ImageClassification")
        near = ", ".join(n for n in sorted(encoders.hosted()) if n.endswith(kinds))
        raise TvlensError(
            f"{base} with readout {readout!r} would be a {name}, which TransformerLens cannot "
            f"open; it opens {near}"
        )
    return encoders.model_class(name)


def freeze(model: Any, below: int) -> None:
    """Keep the embeddings and the blocks below one as they are; 0 freezes nothing.

    Raises:
        TvlensError: no such block.
    """
    all_blocks = blocks(model)
    if not 0 <= below <= len(all_blocks):
        raise TvlensError(f"frozen must be 0 to {len(all_blocks)} blocks, not {below}")
    if below:
        for part in (model.base_model.embeddings, *all_blocks[:below]):
            part.requires_grad_(False)


def blocks(model: Any) -> nn.ModuleList:
    """The encoder's blocks, whatever Hugging Face calls them."""
    trunk = model.base_model
    return trunk.layers if hasattr(trunk, "layers") else trunk.encoder.layer


def is_head(name: str) -> bool:
    """Whether a parameter of this name reads the encoder out."""
    return "classifier" in name or "pooler" in name


def parameters(model: nn.Module, *, lr: float, head_lr: float) -> list[dict[str, Any]]:
    """What is trained, in two groups with their peaks: the encoder, and what reads it out."""
    body, head = [], []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            (head if is_head(name) else body).append(weight)
    groups = [{"params": body, "peak": lr}, {"params": head, "peak": head_lr}]
    return [group for group in groups if group["params"]]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Hugging Face's report that a new classifier is new."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
