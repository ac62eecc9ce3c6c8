"""A small vision-language model: frozen vision encoder, projector, frozen language model.

The design is that of LLaVA. The projector maps the encoder's states of an image to a few soft
tokens, vectors in the embedding space of the language model. They replace the embeddings of
placeholder tokens in the prompt. The model is a subclass of its language model with one more input,
so every tool for that language model works on it.

Source: Liu et al. 2023, "Visual Instruction Tuning", section 4.1 (only the projector is trained).
"""

import functools
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Gemma3ForCausalLM, LlamaForCausalLM

from ..errors import TvlensError

# Language model of the zoo -> a token of its vocabulary that occurs in no text.
PLACEHOLDERS = {"smollm2-135m": "<empty_output>", "gemma3-270m": "<unused0>"}

# Number of images whose encoder states are kept in memory; prompts repeat the same images.
_CACHE_SIZE = 4096


@dataclass(frozen=True)
class TinyVLMConfig:
    """The parts and sizes of a tiny vision-language model.

    Attributes:
        language_model: a Llama-like or Gemma-3-like model: zoo name, folder or hub id.
        vision_model: a ViT: zoo name, folder or hub id.
        layers: hidden states of the ViT that are concatenated; 0 is the embedding.
        grid: cells a side of the grid in which patch states are averaged.
        tokens_per_image: soft tokens for each image.
        hidden_size: hidden units of the projector; training sets one per category.
        placeholder: a token of the language model that occurs in no text; known for the language
            models of the zoo.

    Raises:
        TvlensError: no placeholder is known for the language model.
    """

    language_model: str = "smollm2-135m"
    vision_model: str = "dinov2-small"
    layers: tuple[int, ...] = (6, 7, 8, 9, 10, 11)
    grid: int = 1
    tokens_per_image: int = 4
    hidden_size: int = 844
    placeholder: str = ""

    def __post_init__(self) -> None:
        placeholder = self.placeholder or PLACEHOLDERS.get(self.language_model)
        if placeholder is None:
            raise TvlensError(
                f"no placeholder is known for {self.language_model}: give placeholder=, such as "
                "one of its special or unused tokens"
            )
        object.__setattr__(self, "placeholder", placeholder)

    @property
    def states_per_image(self) -> int:
        """Encoder states of an image: the class token's, and one mean per grid cell."""
        return 1 + self.grid**2


class VisionEncoder(nn.Module):
    """The frozen vision encoder: pixel values to the states that the projector reads."""

    def __init__(self, vit: nn.Module, config: TinyVLMConfig) -> None:
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.config = config

    @torch.no_grad()
    def forward(
        self, pixel_values: Float[Tensor, "image 3 size size"]
    ) -> Float[Tensor, "image state d_vision"]:
        """Compute the class token's state and the mean patch state of each grid cell."""
        outputs = self.vit(pixel_values.to(self.vit.dtype), output_hidden_states=True)
        hidden_states = [outputs.hidden_states[layer] for layer in self.config.layers]
        states = torch.cat(hidden_states, dim=-1).float()
        side = round((states.shape[1] - 1) ** 0.5)
        patches = rearrange(
            states[:, 1:], "image (row column) d_vision -> image d_vision row column", row=side
        )
        cells = nn.functional.adaptive_avg_pool2d(patches, self.config.grid)
        cells = rearrange(cells, "image d_vision row column -> image (row column) d_vision")
        return torch.cat([states[:, :1], cells], dim=1)


class Projector(nn.Module):
    """The trained part: encoder states to embeddings of the language model.

    A softmax over hidden units weights the embeddings of each unit, so an image is represented by
    a mixture of words. An MLP of the same size with GELU reached the same training accuracy, but
    half the accuracy on images of an artist absent from training.
    """

    def __init__(self, d_in: int, hidden_size: int, tokens: int, d_model: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(d_in)
        self.inner = nn.Linear(d_in, hidden_size)
        self.outer = nn.Linear(hidden_size, tokens * d_model)

    def forward(
        self, states: Float[Tensor, "*row state d_vision"]
    ) -> Float[Tensor, "*row token d_model"]:
        """Compute the soft tokens of each row."""
        weights = self.inner(
            self.norm(rearrange(states, "... state d_vision -> ... (state d_vision)"))
        ).softmax(-1)
        output: Tensor = self.outer(weights)
        return rearrange(output, "... (token d_model) -> ... token d_model", token=self.tokens)


class MultimodalModel:
    """Mixin for a language model that reads `pixel_values` and puts soft tokens at placeholders."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        register_architectures()

    def attach_vision(
        self, vision_encoder: VisionEncoder, projector: Projector, placeholder_id: int
    ) -> "MultimodalModel":
        """Attach the vision encoder and the projector; returns the model itself."""
        self.vision_encoder, self.projector = vision_encoder, projector
        self.placeholder_id = placeholder_id
        self.cached_states: dict[bytes, Tensor] = {}
        return self

    def soft_tokens(
        self, pixel_values: Float[Tensor, "image 3 size size"]
    ) -> Float[Tensor, "image token d_model"]:
        """Compute the embeddings of each image; the encoder runs once per distinct image."""
        keys = [image.detach().cpu().numpy().tobytes() for image in pixel_values]
        new = {key: i for i, key in enumerate(keys) if key not in self.cached_states}
        if new:
            if len(self.cached_states) + len(new) > _CACHE_SIZE:
                self.cached_states.clear()
                new = {key: i for i, key in enumerate(keys)}
            states = self.vision_encoder(pixel_values[list(new.values())])
            self.cached_states |= dict(zip(new, states, strict=True))
        soft_tokens: Tensor = self.projector(torch.stack([self.cached_states[key] for key in keys]))
        return soft_tokens

    def forward(
        self,
        input_ids: Int[Tensor, "row pos"] | None = None,
        pixel_values: Float[Tensor, "image 3 size size"] | None = None,
        **options: Any,
    ) -> Any:
        """Compute logits.

        Args:
            input_ids: token ids with placeholders for the images.
            pixel_values: images in the order of their placeholders, row by row.
            options: further inputs of the language model.

        Raises:
            TvlensError: a number of placeholders that does not match the images.
        """
        if pixel_values is None:
            return super().forward(input_ids=input_ids, **options)
        is_placeholder = input_ids == self.placeholder_id
        soft_tokens = self.soft_tokens(pixel_values).flatten(0, 1)
        if int(is_placeholder.sum()) != len(soft_tokens):
            raise TvlensError(
                f"{len(pixel_values)} images make {len(soft_tokens)} soft tokens, but the prompts "
                f"contain {int(is_placeholder.sum())} placeholders"
            )
        embeddings = self.get_input_embeddings()(input_ids)
        embeddings = embeddings.masked_scatter(
            is_placeholder[..., None], soft_tokens.to(embeddings)
        )
        return super().forward(inputs_embeds=embeddings, **options)


class MultimodalLlama(MultimodalModel, LlamaForCausalLM):
    """A Llama that also reads images."""


class MultimodalGemma3(MultimodalModel, Gemma3ForCausalLM):
    """A Gemma 3 text model that also reads images, by soft tokens instead of its own encoder."""


# By `model_type` of the language model's configuration.
MULTIMODAL_MODELS = {"llama": MultimodalLlama, "gemma3_text": MultimodalGemma3}


@functools.cache
def register_architectures() -> None:
    """Register the models with TransformerLens: their language model's adapter with pixel input."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )

    for model in MULTIMODAL_MODELS.values():
        adapter = SUPPORTED_ARCHITECTURES[model.__bases__[1].__name__]
        ArchitectureAdapterFactory.register_adapter(model.__name__, _multimodal_adapter(adapter))


def _multimodal_adapter(adapter: type) -> type:
    """A subclass of an adapter whose bridge passes pixel values to the model."""

    class Adapter(adapter):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.cfg.is_multimodal = True

    return Adapter
