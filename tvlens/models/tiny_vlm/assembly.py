"""Putting a tiny vision-language model together, keeping it, and opening it again."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import TvlensError
from ...files import one_line, replacing_folder
from ..damage import load_weights
from ..processor import SoftProcessor
from .eye import Eye, Projector
from .form import Form
from .pictured import PICTURED, Pictured

SETTINGS, WEIGHTS = "tiny-vlm.json", "projector.safetensors"


def assemble(
    form: Form,
    *,
    projector: Projector | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[Pictured, Any]:
    """The model of this form and its tokenizer; with a new projector where none is given.

    Args:
        dtype: of the frozen parts; the projector stays in single precision.
        options: for Hugging Face's `from_pretrained` of the language model.

    Raises:
        TvlensError: a language model of another family.
    """
    import transformers

    from ..boot import tokenizer_of
    from ..loading import folder_of

    language = folder_of(form.language)
    family = transformers.AutoConfig.from_pretrained(language).model_type
    if family not in PICTURED:
        known = " or ".join(PICTURED)
        raise TvlensError(f"{form.language} is a {family}: a tiny-vlm speaks through a {known}")
    model = load_weights(PICTURED[family], language, dtype=dtype, **options)
    tokenizer = tokenizer_of(language)
    vision = folder_of(form.vision)
    vit = load_weights(transformers.AutoModel, vision, dtype=dtype, add_pooling_layer=False)
    return fitted(model, tokenizer, vit, form, projector=projector, seed=seed), tokenizer


def fitted(
    model: Pictured,
    tokenizer: Any,
    vit: nn.Module,
    form: Form,
    *,
    projector: Projector | None = None,
    seed: int = 0,
) -> Pictured:
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
        words = model.get_input_embeddings()
        some = torch.arange(min(1000, words.num_embeddings), device=words.weight.device)
        scale = words(some).std()
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


def processor_of(model: Pictured, tokenizer: Any) -> SoftProcessor:
    """What makes tokens and pixels for a model out of texts and pictures."""
    form, size = model.eye.form, model.eye.vit.config.image_size
    return SoftProcessor(tokenizer, image_token=form.placeholder, tokens=form.tokens, size=size)


def open_saved(folder: str | os.PathLike, **options: Any) -> tuple[Pictured, SoftProcessor]:
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
        hidden, states = weights["inner.weight"].shape
        width = len(weights["outer.bias"]) // form.tokens
        projector = Projector(states, hidden, form.tokens, width)
        projector.load_state_dict(weights)
    except (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError) as error:
        raise TvlensError(f"{folder} holds no tiny-vlm ({one_line(error)})") from error
    model, tokenizer = assemble(form, projector=projector, **options)
    return model, processor_of(model, tokenizer)
