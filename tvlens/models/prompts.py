"""`read_prompts`: conversion of prompts of any form to rows without padding.

Texts, token lists, built prompts, padded tensors and what tokenizers give with their attention
masks all become rows of tokens that `Batch` pads in the one way the models are run.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import is_integer
from .families import family

# Outputs of tokenizers that models do not need.
_IGNORED = {"special_tokens_mask", "length", "offset_mapping", "overflow_to_sample_mapping"}

# What `read_prompts` reads.
Prompts = (
    str
    | Sequence[Any]
    | Mapping[str, Any]
    | np.ndarray
    | Int[Tensor, "*row pos"]
    | Float[Tensor, "row pos input"]
    | Float[Tensor, "row channel height width"]
)
Rows = list[Any]


def read_prompts(model: Any, prompts: Any) -> Any:
    """Convert prompts to a list of token rows; images and vectors (float tensors) stay as they are.

    Args:
        prompts: a text or texts, tokenised by the model; one prompt's tokens or several prompts',
            as lists, tensors or arrays; built prompts, with images or without; or what a tokenizer
            gives, a mapping with "input_ids" and perhaps "attention_mask".

    A tensor or array of several rows may be padded with the tokenizer's own padding token; lists
    are not changed. See `remove_padding` for what counts as padding; an attention mask leaves no
    doubt.

    Raises:
        TvlensError: no prompts, none of these forms, a mask with gaps, padding that cannot be told
            from the text, or token ids outside the vocabulary.
    """
    if isinstance(prompts, Mapping):
        rows = _tokenizer_rows(model, prompts)
    elif isinstance(prompts, Tensor) or (
        isinstance(prompts, np.ndarray) and prompts.dtype.kind in "biufc"
    ):
        tensor = torch.as_tensor(prompts)
        if tensor.is_floating_point():
            return _check_float_inputs(model, tensor)
        rows = _split_rows(model, tensor)
    else:
        rows = _list_rows(model, prompts)
    if not rows:
        raise TvlensError("no prompts to run")
    _check_tokens(model, rows)
    return rows


def is_tokenizer_output(prompts: Any) -> bool:
    """Whether prompts are the output of a tokenizer: a mapping with "input_ids"."""
    return isinstance(prompts, Mapping) and "input_ids" in prompts


def remove_padding(tokenizer: Any, tokens: Int[Tensor, "row pos"]) -> list[Int[Tensor, " _"]]:
    """Remove the padding of the rows of a tensor.

    A padding token with no other use is padding at either end. One that also begins
    or ends texts (GPT-2's <|endoftext|>) follows these rules:

    - At the beginning, one of them is a text's own where every row has one; the rest is padding.
      If every row has two or more, text and padding cannot be distinguished: an error.
    - At the end, all of them are padding, unless the tokenizer itself ends its texts with one.
      If every row has just one, end and padding cannot be distinguished: an error.
    - Padding stands on one side: where both are possible, one token at the other side is the
      text's own.

    Raises:
        TvlensError: a row of nothing but padding, or padding that cannot be told from the text.
    """
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None:
        return list(tokens)
    is_empty = (tokens == pad).all(1)
    nonempty = tokens[~is_empty]
    begin, end = torch.zeros(len(tokens)).long(), torch.full((len(tokens),), tokens.shape[1])
    if len(nonempty):
        left, right = _count_padding(tokenizer, pad, nonempty)
        begin[~is_empty], end[~is_empty] = left, tokens.shape[1] - right
    if is_empty.any():
        if pad != _first_token(tokenizer):
            row = int(is_empty.nonzero()[0])
            raise TvlensError(f"prompt {row} is empty: it holds nothing but padding")
        end[is_empty] = 1  # a text's beginning and nothing behind it
    bounds = zip(tokens, begin.tolist(), end.tolist(), strict=True)
    return [row[start:stop] for row, start, stop in bounds]


def _count_padding(
    tokenizer: Any, pad: int, tokens: Int[Tensor, "row pos"]
) -> tuple[Int[Tensor, " row"], Int[Tensor, " row"]]:
    """Count the padding tokens of each row on the left and on the right."""
    left, right = (_run_length(side == pad) for side in (tokens, tokens.flip(1)))
    special = {getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "cls")}
    if pad not in special:
        return left, right
    first = getattr(tokenizer, "bos_token_id", None)
    behind = tokens.gather(1, left[:, None])[:, 0]  # no row is all padding
    n_first = int(left.min())
    if first not in (None, pad) and bool((behind == first).all()):
        n_first = 0  # the beginning of the texts follows the padding
    if n_first > 1 and pad != _first_token(tokenizer):
        n_first = 0
    if n_first > 1:
        raise TvlensError(
            _ambiguity_message(tokenizer, pad, f"every row begins with {n_first} or more")
        )
    longest = int(left.max()), int(right.max())
    left = left - n_first
    right = right - min(int(right.min()), int(_ends_texts(tokenizer, pad)))
    if left.any() and right.any():
        if max(longest) < 2 or min(longest) > 1:
            raise TvlensError(
                _ambiguity_message(tokenizer, pad, "rows begin and end with one or more")
            )
        # One at the other side is the text's own.
        if longest[0] < 2:
            left = torch.zeros_like(left)
        else:
            right = torch.zeros_like(right)
    elif bool((right == 1).all()):
        raise TvlensError(_ambiguity_message(tokenizer, pad, "every row ends with one"))
    return left, right


def _ambiguity_message(tokenizer: Any, pad: int, problem: str) -> str:
    return (
        f"{problem} {tokenizer.decode([pad])!r}, which is this tokenizer's padding and also begins "
        "or ends texts: give the tokenizer's whole output with its attention_mask, or token lists"
    )


def _first_token(tokenizer: Any) -> int | None:
    """The token that texts may begin with, as in `tvlens.tasks.beginning_token`."""
    names = ("bos_token_id", "cls_token_id", "eos_token_id")
    tokens = (getattr(tokenizer, name, None) for name in names)
    return next((token for token in tokens if token is not None), None)


def _ends_texts(tokenizer: Any, token: int) -> bool:
    """Whether a tokenizer appends this token to every text."""
    return list(tokenizer("a")["input_ids"])[-1:] == [token]


def _run_length(hits: Bool[Tensor, "row pos"]) -> Int[Tensor, " row"]:
    """Count the entries of each row before the first false one."""
    return hits.long().cumprod(1).sum(1)


def _split_rows(model: Any, tokens: Tensor) -> Rows:
    """Split an integer tensor into rows; a tensor of one axis is one prompt."""
    if tokens.ndim not in (1, 2) or tokens.dtype == torch.bool or tokens.is_complex():
        kind = f"{str(tokens.dtype).removeprefix('torch.')} {list(tokens.shape)}"
        raise TvlensError(f"a tensor of prompts is integers [prompt, position], not {kind}")
    tokens = tokens.long().cpu()
    if tokens.ndim == 1:
        return [tokens]
    if not tokens.shape[1]:
        raise TvlensError("prompt 0 is empty")
    return remove_padding(getattr(model, "tokenizer", None), tokens) if len(tokens) else []


def _check_float_inputs(model: Any, tensor: Tensor) -> Tensor:
    """Check images or vectors, and return them unchanged."""
    image_shape, shape = family(model).image_shape, list(tensor.shape)
    if tensor.ndim not in (3, 4):
        raise TvlensError(
            f"a float tensor of shape {shape} holds no prompts: token ids are integers, images "
            "[row, channel, height, width], vectors [row, position, input]"
        )
    if tensor.ndim == 4 and image_shape is None:
        raise TvlensError(f"this model reads no images, such as a tensor of shape {shape}")
    if tensor.ndim == 4 and shape[1:] != list(image_shape):
        raise TvlensError(
            f"the model reads images [channel, height, width] {list(image_shape)}, not {shape[1:]}"
        )
    if tensor.ndim == 3 and image_shape is not None:
        raise TvlensError(f"this model reads images [row, channel, height, width], not {shape}")
    # A model of vectors calls the width of its inputs its vocabulary.
    widths = [model.cfg.d_model, getattr(model.cfg, "d_vocab", None)]
    if tensor.ndim == 3 and image_shape is None and shape[2] not in widths:
        raise TvlensError(
            f"vectors in place of embeddings are as wide as the model, {model.cfg.d_model}, not "
            f"{shape[2]}"
        )
    if not len(tensor):
        raise TvlensError("no prompts to run")
    return tensor


def _tokenizer_rows(model: Any, prompts: Mapping) -> Rows:
    """Select the rows of a tokenizer's output by its attention mask."""
    if "input_ids" not in prompts:
        keys = ", ".join(map(str, prompts)) or "nothing"
        raise TvlensError(f"a mapping of prompts needs 'input_ids'; this one has {keys}")
    accepted_keys = _IGNORED | {"input_ids", "attention_mask", "token_type_ids"}
    if other := [str(key) for key in prompts if key not in accepted_keys]:
        raise TvlensError(
            f"{other[0]!r} cannot be read from a mapping: give 'input_ids' and 'attention_mask'; "
            "prompts with images are built by tvlens.tasks.build"
        )
    tokens, mask = (prompts.get(key) for key in ("input_ids", "attention_mask"))
    if mask is None:
        rows: Rows = read_prompts(model, tokens)
        return rows
    if any(bool(torch.as_tensor(t).any()) for t in _as_rows(prompts.get("token_type_ids", []))):
        raise TvlensError("token_type_ids other than 0 (pairs of texts) cannot be read")
    rows, masks = _as_rows(tokens), _as_rows(mask)
    if [len(row) for row in rows] != [len(one) for one in masks]:
        raise TvlensError("input_ids and attention_mask are of different shapes")
    return [_apply_mask(row, one, i) for i, (row, one) in enumerate(zip(rows, masks, strict=True))]


def _as_rows(values: Any) -> list[Tensor]:
    """Convert a tensor, an array or nested lists to rows of integers; one row may be flat."""
    if not isinstance(values, Tensor | np.ndarray) and len(values) and not is_integer(values[0]):
        return [_to_row(value, i) for i, value in enumerate(values)]
    tensor = torch.as_tensor(values).cpu()
    return list(tensor) if tensor.ndim > 1 else [tensor] if tensor.numel() else []


def _apply_mask(row: Tensor, mask: Tensor, i: int) -> Tensor:
    """Select the tokens of one row by its mask, which must be contiguous."""
    indices = mask.bool().nonzero().flatten()
    if not len(indices):
        raise TvlensError(f"prompt {i} is empty: its attention mask is 0 everywhere")
    start, stop = int(indices[0]), int(indices[-1]) + 1
    if stop - start != len(indices):
        raise TvlensError(
            f"the attention mask of prompt {i} has gaps: it must be 1 on one run of tokens"
        )
    return row[start:stop]


def _list_rows(model: Any, prompts: Any) -> Rows:
    """Convert a list of texts, token lists or prompts, or one of these, to rows."""
    if isinstance(prompts, np.ndarray):
        prompts = prompts.tolist()
    if isinstance(prompts, str) or _is_built(prompts):
        prompts = [prompts]
    if not isinstance(prompts, Sequence):
        raise TvlensError(
            f"cannot read prompts from {type(prompts).__name__}: give texts, token lists, a "
            "tensor, or a tokenizer's output"
        )
    if len(prompts) and all(is_integer(token) for token in prompts):
        prompts = [prompts]
    if any(isinstance(p, Mapping) for p in prompts):
        return [row for prompt in prompts for row in read_prompts(model, prompt)]
    if any(isinstance(p, str) for p in prompts) and getattr(model, "tokenizer", None) is None:
        raise TvlensError("this model has no tokenizer: give token ids, or load it with tokenizer=")
    return [_read_prompt(model, prompt, i) for i, prompt in enumerate(prompts)]


def _read_prompt(model: Any, prompt: Any, i: int) -> Any:
    if isinstance(prompt, str):
        return model.to_tokens(prompt)[0].tolist()
    return prompt if _is_built(prompt) else _to_row(prompt, i)


def _is_built(prompt: Any) -> bool:
    """Whether this is a `Prompt`, or another object with tokens."""
    tokens = getattr(prompt, "tokens", None)
    return isinstance(tokens, Tensor) or (
        isinstance(tokens, tuple | list) and all(map(is_integer, tokens))
    )


def _to_row(tokens: Any, i: int) -> Tensor:
    """Convert one prompt's tokens to a tensor."""
    if not isinstance(tokens, Tensor):
        is_token_ids = isinstance(tokens, Sequence | np.ndarray) and all(map(is_integer, tokens))
        if isinstance(tokens, str) or not is_token_ids:
            raise TvlensError(f"prompt {i} is neither a text nor a list of token ids")
        return torch.tensor([int(token) for token in tokens], dtype=torch.long)
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise TvlensError(f"prompt {i} is {list(tokens.shape)} {tokens.dtype}, not token ids [pos]")
    return tokens.long().cpu()


def _check_tokens(model: Any, rows: Rows) -> None:
    """Raise TvlensError for a token id outside the model's vocabulary."""
    if family(model).image_shape is not None:
        raise TvlensError("this model reads images [row, channel, height, width], not tokens")
    embedding = getattr(getattr(model, "original_model", None), "get_input_embeddings", None)
    rows_of_weights = len(getattr(embedding() if embedding else None, "weight", ()))
    vocabulary = max(getattr(model.cfg, "d_vocab", None) or 0, rows_of_weights)
    if vocabulary < 1:
        return
    for i, row in enumerate(rows):
        # Image tokens may be outside the vocabulary; the model replaces them.
        tokens = torch.as_tensor(getattr(row, "tokens", row))
        if getattr(row, "images", ()) or not len(tokens):
            continue
        for token in (int(tokens.min()), int(tokens.max())):
            if not 0 <= token < vocabulary:
                raise TvlensError(
                    f"token {token} of prompt {i} is outside the model's vocabulary of {vocabulary}"
                )
