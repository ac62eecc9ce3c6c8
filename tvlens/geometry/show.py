"""Pictures of geometry."""

import torch

from .. import viz
from ..results import register_figure
from .decomposition import Decomposition
from .effects import Effects
from .orthogonality import Orthogonality
from .silhouette import Separation
from .similarity import SimilarityTable

# Effects of one factor that a picture has room for.
_SHOWN = 30


@register_figure(Orthogonality)
def orthogonality_figure(result: Orthogonality) -> viz.Figure:
    """The null of the smallest angle with the measured one."""
    a, b = result.ranks
    return viz.histogram(
        result.null,
        mark=result.smallest_angle,
        x_title="smallest principal angle, radians",
        y_title="pairs of random subspaces",
        title=f"subspaces of ranks {a} and {b} in {result.dim} dimensions",
        caption=f"{len(result.angles)} angles; p = {result.p_value:.3g} that random subspaces are "
        f"as near, {result.p_value_far:.3g} that they are as far apart.",
    )


@register_figure(Separation)
def separation_figure(result: Separation) -> viz.Figure:
    """The null of the silhouette with the measured one."""
    return viz.histogram(
        result.null,
        mark=result.silhouette,
        x_title=f"mean silhouette, {result.metric} distance",
        y_title="permutations of the labels",
        title="separation by label",
        caption=f"p = {result.p_value:.3g}",
    )


@register_figure(SimilarityTable)
def table_figure(table: SimilarityTable) -> viz.Figure:
    """The table as a heat map; measures that can be negative have white at 0."""
    return viz.heatmap(
        table.values,
        rows=table.names,
        columns=table.names,
        value_title=table.measure.replace("_", " "),
        diverging=bool((table.values < 0).any()),
        title=f"{table.measure.replace('_', ' ')} between every two",
    )


@register_figure(Effects)
def effects_figure(effects: Effects) -> viz.Figure:
    """Cosines between task and token effects: they are seldom orthogonal."""
    vectors = torch.cat([effects.task[:_SHOWN], effects.token[:_SHOWN]])
    names = [f"task {label}" for label in effects.tasks[:_SHOWN].tolist()]
    names += [f"token {label}" for label in effects.tokens[:_SHOWN].tolist()]
    more = max(len(effects.task), len(effects.token)) > _SHOWN
    cosines = torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    return viz.heatmap(
        cosines,
        rows=names,
        columns=names,
        value_title="cosine",
        diverging=True,
        title=str(effects),
        caption=f"The first {_SHOWN} of each." if more else "",
    )


@register_figure(Decomposition)
def decomposition_figure(result: Decomposition) -> viz.Figure:
    """Shares with their intervals, by position where there are several."""
    of = f"share of {result.settings.get('of', 'variance')}"
    if result.shares.ndim == 1:
        ends = zip(result.parts, result.shares, *result.intervals.T, strict=True)
        rows = [(part, *map(float, numbers)) for part, *numbers in ends]
        return viz.intervals(rows, x_title=of, title="decomposition of variance")
    bands = {p: tuple(result.interval(p).unbind(-1)) for p in result.parts}
    return viz.lines(
        {part: result[part] for part in result.parts},
        x_title="position",
        y_title=of,
        bands=bands,
        title="decomposition of variance",
    )
