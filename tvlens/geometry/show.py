"""Figures of geometric results."""

import torch

from .. import viz
from ..results import register_figure
from .effects import Effects
from .orthogonality import Orthogonality
from .silhouette import SilhouetteTest
from .similarity import SimilarityTable
from .variance import VarianceDecomposition

# Effects of one factor that a figure shows at most.
_MAX_EFFECTS = 30


@register_figure(Orthogonality)
def orthogonality_figure(result: Orthogonality) -> viz.Figure:
    """Draw the null of the smallest angle and the measured angle."""
    a, b = result.ranks
    return viz.histogram(
        result.null,
        mark=result.smallest_angle,
        x_title="smallest principal angle, radians",
        y_title="pairs of random subspaces",
        title=f"subspaces of ranks {a} and {b} in {result.dim} dimensions",
        caption=f"{len(result.angles)} angles; p = {result.p_value:.3g} that random subspaces are "
        f"at least as close, {result.p_value_far:.3g} that they are at least as far apart.",
    )


@register_figure(SilhouetteTest)
def silhouette_figure(result: SilhouetteTest) -> viz.Figure:
    """Draw the null of the silhouette and the measured silhouette."""
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
    """Draw the table as a heat map; negative values make the color scale diverging."""
    return viz.heatmap(
        table.values,
        rows=table.names,
        columns=table.names,
        value_title=table.measure.replace("_", " "),
        diverging=bool((table.values < 0).any()),
        title=f"{table.measure.replace('_', ' ')} between all pairs",
    )


@register_figure(Effects)
def effects_figure(effects: Effects) -> viz.Figure:
    """Draw the cosines between task and token effects."""
    vectors = torch.cat([effects.task[:_MAX_EFFECTS], effects.token[:_MAX_EFFECTS]])
    names = [f"task {label}" for label in effects.tasks[:_MAX_EFFECTS].tolist()]
    names += [f"token {label}" for label in effects.tokens[:_MAX_EFFECTS].tolist()]
    is_cut = max(len(effects.task), len(effects.token)) > _MAX_EFFECTS
    cosines = torch.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    return viz.heatmap(
        cosines,
        rows=names,
        columns=names,
        value_title="cosine",
        diverging=True,
        title=str(effects),
        caption=f"The first {_MAX_EFFECTS} of each." if is_cut else "",
    )


@register_figure(VarianceDecomposition)
def variance_figure(result: VarianceDecomposition) -> viz.Figure:
    """Draw shares with their intervals, by position if there are several."""
    of = f"share of {result.settings.get('of', 'variance')}"
    if result.shares.ndim == 1:
        ends = zip(result.parts, result.shares, *result.interval.T, strict=True)
        rows = [(part, *map(float, numbers)) for part, *numbers in ends]
        return viz.intervals(rows, x_title=of, title="decomposition of variance")
    ends = zip(result.parts, result.interval, strict=True)
    bands = {part: tuple(interval.unbind(-1)) for part, interval in ends}
    return viz.lines(
        {part: result[part] for part in result.parts},
        x_title="position",
        y_title=of,
        bands=bands,
        title="decomposition of variance",
    )
