"""Image inputs: preprocessing to pixel values, and the processors of vision-language models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError

# Mean and standard deviation of ImageNet per colour channel, used to train most encoders.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Outputs of a processor that `Batch` builds itself, because it appends answers and padding.
_TOKEN_OUTPUTS = ("input_ids", "attention_mask")


def preprocess_images(
    images: Sequence[np.ndarray],
    *,
    size: int = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "image 3 size size"]:
    """Resize and normalize images to the pixel values of a vision encoder.

    Args:
        images: `uint8 [height, width, 3]`, of any sizes.
        size: pixels a side; images are stretched to it by bicubic interpolation with
            antialiasing, clamped to the range of the input.
        mean: per channel, of values from 0 to 1, as in the model's training.
        std: likewise.

    Raises:
        TvlensError: no images, or one of another shape or dtype.
    """
    if not len(images):
        raise TvlensError("no images")
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise TvlensError(
                f"image {index} is {image.dtype} {list(image.shape)}, not uint8 [height, width, 3]"
            )
    if len({image.shape for image in images}) == 1:
        resized = _resize(np.stack(images), size)
    else:
        resized = torch.cat([_resize(image[None], size) for image in images])
    shift, scale = (rearrange(torch.tensor(part), "color -> color 1 1") for part in (mean, std))
    return (resized - shift) / scale


def _resize(images: np.ndarray, size: int) -> Float[Tensor, "image 3 size size"]:
    values = rearrange(torch.tensor(images), "image row column color -> image color row column")
    values = values.float() / 255
    if values.shape[2:] != (size, size):
        values = torch.nn.functional.interpolate(
            values, size=(size, size), mode="bicubic", antialias=True
        )
    return values.clamp(0, 1)


def processor_or_tokenizer(model: Any) -> Any:
    """Return the model's processor if it has one, else its tokenizer."""
    return getattr(model, "processor", None) or getattr(model, "tokenizer", None)


def load_processor(name: str, **options: Any) -> Any:
    """Load the processor of a folder or hub id without torchvision; None if there is none.

    Hugging Face's processors of models that also read videos require torchvision for the videos
    alone; such a processor is built without its video part.
    """
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(name, **options)
    except (ImportError, AttributeError):
        pass
    except (OSError, ValueError):
        return None
    config = transformers.AutoConfig.from_pretrained(name, **options)
    mapping = transformers.models.auto.processing_auto.PROCESSOR_MAPPING
    cls = without_video_processor(mapping[type(config)])
    processor_config, _ = cls.get_processor_dict(name, **options)
    image_processor = transformers.AutoImageProcessor.from_pretrained(name, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    return cls.from_args_and_dict([image_processor, tokenizer, None], processor_config)


def without_video_processor(cls: type) -> type:
    """Create a subclass of a Hugging Face processor class that needs no video processor."""

    def check(self: Any, name: str, part: Any) -> Any:
        return None if part is None else cls.check_argument_for_proper_class(self, name, part)

    # Hugging Face reads the arguments off `__init__`, so the subclass must not define its own.
    return type(cls.__name__, (cls,), {"check_argument_for_proper_class": check})


def has_images(prompts: Sequence[Any] | Tensor) -> bool:
    """Whether any prompt contains an image; token ids do not."""
    return not isinstance(prompts, Tensor) and any(
        getattr(prompt, "images", ()) for prompt in prompts
    )


def process_images(model: Any, prompts: Sequence[Any], *, width: int) -> dict[str, Tensor]:
    """Run the model's processor on the images of prompts.

    Args:
        model: a vision-language model with its processor.
        prompts: built prompts, with or without images.
        width: positions per row after padding.

    Returns:
        Every output of the processor except the tokens, by the name of the model's input. Outputs
        with one value per token are 0 at the beginning-of-text token, after the prompt and in the
        padding.

    Raises:
        TvlensError: no processor, or a processor whose tokens differ from the prompt's.
    """
    processor = getattr(model, "processor", None)
    if processor is None:
        raise TvlensError("this model reads no images, or was loaded without its processor")
    with_images = [prompt for prompt in prompts if prompt.images]
    outputs = processor(
        text=[prompt.text for prompt in with_images],
        images=[[image.read_pixels() for image in prompt.images] for prompt in with_images],
        add_special_tokens=False,
        padding=True,
        padding_side="right",
        return_tensors="pt",
    )
    ids = outputs["input_ids"]
    for prompt, row, mask in zip(with_images, ids, outputs["attention_mask"], strict=True):
        if tuple(row[mask.bool()].tolist()) != prompt.tokens[1 : 1 + int(mask.sum())]:
            raise TvlensError(
                f"{type(processor).__name__} reads {prompt.text!r} as other tokens "
                "than those of the prompt"
            )
    shows_image = torch.tensor([bool(prompt.images) for prompt in prompts])
    return {
        key: _pad_per_token(value, shows_image, width) if value.shape == ids.shape else value
        for key, value in outputs.items()
        if isinstance(value, Tensor) and key not in _TOKEN_OUTPUTS
    }


def _pad_per_token(value: Tensor, shows_image: Tensor, width: int) -> Tensor:
    """Extend one value per token of the prompts with images to all positions of all prompts."""
    padded = torch.zeros(len(shows_image), width, dtype=value.dtype)
    value = value[:, : width - 1]
    padded[shows_image, 1 : 1 + value.shape[1]] = value
    return padded
