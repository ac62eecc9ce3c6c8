"""What a vision-language model needs beside token ids, as its own processor makes it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .pictures import pixels

# Made anew here, where answers and padding follow the prompt.
_TOKENS = ("input_ids", "attention_mask")


def reader(model: Any) -> Any:
    """What makes a model's inputs out of prompts: its processor, or its tokenizer."""
    return getattr(model, "processor", None) or getattr(model, "tokenizer", None)


def load_processor(name: str, **options: Any) -> Any:
    """The processor of a folder or hub id, without torchvision; None where there is none.

    Hugging Face's processors of models that also watch videos ask for torchvision, which only the
    videos need: such a one is put together without them.
    """
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(name, **options)
    except (ImportError, AttributeError):
        pass
    except (OSError, ValueError):
        return None
    config = transformers.AutoConfig.from_pretrained(name, **options)
    cls = images_only(transformers.models.auto.processing_auto.PROCESSOR_MAPPING[type(config)])
    about, _ = cls.get_processor_dict(name, **options)
    images = transformers.AutoImageProcessor.from_pretrained(name, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    return cls.from_args_and_dict([images, tokenizer, None], about)


def images_only(cls: type) -> type:
    """A Hugging Face processor class that does without its video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else cls.check_argument_for_proper_class(self, name, part)

    # Its arguments are read off `__init__`, so that must stay the class's own.
    return type(cls.__name__, (cls,), {"check_argument_for_proper_class": check})


def has_images(prompts: Sequence[Any] | Tensor) -> bool:
    """Whether any of these prompts shows an image; token ids do not."""
    return not isinstance(prompts, Tensor) and any(
        getattr(prompt, "images", ()) for prompt in prompts
    )


def looked_at(model: Any, prompts: Sequence[Any], *, width: int) -> dict[str, Tensor]:
    """Every output of the processor but the tokens themselves, for prompts padded to `width`.

    What is said of every token is set to 0 at the beginning of the text, behind the prompt and in
    the padding.

    Raises:
        TvlensError: the model has no processor, or the processor makes other tokens.
    """
    processor = getattr(model, "processor", None)
    if processor is None:
        raise TvlensError("this model reads no images, or was loaded without its processor")
    with_images = [prompt for prompt in prompts if prompt.images]
    outputs = processor(
        text=[prompt.text for prompt in with_images],
        images=[[image.pixels() for image in prompt.images] for prompt in with_images],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    ids = outputs["input_ids"]
    for prompt, row, mask in zip(with_images, ids, outputs["attention_mask"], strict=True):
        if tuple(row[mask.bool()].tolist()) != prompt.tokens[1 : 1 + int(mask.sum())]:
            raise TvlensError(
                f"{type(processor).__name__} makes other tokens of {prompt.text!r} than the "
                "prompt has"
            )
    found = {k: v for k, v in outputs.items() if isinstance(v, Tensor) and k not in _TOKENS}
    where = torch.tensor([bool(prompt.images) for prompt in prompts])
    return {
        key: _spread(value, where, width) if value.shape == ids.shape else value
        for key, value in found.items()
    }


def _spread(value: Tensor, where: Tensor, width: int) -> Tensor:
    """A number per token of the prompts with images, as one per position of all prompts."""
    whole = torch.zeros(len(where), width, dtype=value.dtype)
    kept = value[:, : width - 1]
    whole[where, 1 : 1 + kept.shape[1]] = kept
    return whole


class SoftProcessor:
    """The processor of a tiny-vlm: as many placeholders for every image, and its pixels."""

    def __init__(self, tokenizer: Any, *, image_token: str, tokens: int, size: int) -> None:
        self.tokenizer, self.image_token = tokenizer, image_token
        self.tokens, self.size = tokens, size

    def image_processor(self, images: Sequence[np.ndarray]) -> Float[Tensor, "picture 3 size size"]:
        """Pixel values of pictures `uint8 [height, width, 3]`."""
        return pixels(images, size=self.size)

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Sequence[np.ndarray]],
        *,
        return_text_replacement_offsets: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Tokens of texts whose markers are expanded, and pixels, as Hugging Face's processors."""
        expanded = self.image_token * self.tokens
        texts = [one.replace(self.image_token, expanded) for one in text]
        found = dict(self.tokenizer(texts, **options))
        if return_text_replacement_offsets:
            one = {"replacement": expanded}
            found["text_replacement_offsets"] = [[one] * len(row) for row in images]
        return found | {"pixel_values": self.image_processor([i for row in images for i in row])}
