"""Pictures of a retrieval check."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz

if TYPE_CHECKING:
    from .posterior_agreement import Agreement
    from .result import RetrievalCheck


def check_figure(check: "RetrievalCheck") -> viz.Figures:
    """Agreement and residual by layer, the weights themselves, and what combinations do."""
    return viz.stack(
        viz.row(correlation_figure(check), share_figure(check)),
        viz.row(weights_figure(check), places_figure(check)),
        viz.row(distance_figure(check), injection_figure(check)),
    )


def agreement_figure(found: "Agreement") -> viz.Figure:
    """Correlation and distance, by layer where there are several."""
    if not found.correlation.ndim:
        rows = [_row(name, found, name) for name in ("correlation", "distance")]
        return viz.intervals(rows, x_title="with 95% interval", title="agreement")
    names = ("correlation", "distance")
    ends = {name: getattr(found, f"{name}_interval").unbind(-1) for name in names}
    series = {name: getattr(found, name) for name in names}
    return viz.lines(series, bands=ends, x_title="layer", title="agreement")


def correlation_figure(check: "RetrievalCheck") -> viz.Figure:
    """Correlation of the weights with every reference, and what other vertices reach."""
    found = check.weights_follow
    series = {name: one.correlation for name, one in found.items()}
    highest = check.null_correlation.flatten(2).quantile(0.95, dim=-1).amax(0)
    series["best control, 95%"] = highest
    return viz.lines(
        series,
        bands={name: one.correlation_interval.unbind(-1) for name, one in found.items()},
        x_title="layer",
        y_title="correlation",
        title=f"weights of the state against posteriors and behaviour (layer {check.layer} chosen)",
    )


def share_figure(check: "RetrievalCheck") -> viz.Figure:
    """Residual share by layer, of mixed and pure prompts and with other vertices."""
    shown = {"task vectors": check.share, "pure prompts": check.pure_share}
    series = {name: one.values for name, one in shown.items()}
    series |= {name: check.null(name).mean(-1) for name in check.controls}
    return viz.lines(
        series,
        bands={name: one.interval.unbind(-1) for name, one in shown.items()},
        x_title="layer",
        y_title="share of squared length",
        y_domain=(0, 1),
        title="what convex combinations leave of the state",
    )


def weights_figure(check: "RetrievalCheck") -> viz.Figure:
    """Weights of the states: against the posterior for two tasks, on the simplex for three."""
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


def places_figure(check: "RetrievalCheck") -> viz.Figure:
    """How much a demonstration counts by its place."""
    found = check.places
    places = torch.arange(1, check.sources.shape[1] + 1)
    return viz.lines(
        found,
        x=places,
        x_title="place of the demonstration, the last one next to the query",
        y_title="slope",
        title="how much each demonstration counts",
    )


def distance_figure(check: "RetrievalCheck") -> viz.Figure:
    """Total variation between weights, behaviour and posteriors at the chosen layer."""
    rows = [
        _row(f"weights, {name}", found.at(check.layer), "distance")
        for name, found in check.weights_follow.items()
    ]
    rows += [
        _row(f"behaviour, {name}", found, "distance")
        for name, found in check.behaviour_follows.items()
    ]
    first = check.weights_follow[check.noise_models[0]]
    chance = float(first.at(check.layer).null_distance.mean())
    rows += [("permuted prompts", *[chance] * 3), ("uniform", *[first.uniform_distance] * 3)]
    return viz.intervals(rows, x_title="mean total variation", title=f"at layer {check.layer}")


def injection_figure(check: "RetrievalCheck") -> viz.Figure:
    """How far outputs are from the combination that was written in."""
    rows = [_row(name, found, "distance") for name, found in check.injection_follows.items()]
    return viz.intervals(
        rows,
        x_title="mean total variation from the combination's weights",
        title=f"written into bare queries at layer {check.layer}",
    )


def _row(label: str, found: "Agreement", measure: str) -> tuple[str, float, float, float]:
    ends = getattr(found, f"{measure}_interval").tolist()
    return (label, float(getattr(found, measure)), *ends)


def _polygon(corners: int) -> Float[Tensor, "corner 2"]:
    """Corners on a circle, the first on top."""
    angles = np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], -1))
