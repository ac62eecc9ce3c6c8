"""How images stand in a prompt's text: a marker each, which a processor expands."""

from collections.abc import Sequence
from typing import Any

from ..errors import TvlensError
from .image import Image


def tokenizer_of(reader: Any) -> Any:
    """The tokenizer of a processor; a tokenizer is its own."""
    return getattr(reader, "tokenizer", None) or reader


def expansions(reader: Any, parts: Sequence[str | Image]) -> list[str]:
    """Every part as text: each image as the string that the processor puts in place of it.

    Raises:
        TvlensError: images for a model without a processor, a text that holds the marker itself,
            or a processor that does not say how it expands an image.
    """
    images = [part for part in parts if isinstance(part, Image)]
    marker = getattr(reader, "image_token", None)
    if images and (marker is None or not hasattr(reader, "image_processor")):
        raise TvlensError(
            f"{images[0]!r} cannot be shown: this model reads text alone, or was loaded without "
            "its processor; load a vision-language model, with processor= if it is an object"
        )
    if images:
        for part in parts:
            if isinstance(part, str) and marker in part:
                raise TvlensError(f"{part!r} holds {marker!r}, which stands for an image")
    written = iter(_expanded(reader, images) if images else ())
    return [next(written) if isinstance(part, Image) else part for part in parts]


def _expanded(processor: Any, images: Sequence[Image]) -> list[str]:
    """What stands for each image of one prompt: it depends on their sizes and their number."""
    outputs = processor(
        text=[processor.image_token * len(images)],
        images=[[image.pixels() for image in images]],
        add_special_tokens=False,
        return_text_replacement_offsets=True,
    )
    found = [one["replacement"] for one in outputs.get("text_replacement_offsets", [[]])[0]]
    if len(found) != len(images):
        name = type(processor).__name__
        raise TvlensError(f"{name} does not tell how it expands {len(images)} images")
    return found
