"""Pictures of plain tensors and labels, in notebooks and in pages that work offline.

Knows no other part of tvlens. Importing it is cheap: PyTorch, CircuitsVis and vl-convert are
imported when a figure needs them.
"""

from tvlens.viz.charts import histogram, intervals
from tvlens.viz.curves import lines
from tvlens.viz.figure import Figure
from tvlens.viz.figures import Figures, row, stack
from tvlens.viz.maps import heatmap, scatter
from tvlens.viz.notebook import load
from tvlens.viz.page import Page, Section
from tvlens.viz.tables import table
from tvlens.viz.topk import topk_tokens
from tvlens.viz.widgets import (
    attention_heads,
    colored_tokens,
    colored_tokens_multi,
    text_neuron_activations,
    token_log_probs,
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
    "row",
    "scatter",
    "stack",
    "table",
    "text_neuron_activations",
    "token_log_probs",
    "topk_tokens",
]
