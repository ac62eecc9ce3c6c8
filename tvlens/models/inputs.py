"""What a model reads, made from texts or pictures: token rows and pixel values, in batches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .pictures import MEAN, STD, pixels

Inputs = Sequence[str] | Sequence[np.ndarray]


def batches(
    model: Any, inputs: Inputs, *, batch_size: int = 32, max_tokens: int = 64
) -> Iterator[list[list[int]] | Float[Tensor, "row 3 size size"]]:
    """Batches that `model` reads, in the order of the inputs.

    Args:
        model: what `load` gives.
        inputs: texts, or pictures `uint8 [height, width, 3]`.
        max_tokens: longer texts are cut, special tokens counted.

    Raises:
        TvlensError: no inputs, texts for a model of pictures or the other way round, no tokenizer.
    """
    if not len(inputs):
        raise TvlensError("no inputs")
    config = getattr(model, "original_model", model).config
    check_kind(config, inputs)
    if isinstance(inputs[0], str):
        rows = token_rows(getattr(model, "tokenizer", None), inputs, max_tokens=max_tokens)
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
    else:
        form = picture_form(config)
        for start in range(0, len(inputs), batch_size):
            yield pixels(inputs[start : start + batch_size], **form)


def token_rows(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """Texts as token ids, with the tokenizer's special tokens, cut to `max_tokens`.

    Raises:
        TvlensError: no tokenizer, or a text without tokens.
    """
    if tokenizer is None:
        raise TvlensError("this model has no tokenizer: load it with tokenizer=")
    rows = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise TvlensError(f"{text!r} has no tokens")
    return rows


def picture_form(config: Any) -> dict[str, Any]:
    """Size, mean and std of the pictures that a vision model reads, as its folder says.

    Models that say nothing of mean and std get those of ImageNet.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(config._name_or_path, "preprocessor_config.json")
        about = json.loads(Path(path).read_text())
    except (OSError, ValueError):  # no folder, or one without that file
        about = {}
    return {
        "size": config.image_size,
        "mean": tuple(about.get("image_mean") or MEAN),
        "std": tuple(about.get("image_std") or STD),
    }


def check_kind(config: Any, inputs: Inputs) -> None:
    """Raise TvlensError where texts meet a vision model, or pictures a text model."""
    reads_pictures = hasattr(config, "image_size")
    if isinstance(inputs[0], str) == reads_pictures:
        reads, given = ("pictures", "texts") if reads_pictures else ("texts", "pictures")
        raise TvlensError(f"this {config.model_type} model reads {reads}, not {given}")
