"""Conversion of texts and images to batches of token rows and pixel values."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .processor import IMAGENET_MEAN, IMAGENET_STD, preprocess_images

Inputs = Sequence[str] | Sequence[np.ndarray]


def batches(
    model: Any, inputs: Inputs, *, batch_size: int = 32, max_tokens: int = 64
) -> Iterator[list[list[int]] | Float[Tensor, "row 3 size size"]]:
    """Yield batches of a model's inputs, in order.

    Args:
        model: a model that `load` returns.
        inputs: texts, or images `uint8 [height, width, 3]`.
        max_tokens: longer texts are cut, special tokens counted.

    Raises:
        TvlensError: no inputs, texts for a model of images or the other way round, no tokenizer.
    """
    if not len(inputs):
        raise TvlensError("no inputs")
    config = getattr(model, "original_model", model).config
    check_input_kind(config, inputs)
    if isinstance(inputs[0], str):
        rows = token_rows(getattr(model, "tokenizer", None), inputs, max_tokens=max_tokens)
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]
    else:
        settings = image_settings(config)
        for start in range(0, len(inputs), batch_size):
            yield preprocess_images(inputs[start : start + batch_size], **settings)


def token_rows(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
    """Tokenize texts with the tokenizer's special tokens, truncated to `max_tokens`.

    Raises:
        TvlensError: no tokenizer, or a text without tokens.
    """
    if tokenizer is None:
        raise TvlensError("this model has no tokenizer: load it with tokenizer=")
    options = dict(truncation=True, max_length=max_tokens)
    rows: list[list[int]] = tokenizer(list(texts), **options)["input_ids"]
    for text, row in zip(texts, rows, strict=True):
        if not row:
            raise TvlensError(f"{text!r} has no tokens")
    return rows


def image_settings(config: Any) -> dict[str, Any]:
    """Read size, mean and standard deviation of a vision model's images from its folder.

    The mean and standard deviation of ImageNet are the default.
    """
    from transformers.utils import cached_file

    try:
        path = cached_file(config._name_or_path, "preprocessor_config.json")
        metadata = json.loads(Path(path).read_text())
    except (OSError, ValueError):  # no folder, or one without that file
        metadata = {}
    return {
        "size": config.image_size,
        "mean": tuple(metadata.get("image_mean") or IMAGENET_MEAN),
        "std": tuple(metadata.get("image_std") or IMAGENET_STD),
    }


def check_input_kind(config: Any, inputs: Inputs) -> None:
    """Raise TvlensError for texts with a vision model, or images with a text model."""
    reads_images = hasattr(config, "image_size")
    if isinstance(inputs[0], str) == reads_images:
        expected, received = ("images", "texts") if reads_images else ("texts", "images")
        raise TvlensError(f"this {config.model_type} model reads {expected}, not {received}")
