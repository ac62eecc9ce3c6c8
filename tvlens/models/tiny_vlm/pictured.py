"""Language models that read pictures among words: soft tokens where placeholders hold their places.

Whatever the family, the model is its own class with one more input, so every tool that knows the
language model knows this one.
"""

import functools
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Gemma3ForCausalLM, LlamaForCausalLM

from ...errors import TvlensError
from .eye import Eye, Projector

# How many pictures' soft tokens are remembered: prompts show the same ones again and again.
_REMEMBERED = 4096


class Pictured:
    """A language model that takes `pixel_values` beside tokens, for soft tokens at placeholders."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        register()

    def see(self, eye: Eye, projector: Projector, placeholder: int) -> "Pictured":
        """Give the language model its eye; returns the model itself."""
        self.eye, self.projector, self.placeholder = eye, projector, placeholder
        self.remembered: dict[bytes, Tensor] = {}
        return self

    def soft_tokens(
        self, pixels: Float[Tensor, "picture 3 size size"]
    ) -> Float[Tensor, "picture token d_model"]:
        """What stands for each picture among the embeddings; every picture is looked at once."""
        keys = [one.detach().cpu().numpy().tobytes() for one in pixels]
        fresh = {key: i for i, key in enumerate(keys) if key not in self.remembered}
        if fresh:
            if len(self.remembered) + len(fresh) > _REMEMBERED:
                self.remembered.clear()
                fresh = {key: i for i, key in enumerate(keys)}
            states = self.eye(pixels[list(fresh.values())])
            self.remembered |= dict(zip(fresh, states, strict=True))
        return self.projector(torch.stack([self.remembered[key] for key in keys]))

    def forward(
        self,
        input_ids: Int[Tensor, "row pos"] | None = None,
        pixel_values: Float[Tensor, "picture 3 size size"] | None = None,
        **options: Any,
    ) -> Any:
        """Logits. Pictures stand in the order of their placeholders, row by row."""
        if pixel_values is None:
            return super().forward(input_ids=input_ids, **options)
        there = input_ids == self.placeholder
        soft = self.soft_tokens(pixel_values).flatten(0, 1)
        if int(there.sum()) != len(soft):
            raise TvlensError(
                f"{len(pixel_values)} pictures make {len(soft)} soft tokens, but the prompts hold "
                f"{int(there.sum())} placeholders"
            )
        embedded = self.get_input_embeddings()(input_ids)
        merged = embedded.masked_scatter(there[..., None], soft.to(embedded))
        return super().forward(inputs_embeds=merged, **options)


class PicturedLlama(Pictured, LlamaForCausalLM):
    """A Llama that reads pictures, too."""


class PicturedGemma3(Pictured, Gemma3ForCausalLM):
    """A Gemma 3 that reads pictures, too: not its own way, but by soft tokens."""


# By `model_type` of a language model's configuration.
PICTURED = {"llama": PicturedLlama, "gemma3_text": PicturedGemma3}


@functools.cache
def register() -> None:
    """Make the models known to TransformerLens: each its family's, which also takes pixels."""
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )

    for model in PICTURED.values():
        family = SUPPORTED_ARCHITECTURES[model.__bases__[1].__name__]
        ArchitectureAdapterFactory.register_adapter(model.__name__, _with_pixels(family))


def _with_pixels(family: type) -> type:
    """A family's adapter whose bridge lets pixel values through."""

    class Adapter(family):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.cfg.is_multimodal = True

    return Adapter
