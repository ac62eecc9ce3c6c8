"""Figures of plain tensors and labels, in notebooks and in pages that work offline.

They do not depend on tasks or models. PyTorch, CircuitsVis and vl-convert are imported when a
figure needs them.

Example:
    >>> figure = tv.viz.heatmap([[0.0, 1.0]], rows=["a"], columns=["x", "y"])
    >>> figure.kind
    'vega'
"""

from .charts import histogram, intervals
from .curves import lines
from .figure import Figure, Figures, row, stack
from .heatmaps import heatmap
from .images import image_grid
from .notebook import load
from .page import Page, Section
from .points import scatter
from .tables import table
from .widgets import (
    attention_heads,
    colored_tokens,
    colored_tokens_multi,
    text_neuron_activations,
    token_log_probs,
    topk_tokens,
)

__all__ = [
    "Figure",
    "Figures",
    "Page",
    "Section",
    "attention_heads",
    "colored_tokens",
    "colored_tokens_multi",
    "heatmap",
    "histogram",
    "intervals",
    "lines",
    "load",
    "image_grid",
    "row",
    "scatter",
    "stack",
    "table",
    "text_neuron_activations",
    "token_log_probs",
    "topk_tokens",
]
