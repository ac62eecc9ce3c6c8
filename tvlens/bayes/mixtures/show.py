"""Figures of a retrieval check."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...results import register_figure
from .posterior_agreement import Agreement
from .result import RetrievalCheck


@register_figure(RetrievalCheck)
def retrieval_check_figure(check: RetrievalCheck) -> viz.Figures:
    """Plot agreement and residuals by layer, the weights, and injected combinations."""
    return viz.stack(
        viz.row(correlation_figure(check), residual_share_figure(check)),
        viz.row(weights_figure(check), position_slopes_figure(check)),
        viz.row(distance_figure(check), injection_figure(check)),
    )


@register_figure(Agreement)
def agreement_figure(agreement: Agreement) -> viz.Figure:
    """Plot correlation and distance, by layer if there are several."""
    if not agreement.correlation.ndim:
        rows = [_row(name, agreement, name) for name in ("correlation", "distance")]
        return viz.intervals(rows, x_title="with 95% interval", title="agreement")
    names = ("correlation", "distance")
    ends = {name: getattr(agreement, f"{name}_interval").unbind(-1) for name in names}
    series = {name: getattr(agreement, name) for name in names}
    return viz.lines(series, bands=ends, x_title="layer", title="agreement")


def correlation_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the correlation of the weights with every reference, beside the best control."""
    agreements = check.weight_agreement
    series = {name: agreement.correlation for name, agreement in agreements.items()}
    highest = check.null_correlation.flatten(2).quantile(0.95, dim=-1).amax(0)
    series["best control, 95%"] = highest
    return viz.lines(
        series,
        bands={name: a.correlation_interval.unbind(-1) for name, a in agreements.items()},
        x_title="layer",
        y_title="correlation",
        title=f"weights against posteriors and behaviour (selected: layer {check.layer})",
    )


def residual_share_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the residual share by layer for mixed prompts, single-task prompts and controls."""
    shares = {"task vectors": check.residual_share, "pure prompts": check.pure_residual_share}
    series = {name: share.values for name, share in shares.items()}
    series |= {name: check.null[name, "residual share"].mean(-1) for name in check.controls}
    return viz.lines(
        series,
        bands={name: share.interval.unbind(-1) for name, share in shares.items()},
        x_title="layer",
        y_title="share of squared norm",
        y_domain=(0, 1),
        title="residual of the best convex combination",
    )


def weights_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the weights of the states: against the posterior for two tasks, else on the simplex."""
    beta, alpha = check.weights[check.layer], check.posterior[0]
    if len(check.tasks) == 2:
        points = torch.stack([alpha[:, 0], beta[:, 0]], -1)
        titles = {"x_title": f"posterior of {check.tasks[0]}", "y_title": "weight of the state"}
        return viz.scatter(
            points, labels=[""] * len(points), title=f"mixed prompts, layer {check.layer}", **titles
        )
    likely = [check.tasks[k] for k in alpha.argmax(-1).tolist()]
    corners = torch.eye(len(check.tasks), dtype=beta.dtype)
    points = torch.cat([beta, corners]) @ _polygon(len(check.tasks))
    return viz.scatter(
        points,
        labels=[""] * len(beta) + list(check.tasks),
        groups=[*likely, *check.tasks],
        title=f"weights of mixed prompts on the simplex, layer {check.layer}",
        caption=f"Coloured by the most likely task under the noise model {check.noise_models[0]}.",
    )


def position_slopes_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the influence of a demonstration by its position."""
    return viz.lines(
        check.position_slopes,
        x=torch.arange(1, check.sources.shape[1] + 1),
        x_title="position of the demonstration; the last precedes the query",
        y_title="slope",
        title="influence of each demonstration",
    )


def distance_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the total variation between weights, behaviour and posteriors at the selected layer."""
    rows: list[tuple] = [
        _row(f"weights, {name}", agreement.at_layer(check.layer), "distance")
        for name, agreement in check.weight_agreement.items()
    ]
    rows += [
        _row(f"behaviour, {name}", agreement, "distance")
        for name, agreement in check.behaviour_agreement.items()
    ]
    first = check.weight_agreement[check.noise_models[0]]
    null = float(first.at_layer(check.layer).null_distance.mean())
    rows += [("permuted prompts", *[null] * 3), ("uniform", *[first.uniform_distance] * 3)]
    return viz.intervals(rows, x_title="mean total variation", title=f"at layer {check.layer}")


def injection_figure(check: RetrievalCheck) -> viz.Figure:
    """Plot the total variation between answers and injected weights by condition."""
    rows = [_row(name, a, "distance") for name, a in check.injection_agreement.items()]
    return viz.intervals(
        rows,
        x_title="mean total variation from the combination's weights",
        title=f"injected into zero-shot queries at layer {check.layer}",
    )


def _row(label: str, agreement: Agreement, measure: str) -> tuple[str, float, float, float]:
    ends = getattr(agreement, f"{measure}_interval").tolist()
    return (label, float(getattr(agreement, measure)), *ends)


def _polygon(corners: int) -> Float[Tensor, "corner 2"]:
    """Return points on the unit circle, the first on top."""
    angles = np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], -1))
