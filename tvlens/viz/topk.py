"""The CircuitsVis table of top tokens as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .arrays import Numbers, array, require_same_length
from .figure import Figure
from .props import record, require_labels, widget


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

    samples = [activations] if _dimensions(activations) == 3 else list(activations)
    axes = ["layer", "token", "column"]
    samples = [array(sample, name="activations", axes=axes, largest=None) for sample in samples]
    shared = len(tokens) > 0 and isinstance(tokens[0], str)
    words = [list(tokens)] * len(samples) if shared else [list(item) for item in tokens]
    require_same_length("lists of tokens", len(words), "samples of activations", len(samples))
    for listed, sample in zip(words, samples, strict=True):
        require_same_length("tokens", len(listed), "tokens in activations", sample.shape[1])
        require_labels("layer_labels", layer_labels, "layers of activations", len(sample))
    require_labels("sample_labels", sample_labels, "samples of activations", len(samples))
    spec = record(
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
    return widget(spec, title, caption, alt, height=230 + 57 * min(top_k, 10))


def _keep_listed_tokens(props: dict[str, Any]) -> None:
    """Drop the tokens that no table lists: a vocabulary of 50,000 would be most of the page."""
    tables = zip(props["tokens"], props["topkIdxs"], props["bottomkIdxs"], strict=True)
    for sample, (words, *indices) in enumerate(tables):
        used = sorted({i for table in indices for layer in table for rank in layer for i in rank})
        place = {token: new for new, token in enumerate(used)}
        props["tokens"][sample] = [words[token] for token in used]
        for key, table in zip(("topkIdxs", "bottomkIdxs"), indices, strict=True):
            props[key][sample] = [[[place[i] for i in rank] for rank in layer] for layer in table]


def _dimensions(values: Numbers) -> int:
    """Number of dimensions of an array or of nested lists."""
    if hasattr(values, "ndim"):
        return values.ndim
    return 1 + _dimensions(values[0]) if isinstance(values, Sequence) and len(values) else 0
