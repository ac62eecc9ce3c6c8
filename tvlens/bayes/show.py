"""Figures of predictions and of the phase boundary."""

from math import log2

import torch

from .. import viz
from ..errors import TvlensError
from ..results import register_figure
from .phase_boundary import PhaseBoundary
from .prediction import Prediction


@register_figure(Prediction)
def prediction_figure(prediction: Prediction, sequence: int = 0) -> viz.Figures:
    """Plot the posterior of one sequence by position, beside the entropy of all posteriors."""
    n = len(prediction.posterior)
    if not -n <= sequence < n:
        raise TvlensError(f"no sequence {sequence} among {n}")
    return viz.row(posterior_figure(prediction, sequence), entropy_figure(prediction))


def posterior_figure(prediction: Prediction, sequence: int) -> viz.Figure:
    """Plot one curve per major task and one for all other hypotheses."""
    grouped = prediction.group_rest()
    columns = grouped.posterior[sequence].unbind(-1)
    return viz.lines(
        dict(zip(grouped.labels, columns, strict=True)),
        x_title="position",
        y_title="posterior probability",
        y_domain=(0, 1),
        title=f"{prediction.reference}: sequence {sequence}",
    )


def entropy_figure(prediction: Prediction) -> viz.Figure:
    """Plot the mean entropy over sequences, with the central 90%."""
    entropy = prediction.entropy
    levels = torch.tensor([0.05, 0.95], dtype=entropy.dtype, device=entropy.device)
    low, high = torch.quantile(entropy, levels, dim=0)
    name = "entropy of the posterior"
    return viz.lines(
        {name: entropy.mean(0)},
        x_title="position",
        y_title="nats",
        bands={name: (low, high)},
        title=f"entropy of the posterior over tasks, {len(entropy)} sequences",
    )


@register_figure(PhaseBoundary)
def phase_boundary_figure(result: PhaseBoundary, tolerance: float | None = None) -> viz.Figures:
    """Plot the advantage of M1 per observation by number of minor tasks, a chart for each mass.

    Args:
        tolerance: shown as a level, in nats per observation.
    """
    charts = []
    for mass in result.masses:
        curves, bands = {}, {}
        for n in result.lengths:
            places = [("train", minor, mass, n) for minor in result.minors]
            curves[f"{n} observations"] = [result.mean[place] / n for place in places]
            ends = zip(*(result.interval[place] for place in places), strict=True)
            bands[f"{n} observations"] = tuple([end / n for end in side] for side in ends)
        charts.append(
            viz.lines(
                curves,
                x=[log2(minor) for minor in result.minors],
                x_title="log2 of the number of minor tasks",
                y_title="nats per observation",
                bands=bands,
                rules={} if tolerance is None else {"tolerance": tolerance},
                title=f"advantage of M1 over M2, p0 = {mass:g}",
            )
        )
    return viz.row(*charts)
