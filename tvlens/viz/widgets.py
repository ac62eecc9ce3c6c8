"""CircuitsVis widgets as figures that work offline.

CircuitsVis renders every widget as a page of 1.3 MB and requests a web site to check whether it is
online. Here its functions run with a recorder in place of that renderer, so that the props are its
own, except that numbers are rounded and tokens that look like HTML stay text.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .arrays import Numbers, as_array, check_same_length, round_floats
from .figure import Figure
from .images import make_thumbnail

_LOWEST_LOG_PROB = -1000.0
_MAX_TOKENS = 20_000  # each is an element of the page, which answers to the mouse
_TOOLTIP = "56px"  # room below the last line, in which what hovering shows would be cut off


def colored_tokens(
    tokens: Sequence[str],
    values: Numbers,
    *,
    value_range: tuple[float, float] | None = None,
    images: Mapping[int, bytes] | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Tokens with a background by value, red below zero and blue above; hovering shows the value.

    Args:
        tokens: [pos].
        values: [pos].
        value_range: values with the strongest colours; by default the smallest and the largest.
        images: position -> PNG file shown instead of the token, which is its alternative text.

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    from circuitsvis.tokens import colored_tokens as shape

    values = as_array(values, name="values", axes=["pos"], max_numbers=_MAX_TOKENS)
    check_same_length("tokens", len(tokens), "values", len(values))
    low, high = value_range or (None, None)
    spec = record_props(shape, list(tokens), values, min_value=low, max_value=high)
    for position, file in (images or {}).items():
        # CircuitsVis sets tokens as innerHTML, so that a token can be an image.
        spec["props"]["tokens"][position] = make_thumbnail(file, tokens[position])
    alt = f"{len(tokens)} tokens coloured by value"
    return make_widget(spec, title, caption, alt, height=100, padding_bottom=_TOOLTIP)


def colored_tokens_multi(
    tokens: Sequence[str],
    values: Numbers,
    labels: Sequence[str],
    *,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Tokens coloured by one of several values, chosen by hovering or clicking on its label.

    Args:
        tokens: [pos].
        values: [pos label].
        labels: [label].

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    import torch
    from circuitsvis.tokens import colored_tokens_multi as shape

    values = as_array(values, name="values", axes=["pos", "label"])
    _check_tokens(tokens)
    check_same_length("tokens", len(tokens), "values", len(values))
    check_same_length("labels", len(labels), "columns of values", values.shape[1])
    spec = record_props(shape, list(tokens), torch.from_numpy(values), list(labels))
    alt = f"{len(tokens)} tokens coloured by one of: {', '.join(labels)}"
    # A line has about 80 characters, of labels and of tokens.
    lines = sum(1 + sum(map(len, words)) // 80 for words in (labels, tokens))
    return make_widget(spec, title, caption, alt, height=90 + 24 * lines)


def attention_heads(
    pattern: Numbers,
    tokens: Sequence[str],
    *,
    head_names: Sequence[str] | None = None,
    causal: bool = True,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Attention pattern of each head as a small map; hovering or clicking on one enlarges it.

    Args:
        pattern: [head dest src], from -1 (red) to 1 (blue).
        tokens: [pos], both destinations and sources.
        head_names: [head], for example "9.6"; by default "Head 0", "Head 1", ...
        causal: grey out sources that come after their destination.

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    from circuitsvis.attention import attention_heads as shape

    pattern = as_array(pattern, name="pattern", axes=["head", "dest", "src"])
    check_same_length("tokens", len(tokens), "destinations of pattern", pattern.shape[1])
    check_same_length("tokens", len(tokens), "sources of pattern", pattern.shape[2])
    names = None if head_names is None else list(head_names)
    if names is not None:
        check_same_length("head_names", len(names), "heads of pattern", len(pattern))
    spec = record_props(
        shape,
        pattern,
        list(tokens),
        attention_head_names=names,
        mask_upper_tri=None if causal else False,
    )
    alt = f"attention patterns of {len(pattern)} heads over {len(tokens)} tokens"
    # The enlarged head is a square as wide as the box, below a heading and a row of small maps.
    height = "min(706px, 100vw + 90px)"
    return make_widget(spec, title, caption, alt, height=height, max_width="600px")


def token_log_probs(
    tokens: Numbers,
    log_probs: Numbers,
    to_string: Callable[[int], str] | Sequence[str],
    *,
    top_k: int = 10,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Tokens coloured by the log-probability the model gave them; hovering shows its top guesses.

    Args:
        tokens: token ids [pos]. The first one (often BOS) is not predicted and not shown.
        log_probs: [pos vocab], natural logarithms; the row at t predicts token t + 1. Minus
            infinity (probability zero) is shown as -1000.
        to_string: the string of a token id, as a function or as the vocabulary in order.
        top_k: number of guesses listed per position.

    Raises:
        ValueError: different lengths, an id outside the vocabulary, or NaN.
    """
    import numpy as np
    import torch
    from circuitsvis.logits import token_log_probs as shape

    if hasattr(log_probs, "detach"):
        log_probs = log_probs.detach().cpu().double().numpy()
    log_probs = np.asarray(log_probs, dtype=float)
    log_probs = np.where(np.isneginf(log_probs), _LOWEST_LOG_PROB, log_probs)
    ids = torch.from_numpy(
        as_array(tokens, name="tokens", axes=["pos"], max_numbers=_MAX_TOKENS)
    ).long()
    log_probs = as_array(log_probs, name="log_probs", axes=["pos", "vocab"], max_numbers=None)
    log_probs = torch.from_numpy(log_probs)
    check_same_length("tokens", len(ids), "rows of log_probs", len(log_probs))
    vocab = log_probs.shape[1]
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise ValueError(f"token ids must be between 0 and {vocab - 1}, got {ids.tolist()}")
    name = to_string if callable(to_string) else (lambda token: to_string[token])
    spec = record_props(shape, ids, log_probs, name, top_k=min(top_k, vocab))
    alt = f"{len(ids) - 1} tokens coloured by their log-probability"
    return make_widget(spec, title, caption, alt, height=396)


def text_neuron_activations(
    tokens: Sequence[str],
    activations: Numbers,
    *,
    layer_name: str = "Layer",
    neuron_name: str = "Neuron",
    layer_labels: Sequence[str] | None = None,
    neuron_labels: Sequence[str] | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Tokens coloured by one activation, with one list to choose the layer and one the neuron.

    Args:
        tokens: [pos].
        activations: [pos layer neuron]; what a "neuron" is, for example a task vector onto which
            the residual stream is projected, is said by `neuron_name` and `neuron_labels`.
        layer_name, neuron_name: names of the two lists.
        layer_labels, neuron_labels: their entries; by default 0, 1, ...

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    from circuitsvis.activations import text_neuron_activations as shape

    activations = as_array(activations, name="activations", axes=["pos", "layer", "neuron"])
    _check_tokens(tokens)
    check_same_length("tokens", len(tokens), "positions of activations", len(activations))
    check_labels("layer_labels", layer_labels, "layers of activations", activations.shape[1])
    check_labels("neuron_labels", neuron_labels, "neurons of activations", activations.shape[2])
    spec = record_props(
        shape,
        list(tokens),
        activations,
        first_dimension_name=layer_name,
        second_dimension_name=neuron_name,
        first_dimension_labels=None if layer_labels is None else list(layer_labels),
        second_dimension_labels=None if neuron_labels is None else list(neuron_labels),
    )
    alt = f"{len(tokens)} tokens coloured by activation, by {layer_name} and {neuron_name}"
    return make_widget(spec, title, caption, alt, height=160, padding_bottom=_TOOLTIP)


def _check_tokens(tokens: Sequence[str]) -> None:
    if len(tokens) > _MAX_TOKENS:
        raise ValueError(
            f"{len(tokens):,} tokens are more than the {_MAX_TOKENS:,} that a page can show: "
            "choose a part of them"
        )


def topk_tokens(
    tokens: Sequence[str] | Sequence[Sequence[str]],
    activations: Numbers | Sequence[Numbers],
    *,
    top_k: int = 10,
    layer_name: str = "Layer",
    column_name: str = "Neuron",
    sample_labels: Sequence[str] | None = None,
    layer_labels: Sequence[str] | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Table of the tokens with the largest and smallest activations, one column per "neuron".

    Args:
        tokens: [token], the same for all samples (a vocabulary, say), or one such list per sample.
        activations: [layer token column] for one sample, or a list of these. With one sample
            CircuitsVis opens with one column, with several it opens with five: show a control as
            second sample.
        top_k: number of tokens on either side.
        layer_name, column_name: names of the first and last dimension.
        sample_labels: [sample]; layer_labels: [layer].

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    from circuitsvis.topk_tokens import topk_tokens as shape

    samples = [activations] if _n_dimensions(activations) == 3 else list(activations)
    axes = ["layer", "token", "column"]
    samples = [
        as_array(sample, name="activations", axes=axes, max_numbers=None) for sample in samples
    ]
    shared = len(tokens) > 0 and isinstance(tokens[0], str)
    words = [list(tokens)] * len(samples) if shared else [list(item) for item in tokens]
    check_same_length("lists of tokens", len(words), "samples of activations", len(samples))
    for listed, sample in zip(words, samples, strict=True):
        check_same_length("tokens", len(listed), "tokens in activations", sample.shape[1])
        check_labels("layer_labels", layer_labels, "layers of activations", len(sample))
    check_labels("sample_labels", sample_labels, "samples of activations", len(samples))
    spec = record_props(
        shape,
        words,
        samples,
        max_k=top_k,
        first_dimension_name=layer_name,
        third_dimension_name=column_name,
        sample_labels=None if sample_labels is None else list(sample_labels),
        first_dimension_labels=None if layer_labels is None else list(layer_labels),
    )
    _keep_listed_tokens(spec["props"])
    alt = f"tokens with the largest and smallest activations, by {layer_name} and {column_name}"
    return make_widget(spec, title, caption, alt, height=230 + 57 * min(top_k, 10))


def _keep_listed_tokens(props: dict[str, Any]) -> None:
    """Drop the tokens that no table lists: a vocabulary of 50,000 would be most of the page."""
    tables = zip(props["tokens"], props["topkIdxs"], props["bottomkIdxs"], strict=True)
    for sample, (words, *indices) in enumerate(tables):
        used = sorted({i for table in indices for layer in table for rank in layer for i in rank})
        place = {token: new for new, token in enumerate(used)}
        props["tokens"][sample] = [words[token] for token in used]
        for key, table in zip(("topkIdxs", "bottomkIdxs"), indices, strict=True):
            props[key][sample] = [[[place[i] for i in rank] for rank in layer] for layer in table]


def _n_dimensions(values: Numbers) -> int:
    """Number of dimensions of an array or of nested lists."""
    if hasattr(values, "ndim"):
        return int(values.ndim)
    return 1 + _n_dimensions(values[0]) if isinstance(values, Sequence) and len(values) else 0


# CircuitsVis sets tokens as innerHTML: `<s>` would vanish and `<img onerror=...>` would run. An
# invisible word joiner after the `<` or `&` makes it text, there and where tokens are plain text.
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")
_WORD_JOINER = "\u2060"


def record_props(function: Callable, *args: Any, **options: Any) -> dict[str, Any]:
    """Call a CircuitsVis function and return `{"element": name, "props": {...}}`.

    The props are what it would hand to its renderer, as JSON data.
    """
    from circuitsvis.utils.convert_props import convert_props

    recorded = []

    def render(element: str, **props: Any) -> None:
        recorded.append((element, json.loads(convert_props(props))))

    # The function's own code, with `render` replaced in a copy of its globals: CircuitsVis itself
    # stays as it is for everybody else.
    shaped = types.FunctionType(
        function.__code__, {**function.__globals__, "render": render}, argdefs=function.__defaults__
    )
    shaped(*args, **options)
    ((element, props),) = recorded
    return {"element": element, "props": _escape_markup(round_floats(props))}


def _escape_markup(value: Any) -> Any:
    if isinstance(value, str):
        return _MARKUP.sub(lambda match: match[0] + _WORD_JOINER, value)
    if isinstance(value, list):
        return [_escape_markup(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape_markup(item) for key, item in value.items()}
    return value


def make_widget(
    spec: dict[str, Any], title: str, caption: str, alt: str, *, height: int | str, **sizes: str
) -> Figure:
    """Figure around a recorded widget.

    Args:
        spec: return value of `record_props`.
        title, caption, alt: as in `Figure`.
        height: space to reserve, in pixels or as a CSS expression.
        sizes: further CSS sizes, with `_` for `-`.
    """
    named = {name.replace("_", "-"): size for name, size in sizes.items()}
    named["min-height"] = f"{height}px" if isinstance(height, int) else height
    spec = {**spec, "usermeta": {"tvlens": named}}
    return Figure("circuitsvis", spec, title=title, caption=caption, alt=alt)


def check_labels(name: str, labels: Sequence[str] | None, things: str, count: int) -> None:
    """Raise a ValueError unless there are no labels or exactly one for each thing."""
    if labels is not None:
        check_same_length(name, len(labels), things, count)
