"""Figures of patching."""

import torch

from .. import viz
from ..results import register_figure
from .result import PatchResult


@register_figure(PatchResult)
def patch_figure(result: PatchResult) -> viz.Figures:
    """A heat map of the effect over two axes, or a curve over one, and the top heads' attention."""
    if result.axes[:1] == ("metric",):
        return viz.stack(*[patch_figure(result[m]) for m in result.coordinates["metric"]])
    parts = [_plot_map(result)] if len(result.axes) != 1 else [_plot_curve(result)]
    if result.attention:
        patterns = torch.stack(list(result.attention.values()))
        words = [word.replace("\n", "\u21b5") for word in result.source_tokens]
        title = "attention of the heads with the largest effect"
        names = list(result.attention)
        parts.append(viz.attention_heads(patterns, words, head_names=names, title=title))
    return viz.stack(*parts)


def _plot_map(result: PatchResult) -> viz.Figure:
    """Heat map with the first axis as rows and the others side by side."""
    effect = result.effect.reshape(result.effect.shape[0] if result.axes else 1, -1)
    rows = _labels(result, result.axes[0]) if result.axes else ["patch"]
    columns = [""]
    beside = [axis for axis in result.axes[1:] if len(result.coordinates[axis]) > 1]
    for axis in beside:
        columns = [f"{c} {label}".strip() for c in columns for label in _labels(result, axis)]
    return viz.heatmap(
        effect,
        rows=rows,
        columns=columns if beside else ["effect"],
        row_title=result.axes[0] if result.axes else "",
        column_title=" x ".join(beside),
        value_title="effect",
        diverging=True,
        title=f"patching {result.site}",
    )


def _plot_curve(result: PatchResult) -> viz.Figure:
    (axis,) = result.axes
    ends = result.interval
    has_interval = not ends.isnan().any()  # a single example has no interval
    return viz.lines(
        {"effect": result.effect},
        x=result.coordinates[axis],
        x_title=axis,
        y_title="effect on the metric",
        bands={"effect": (ends[:, 0], ends[:, 1])} if has_interval else None,
        title=f"patching {result.site}",
    )


def _labels(result: PatchResult, axis: str) -> list[str]:
    if axis != "position" or not result.tokens:
        return [str(c) for c in result.coordinates[axis]]
    return [result.tokens[c].replace("\n", "\u21b5") for c in result.coordinates[axis]]
