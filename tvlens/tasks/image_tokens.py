"""Image tokens: the text that a processor writes into a prompt in place of each image."""

from collections.abc import Sequence
from typing import Any

from ..errors import TvlensError
from .image import Image


def tokenizer_of(processor: Any) -> Any:
    """Return the tokenizer of a processor; a tokenizer is returned unchanged."""
    return getattr(processor, "tokenizer", None) or processor


def expand_images(processor: Any, parts: Sequence[str | Image]) -> list[str]:
    """Replace each image by the text that the processor puts in its place.

    Args:
        processor: a model's processor, or its tokenizer if no part is an image.
        parts: texts and images of one prompt, in order.

    Returns:
        One text per part.

    Raises:
        TvlensError: images without a processor, a text that contains the image token, or a
            processor that does not report its replacements.
    """
    images = [part for part in parts if isinstance(part, Image)]
    if not images:
        return list(parts)
    image_token = getattr(processor, "image_token", None)
    if image_token is None or not hasattr(processor, "image_processor"):
        raise TvlensError(
            f"{images[0]!r} cannot be shown: this model reads text alone, or was loaded without "
            "its processor; load a vision-language model, with processor= if it is an object"
        )
    for part in parts:
        if isinstance(part, str) and image_token in part:
            raise TvlensError(f"{part!r} holds {image_token!r}, which stands for an image")
    replacements = iter(_image_replacements(processor, images))
    return [next(replacements) if isinstance(part, Image) else part for part in parts]


def _image_replacements(processor: Any, images: Sequence[Image]) -> list[str]:
    """Return the replacement of each image of a prompt, which depends on sizes and number."""
    outputs = processor(
        text=[processor.image_token * len(images)],
        images=[[image.read_pixels() for image in images]],
        add_special_tokens=False,
        return_text_replacement_offsets=True,
    )
    offsets = outputs.get("text_replacement_offsets", [[]])[0]
    if len(offsets) != len(images):
        name = type(processor).__name__
        raise TvlensError(f"{name} does not report how it expands {len(images)} images")
    return [offset["replacement"] for offset in offsets]
