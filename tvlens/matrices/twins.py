"""Whether two models are twins that can be compared state by state, and which weights one has."""

import hashlib
from typing import Any

from ..errors import TvlensError
from ..models.loading import model_name

# Enough numbers of every parameter to tell two trained models apart.
_SAMPLED = 16


def identity(model: Any) -> dict[str, str]:
    """The model's name and a fingerprint of its weights."""
    return {"name": model_name(model), "fingerprint": fingerprint(model)}


def fingerprint(model: Any) -> str:
    """A short hash of a few numbers of every parameter of the blocks; heads may differ."""
    found = hashlib.sha256()
    for parameter in model.blocks.parameters():
        flat = parameter.detach().flatten()
        picked = flat[:: max(1, len(flat) // _SAMPLED)][: _SAMPLED + 1].float().cpu()
        found.update(f"{tuple(parameter.shape)}".encode() + picked.numpy().tobytes())
    return found.hexdigest()[:16]


def check_same(model: Any, origin: dict[str, str] | None) -> None:
    """Raise TvlensError if `origin` (an `identity`) is of other weights than the model's."""
    if origin and origin["fingerprint"] != fingerprint(model):
        raise TvlensError(
            f"the matrix was fitted on the weights of {origin['name']!r}; this "
            f"{model_name(model)!r} has others: pass other_model=True if that is what you want"
        )


def check_twins(base: Any, tuned: Any) -> None:
    """Raise TvlensError unless both models read the same inputs the same way."""
    names = f"base {model_name(base)!r} and tuned {model_name(tuned)!r}"
    for size in ("image_size", "patch_size", "num_channels"):
        a, b = _config(base, size), _config(tuned, size)
        if a != b:
            raise TvlensError(f"{names} differ in {size.replace('_', ' ')}: {a} and {b}")
    vocabularies = [_vocabulary(model) for model in (base, tuned)]
    if None not in vocabularies and vocabularies[0] != vocabularies[1]:
        raise TvlensError(f"{names} have different tokenizers: one text is not one list of tokens")
    a, b = (getattr(model.cfg, "d_vocab", None) for model in (base, tuned))
    if None in vocabularies and a and b and a > 0 and b > 0 and a != b:
        raise TvlensError(f"{names} have vocabularies of {a} and {b} tokens")


def _vocabulary(model: Any) -> dict[str, int] | None:
    tokenizer = getattr(model, "tokenizer", None)
    return tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None


def _config(model: Any, name: str) -> Any:
    for config in (model.cfg, getattr(getattr(model, "original_model", None), "config", None)):
        found = getattr(config, name, None)
        if found is not None:
            return found
    return None
