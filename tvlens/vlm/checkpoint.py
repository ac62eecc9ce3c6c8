"""Building a tiny vision-language model, saving it, and loading it again."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import TvlensError
from ..files import atomic_write_folder, one_line
from ..models.boot import tokenizer_of
from ..models.damage import load_weights
from ..models.loading import folder_of
from ..models.processor import preprocess_images
from ..saved import read_tensors, write_tensors
from .model import (
    MULTIMODAL_MODELS,
    MultimodalModel,
    Projector,
    TinyVLMConfig,
    VisionEncoder,
)

CONFIG_FILE, WEIGHTS_FILE = "tiny-vlm.json", "projector.safetensors"

# Format 1, written until November 2026 and shipped with the package: key -> field of the config.
_FORMAT_1_KEYS = {
    "language": "language_model",
    "vision": "vision_model",
    "tokens": "tokens_per_image",
    "hidden": "hidden_size",
}
_FORMAT = 2


class TinyVLMProcessor:
    """The processor of a tiny vision-language model: texts and images to tokens and pixels.

    It has the interface of Hugging Face's processors. Every image becomes `tokens_per_image`
    placeholder tokens.
    """

    def __init__(
        self, tokenizer: Any, *, image_token: str, tokens_per_image: int, image_size: int
    ) -> None:
        self.tokenizer, self.image_token = tokenizer, image_token
        self.tokens_per_image, self.image_size = tokens_per_image, image_size

    def image_processor(self, images: Sequence[np.ndarray]) -> Float[Tensor, "image 3 size size"]:
        """Pixel values of images `uint8 [height, width, 3]`."""
        return preprocess_images(images, size=self.image_size)

    def __call__(
        self,
        text: Sequence[str],
        images: Sequence[Sequence[np.ndarray]],
        *,
        return_text_replacement_offsets: bool = False,
        **options: Any,
    ) -> dict[str, Any]:
        """Expand the image tokens of texts and tokenize them; preprocess the images."""
        replacement = self.image_token * self.tokens_per_image
        texts = [row.replace(self.image_token, replacement) for row in text]
        outputs = dict(self.tokenizer(texts, **options))
        if return_text_replacement_offsets:
            offsets = [[{"replacement": replacement}] * len(row) for row in images]
            outputs["text_replacement_offsets"] = offsets
        pixel_values = self.image_processor([image for row in images for image in row])
        return outputs | {"pixel_values": pixel_values}


def build_model(
    config: TinyVLMConfig,
    *,
    projector: Projector | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[MultimodalModel, Any]:
    """Load the language model and the ViT of a config and connect them.

    Args:
        config: the models, and the sizes of the projector.
        projector: trained; a new one by default.
        seed: seed of a new projector.
        dtype: dtype of the frozen parts; the projector stays in single precision.
        options: for Hugging Face's `from_pretrained` of the language model.

    Returns:
        The model and its tokenizer.

    Raises:
        TvlensError: a language model of an unsupported family.
    """
    import transformers

    folder = folder_of(config.language_model)
    model_type = transformers.AutoConfig.from_pretrained(folder).model_type
    if model_type not in MULTIMODAL_MODELS:
        supported = " or ".join(MULTIMODAL_MODELS)
        raise TvlensError(
            f"{config.language_model} is a {model_type}: the language model of a tiny-vlm is a "
            f"{supported}"
        )
    model = load_weights(MULTIMODAL_MODELS[model_type], folder, dtype=dtype, **options)
    tokenizer = tokenizer_of(folder)
    vision = folder_of(config.vision_model)
    vit = load_weights(transformers.AutoModel, vision, dtype=dtype, add_pooling_layer=False)
    model = connect_vision(model, tokenizer, vit, config, projector=projector, seed=seed)
    return model, tokenizer


def connect_vision(
    model: MultimodalModel,
    tokenizer: Any,
    vit: nn.Module,
    config: TinyVLMConfig,
    *,
    projector: Projector | None = None,
    seed: int = 0,
) -> MultimodalModel:
    """Attach a ViT and a projector to a language model, all frozen.

    Raises:
        TvlensError: the placeholder is no single token of the tokenizer.
    """
    placeholder_id = tokenizer.convert_tokens_to_ids(config.placeholder)
    if placeholder_id in (None, tokenizer.unk_token_id):
        raise TvlensError(f"{config.placeholder!r} is no token of the language model")
    if projector is None:
        d_in = vit.config.hidden_size * len(config.layers) * config.states_per_image
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            projector = Projector(
                d_in, config.hidden_size, config.tokens_per_image, model.config.hidden_size
            )
        # Soft tokens start with the scale of word embeddings.
        embedding = model.get_input_embeddings()
        first_ids = torch.arange(
            min(1000, embedding.num_embeddings), device=embedding.weight.device
        )
        scale = embedding(first_ids).std()
        with torch.no_grad():
            projector.outer.weight *= 3 * scale
            projector.outer.bias.zero_()
    vision_encoder = VisionEncoder(vit, config)
    model.requires_grad_(False).attach_vision(vision_encoder, projector, placeholder_id)
    multimodal: MultimodalModel = model.eval()
    return multimodal


def build_processor(model: MultimodalModel, tokenizer: Any) -> TinyVLMProcessor:
    """Build the processor that matches a model's config."""
    config = model.vision_encoder.config
    return TinyVLMProcessor(
        tokenizer,
        image_token=config.placeholder,
        tokens_per_image=config.tokens_per_image,
        image_size=model.vision_encoder.vit.config.image_size,
    )


def save_checkpoint(projector: Projector, config: TinyVLMConfig, folder: str | os.PathLike) -> None:
    """Write the config and the projector; the frozen parts are saved by name only."""
    with atomic_write_folder(folder) as temporary:
        # The projector is trained on states in half precision.
        weights = {name: value.half() for name, value in projector.state_dict().items()}
        write_tensors(temporary / WEIGHTS_FILE, weights)
        content = {"format": _FORMAT} | asdict(config)
        (temporary / CONFIG_FILE).write_text(json.dumps(content, indent=1))


def load_checkpoint(
    folder: str | os.PathLike, **options: Any
) -> tuple[MultimodalModel, TinyVLMProcessor]:
    """Load the model that `save_checkpoint` wrote, and its processor.

    Args:
        folder: folder of the checkpoint, in format 2 or 1.
        options: as in `build_model`.

    Raises:
        TvlensError: the folder holds no such model.
    """
    folder = Path(folder)
    try:
        config = _read_config(folder / CONFIG_FILE)
        weights, _ = read_tensors(folder / WEIGHTS_FILE, kind="", what="projector")
        hidden_size, d_in = weights["inner.weight"].shape
        d_model = len(weights["outer.bias"]) // config.tokens_per_image
        projector = Projector(d_in, hidden_size, config.tokens_per_image, d_model)
        projector.load_state_dict(weights)
    except (OSError, ValueError, TypeError, LookupError, RuntimeError) as error:
        raise TvlensError(f"{folder} holds no tiny-vlm ({one_line(error)})") from error
    model, tokenizer = build_model(config, projector=projector, **options)
    return model, build_processor(model, tokenizer)


def _read_config(path: Path) -> TinyVLMConfig:
    content = json.loads(path.read_text())
    if content.pop("format", 1) == 1:
        content = {_FORMAT_1_KEYS.get(key, key): value for key, value in content.items()}
    return TinyVLMConfig(**content | {"layers": tuple(content["layers"])})
