"""A small vision-language model by the recipe of LLaVA: a frozen encoder, a projector, a frozen
language model.

A picture becomes a handful of soft tokens: vectors in the language model's embedding space that
stand in the prompt where placeholder tokens hold their places. From there on it is the language
model, block by block, so everything that works on that model works here.

Source: Liu et al. 2023, "Visual Instruction Tuning", section 4.1 (only the projector is trained).
"""

import functools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from ..errors import TvlensError
from ..files import replacing_folder
from .processor import SoftProcessor

SETTINGS, WEIGHTS = "tiny-vlm.json", "projector.safetensors"

# How many pictures' soft tokens are remembered: prompts show the same ones again and again.
_REMEMBERED = 4096


@dataclass(frozen=True)
class Form:
    """What a model is put together from.

    Attributes:
        language: Llama-like model, by zoo name, folder or hub id.
        vision: ViT, likewise.
        layers: hidden states of the ViT that are read, side by side; 0 is the embedding.
        grid: patches are averaged in a grid of so many cells a side.
        tokens: soft tokens of a picture.
        hidden: units inside the projector; training gives every thing one.
        placeholder: a token of the language model that no text holds.
    """

    language: str = "smollm2-135m"
    vision: str = "dinov2-small"
    layers: tuple[int, ...] = (6, 7, 8, 9, 10, 11)
    grid: int = 1
    tokens: int = 4
    hidden: int = 844
    placeholder: str = "<empty_output>"

    @property
    def seen(self) -> int:
        """States of a picture: the class token's, and a mean for every cell."""
        return 1 + self.grid**2


class Eye(nn.Module):
    """The frozen encoder: pixel values to the states that the projector reads."""

    def __init__(self, vit: nn.Module, form: Form):
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.form = form

    @torch.no_grad()
    def forward(
        self, pixels: Float[Tensor, "picture 3 size size"]
    ) -> Float[Tensor, "picture seen state"]:
        seen = self.vit(pixels.to(self.vit.dtype), output_hidden_states=True).hidden_states
        states = torch.cat([seen[layer] for layer in self.form.layers], dim=-1).float()
        side = round((states.shape[1] - 1) ** 0.5)
        patches = states[:, 1:].unflatten(1, (side, side)).movedim(-1, 1)
        cells = nn.functional.adaptive_avg_pool2d(patches, self.form.grid)
        return torch.cat([states[:, :1], cells.flatten(2).mT], dim=1)


class Projector(nn.Module):
    """All that is trained: states of the encoder to embeddings of the language model.

    Hidden units share out a whole (softmax) and every soft token is the mixture of what they say:
    a picture enters as a mixture of words. An MLP of the same size with GELU learned its training
    pictures as well, but named a new artist's half as often.
    """

    def __init__(self, states: int, hidden: int, tokens: int, width: int):
        super().__init__()
        self.tokens = tokens
        self.norm = nn.LayerNorm(states)
        self.inner = nn.Linear(states, hidden)
        self.outer = nn.Linear(hidden, tokens * width)

    def forward(
        self, states: Float[Tensor, "*row seen state"]
    ) -> Float[Tensor, "*row token d_model"]:
        shares = self.inner(self.norm(states.flatten(-2))).softmax(-1)
        return self.outer(shares).unflatten(-1, (self.tokens, -1))


class PicturedLlama(LlamaForCausalLM):
    """A Llama that takes `pixel_values` beside tokens, with soft tokens at the placeholders."""

    def see(self, eye: Eye, projector: Projector, placeholder: int) -> "PicturedLlama":
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


def assemble(
    form: Form,
    *,
    projector: Projector | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[PicturedLlama, Any]:
    """The model of this form and its tokenizer; with a new projector where none is given.

    Args:
        dtype: of the frozen parts; the projector stays in single precision.
        options: for Hugging Face's `from_pretrained` of the language model.
    """
    import transformers

    from .load import folder_of, tokenizer_of

    language = folder_of(form.language)
    model = PicturedLlama.from_pretrained(language, dtype=dtype, **options)
    tokenizer = tokenizer_of(language)
    vit = transformers.AutoModel.from_pretrained(
        folder_of(form.vision), dtype=dtype, add_pooling_layer=False
    )
    return fitted(model, tokenizer, vit, form, projector=projector, seed=seed), tokenizer


def fitted(
    model: PicturedLlama,
    tokenizer: Any,
    vit: nn.Module,
    form: Form,
    *,
    projector: Projector | None = None,
    seed: int = 0,
) -> PicturedLlama:
    """A language model with the eye and the projector of this form.

    Raises:
        TvlensError: the placeholder is no single token of the tokenizer.
    """
    placeholder = tokenizer.convert_tokens_to_ids(form.placeholder)
    if placeholder in (None, tokenizer.unk_token_id):
        raise TvlensError(f"{form.placeholder!r} is no token of the language model")
    if projector is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            states = vit.config.hidden_size * len(form.layers) * form.seen
            projector = Projector(states, form.hidden, form.tokens, model.config.hidden_size)
        # Soft tokens begin as long as words are.
        scale = model.get_input_embeddings().weight.std()
        with torch.no_grad():
            projector.outer.weight *= 3 * scale
            projector.outer.bias.zero_()
    return model.requires_grad_(False).see(Eye(vit, form), projector, placeholder).eval()


def save(projector: Projector, form: Form, folder: str | os.PathLike) -> None:
    """Write what `load` reads: the form and the projector; the frozen parts are named, not kept."""
    from safetensors.torch import save_file

    with replacing_folder(folder) as whole:
        # Half precision is what the states were trained on; the file is half as large, too.
        save_file({k: v.half() for k, v in projector.state_dict().items()}, whole / WEIGHTS)
        (whole / SETTINGS).write_text(json.dumps(asdict(form), indent=1))


def is_saved(folder: str | os.PathLike) -> bool:
    """Whether a folder holds what `save` wrote."""
    return (Path(folder) / SETTINGS).is_file()


def processor_of(model: PicturedLlama, tokenizer: Any) -> SoftProcessor:
    """What makes tokens and pixels for a model out of texts and pictures."""
    form, size = model.eye.form, model.eye.vit.config.image_size
    return SoftProcessor(tokenizer, image_token=form.placeholder, tokens=form.tokens, size=size)


def open_saved(folder: str | os.PathLike, **options: Any) -> tuple[PicturedLlama, SoftProcessor]:
    """The model that `save` wrote, and its processor.

    Raises:
        TvlensError: the folder holds no such model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    try:
        about = json.loads((folder / SETTINGS).read_text())
        form = Form(**about | {"layers": tuple(about["layers"])})
        weights = load_file(folder / WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise TvlensError(f"{folder} holds no tiny-vlm ({error})") from error
    hidden, states = weights["inner.weight"].shape
    width = len(weights["outer.bias"]) // form.tokens
    projector = Projector(states, hidden, form.tokens, width)
    projector.load_state_dict(weights)
    model, tokenizer = assemble(form, projector=projector, **options)
    return model, processor_of(model, tokenizer)


@functools.cache
def register() -> None:
    """Make the model known to TransformerLens: a Llama to it, which also takes pixels."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.supported_architectures.llama import (
        LlamaArchitectureAdapter,
    )

    class PicturedLlamaAdapter(LlamaArchitectureAdapter):
        """Llama's blocks; the bridge lets pixel values through."""

        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.cfg.is_multimodal = True

    ArchitectureAdapterFactory.register_adapter(PicturedLlama.__name__, PicturedLlamaAdapter)
