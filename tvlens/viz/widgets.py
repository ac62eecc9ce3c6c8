"""CircuitsVis widgets as figures: its own code shapes the data, ours carries it to the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from .arrays import Numbers, array, require_same_length
from .figure import Figure
from .gallery import thumbnail
from .props import record, require_labels, widget

_LOWEST_LOG_PROB = -1000.0
_TOKENS = 20_000  # each is an element of the page, which answers to the mouse
_TOOLTIP = "56px"  # room below the last line, in which what hovering shows would be cut off


def colored_tokens(
    tokens: Sequence[str],
    values: Numbers,
    *,
    value_range: tuple[float, float] | None = None,
    pictures: Mapping[int, bytes] | None = None,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Tokens with a background by value, red below zero and blue above; hovering shows the value.

    Args:
        tokens: [pos].
        values: [pos].
        value_range: values with the strongest colours; by default the smallest and the largest.
        pictures: position -> PNG file that stands there in place of its token, which names it.

    Raises:
        ValueError: different lengths, or values that are not finite.
    """
    from circuitsvis.tokens import colored_tokens as shape

    values = array(values, name="values", axes=["pos"], largest=_TOKENS)
    require_same_length("tokens", len(tokens), "values", len(values))
    low, high = value_range or (None, None)
    spec = record(shape, list(tokens), values, min_value=low, max_value=high)
    for at, file in (pictures or {}).items():
        # CircuitsVis sets tokens as innerHTML, which here is a gift.
        spec["props"]["tokens"][at] = thumbnail(file, tokens[at])
    alt = f"{len(tokens)} tokens coloured by value"
    return widget(spec, title, caption, alt, height=100, padding_bottom=_TOOLTIP)


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

    values = array(values, name="values", axes=["pos", "label"])
    _check_tokens(tokens)
    require_same_length("tokens", len(tokens), "values", len(values))
    require_same_length("labels", len(labels), "columns of values", values.shape[1])
    spec = record(shape, list(tokens), torch.from_numpy(values), list(labels))
    alt = f"{len(tokens)} tokens coloured by one of: {', '.join(labels)}"
    # About 80 characters stand in a line, of labels and of tokens.
    lines = sum(1 + sum(map(len, words)) // 80 for words in (labels, tokens))
    return widget(spec, title, caption, alt, height=90 + 24 * lines)


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

    pattern = array(pattern, name="pattern", axes=["head", "dest", "src"])
    require_same_length("tokens", len(tokens), "destinations of pattern", pattern.shape[1])
    require_same_length("tokens", len(tokens), "sources of pattern", pattern.shape[2])
    names = None if head_names is None else list(head_names)
    if names is not None:
        require_same_length("head_names", len(names), "heads of pattern", len(pattern))
    spec = record(
        shape,
        pattern,
        list(tokens),
        attention_head_names=names,
        mask_upper_tri=None if causal else False,
    )
    alt = f"attention patterns of {len(pattern)} heads over {len(tokens)} tokens"
    # The enlarged head is a square as wide as the box, below a heading and a row of small maps.
    height = "min(706px, 100vw + 90px)"
    return widget(spec, title, caption, alt, height=height, max_width="600px")


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
        tokens: token ids [pos]. The first one (often BOS) is nobody's prediction and is not shown.
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
    ids = torch.from_numpy(array(tokens, name="tokens", axes=["pos"], largest=_TOKENS)).long()
    log_probs = array(log_probs, name="log_probs", axes=["pos", "vocab"], largest=None)
    log_probs = torch.from_numpy(log_probs)
    require_same_length("tokens", len(ids), "rows of log_probs", len(log_probs))
    vocab = log_probs.shape[1]
    if not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise ValueError(f"token ids must be between 0 and {vocab - 1}, got {ids.tolist()}")
    name = to_string if callable(to_string) else (lambda token: to_string[token])
    spec = record(shape, ids, log_probs, name, top_k=min(top_k, vocab))
    alt = f"{len(ids) - 1} tokens coloured by their log-probability"
    return widget(spec, title, caption, alt, height=396)


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

    activations = array(activations, name="activations", axes=["pos", "layer", "neuron"])
    _check_tokens(tokens)
    require_same_length("tokens", len(tokens), "positions of activations", len(activations))
    require_labels("layer_labels", layer_labels, "layers of activations", activations.shape[1])
    require_labels("neuron_labels", neuron_labels, "neurons of activations", activations.shape[2])
    spec = record(
        shape,
        list(tokens),
        activations,
        first_dimension_name=layer_name,
        second_dimension_name=neuron_name,
        first_dimension_labels=None if layer_labels is None else list(layer_labels),
        second_dimension_labels=None if neuron_labels is None else list(neuron_labels),
    )
    alt = f"{len(tokens)} tokens coloured by activation, by {layer_name} and {neuron_name}"
    return widget(spec, title, caption, alt, height=160, padding_bottom=_TOOLTIP)


def _check_tokens(tokens: Sequence[str]) -> None:
    if len(tokens) > _TOKENS:
        raise ValueError(
            f"{len(tokens):,} tokens are more than the {_TOKENS:,} that a page can show: "
            "choose a part of them"
        )
