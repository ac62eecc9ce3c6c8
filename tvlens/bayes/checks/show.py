"""Figures of the checks."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...geometry.show import orthogonality_figure
from ...results import register_figure
from ...stats import percentiles
from .ablation_check import Ablation
from .behaviour_check import Behaviour
from .dissociation_check import KINDS, PARTS, Dissociation
from .injection_check import Injection
from .learner_search import LearnerSubspace
from .novel_tasks_check import NovelTasks
from .posterior_weights_check import WEIGHT_NULLS, PosteriorWeights, WeightMeasure
from .prefix_check import TARGETS, PrefixDependence
from .representation_check import Representation
from .simplex_map_check import SimplexMap
from .statistics_check import STATISTICS_MEASURES, StatisticsRegression

# Maximum number of points on a simplex plot.
_MAX_POINTS = 400


@register_figure(Behaviour)
def behaviour_figure(result: Behaviour) -> viz.Figures:
    """Plot the KL to every reference by position, one chart per split."""
    return viz.row(*[_split_figure(result, split) for split in result.splits])


def _split_figure(result: Behaviour, split: str) -> viz.Figure:
    curves = {name: result.kl_to(split, name) for name in result.references}
    return viz.lines(
        {name: kl.mean(0) for name, kl in curves.items()},
        x=range(1, result.kl.shape[-1] + 1),
        x_title="observations",
        y_title="KL, nats",
        bands={name: _two_errors(kl) for name, kl in curves.items()},
        title=f"KL to each reference, {split}",
        caption=f"{result.kl.shape[2]} sequences; bands are two standard errors.",
    )


def _two_errors(values: Float[Tensor, "n position"]) -> tuple[Tensor, Tensor]:
    mean, error = values.mean(0), values.std(0) / len(values) ** 0.5
    return (mean - 2 * error).clamp(min=0), mean + 2 * error


@register_figure(Representation)
def representation_figure(result: Representation) -> viz.Figures:
    """Plot every measure by number of observations, and states beside posteriors on the simplex."""
    measures = [measure_figure(result, measure) for measure in result.measures]
    return viz.stack(viz.row(*measures), simplex_figure(result))


def measure_figure(result: Representation, measure: str) -> viz.Figure:
    """Plot one measure with its interval and the central 95% of its null."""
    null = result.null[measure]
    ends = percentiles(null, axis=1)
    return viz.lines(
        {measure: result.value[measure], "null": null.mean(1)},
        x=result.observations,
        x_title="observations",
        doublings=True,
        y_title=measure,
        bands={measure: tuple(result.interval[measure].T), "null": tuple(ends)},
        title=f"{measure}, layer {result.layer}",
    )


def simplex_figure(result: Representation, observations: int | None = None) -> viz.Figures:
    """Plot token-corrected states on the plane of the task vectors, beside Bayesian posteriors.

    The plane contains the two directions of largest variance of the task vectors; states are
    projected onto it. The task vectors are the corners of both plots.
    """
    counts = result.observations.tolist()
    index = _most_spread(result) if observations is None else counts.index(observations)
    rows = torch.linspace(0, len(result.task) - 1, min(_MAX_POINTS, len(result.task))).long()
    corners, axes = _plane(result.task_vectors.double())
    read_states = result.residuals[index, rows].double() @ axes
    posteriors = result.posterior[index, rows] @ (result.task_vectors.double() @ axes)
    groups = [f"task {k}" for k in result.task[rows].tolist()]
    names = [f"task {k}" for k in range(len(corners))]
    count = counts[index]
    return viz.row(
        _map(read_states, corners, groups, names, f"hidden states, {count} observations"),
        _map(posteriors, corners, groups, names, f"Bayesian posterior, {count} observations"),
    )


def _most_spread(result: Representation) -> int:
    """Index at which posteriors are most spread over the simplex, neither flat nor certain."""
    return int(result.posterior.var(1).sum(-1).sub(0.15).abs().argmin())


def _plane(vectors: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "d 2"]]:
    """Coordinates of the task vectors on their two main axes, and these axes."""
    axes = torch.linalg.svd(vectors, full_matrices=False).Vh[:2].T
    if axes.shape[1] < 2:
        axes = torch.cat([axes, torch.zeros_like(axes)], 1)
    return vectors @ axes, axes


def _map(
    points: Tensor, corners: Tensor, groups: list[str], names: list[str], title: str
) -> viz.Figure:
    return viz.scatter(
        torch.cat([points, corners]),
        labels=[""] * len(points) + names,
        groups=[*groups, *["task vector"] * len(corners)],
        x_title="first axis of the task vectors",
        y_title="second axis",
        title=title,
    )


@register_figure(PosteriorWeights)
def posterior_weights_figure(
    result: PosteriorWeights, references: Mapping[str, PosteriorWeights] | None = None
) -> viz.Figures:
    """Plot weights against posterior by position, beside the nulls, and the posterior's entropy.

    Args:
        references: results of ideal models on the same sequences, by name.
    """
    measures: tuple[WeightMeasure, ...] = ("correlation", "total variation", "explained share")
    charts = [weight_measure_figure(result, measure, references) for measure in measures]
    entropy = viz.lines(
        {"posterior over the major tasks": result.entropy},
        x=result.observations,
        x_title="observations",
        y_title="mean entropy, nats",
        title="uncertainty of the task",
    )
    return viz.stack(viz.row(*charts), entropy)


def weight_measure_figure(
    result: PosteriorWeights,
    measure: WeightMeasure,
    references: Mapping[str, PosteriorWeights] | None = None,
) -> viz.Figure:
    """Plot one measure of weights by position, with its nulls and the values of ideal models."""
    by_token: Any = f"{measure} by token"
    curves = {"shared task vectors": result[measure], "by token": result[by_token]}
    bands = {
        "shared task vectors": tuple(result.interval[measure].T),
        "by token": tuple(result.interval[by_token].T),
    }
    nulls = {f"null: {name}": result.null[measure, name] for name in WEIGHT_NULLS}
    ideal = {f"ideal {name}": other[by_token] for name, other in (references or {}).items()}
    curves |= {name: v for name, v in (nulls | ideal).items() if not bool(v.isnan().all())}
    position = result.uncertain_position
    low, high = result.interval[by_token][position].tolist()
    count, value = int(result.observations[position]), float(result[by_token][position])
    return viz.lines(
        curves,
        x=result.observations,
        x_title="observations",
        y_title=measure,
        bands=bands,
        marks={"most uncertain": (count, value, low, high)},
        title=f"{measure}, layer {result.layer}",
    )


@register_figure(Injection)
def injection_figure(result: Injection) -> viz.Figure:
    """Plot the mean KL to the injected mixture by condition."""
    rows = [(name, result.mean[name], *result.interval[name]) for name in result.conditions]
    kind = result.settings.get("mixtures", "random")
    return viz.intervals(
        rows,
        x_title="KL from the model to the mixture, nats",
        title=f"injecting a mixture of tasks ({kind}) at layer {result.layer}",
        caption=f"{result.kl.shape[1]} sequences, 95% bootstrap intervals.",
    )


@register_figure(SimplexMap)
def simplex_map_figure(result: SimplexMap) -> viz.Figures:
    """Plot the mean KL to both kinds of mixtures, and between them, over the simplex."""
    resolution = result.settings["resolution"]
    cells = (result.weights[:, :2] * resolution).round().long()
    labels = [f"{i / resolution:.2g}" for i in range(resolution + 1)]

    def map_of(kl: Float[Tensor, "point n"], title: str) -> viz.Figure:
        table = torch.full((resolution + 1, resolution + 1), float("nan"), dtype=torch.float64)
        table[cells[:, 0], cells[:, 1]] = kl.double().mean(1)
        return viz.heatmap(
            table,
            rows=labels,
            columns=labels,
            row_title="weight of task 0",
            column_title="weight of task 1",
            value_title="KL, nats",
            annotate=False,
            title=title,
        )

    return viz.row(
        map_of(result.to_arithmetic, f"to the mixture of predictives, layer {result.layer}"),
        map_of(result.to_geometric, f"to the geometric mixture, layer {result.layer}"),
        map_of(result.between, "from the geometric to the other mixture"),
    )


@register_figure(Ablation)
def ablation_figure(result: Ablation) -> viz.Figure:
    """Plot the mean cost increase by split, beside that of random subspaces of equal variance."""
    rows, groups = [], []
    subspace = result.settings.get("subspace", "a subspace")
    for split, null in zip(result.splits, result.null, strict=True):
        rows.append((split, result.mean[split], *result.interval[split]))
        rows.append(
            (f"{split}, random", *(float(v) for v in (null.mean(), null.min(), null.max())))
        )
        groups += [subspace, "random subspaces"]
    return viz.intervals(
        rows,
        groups=groups,
        x_title="increase of the cost of an observation, nats",
        title=f"ablating {subspace} at layer {result.layer}",
        caption=f"Rank {result.rank}. Whiskers: 95% bootstrap interval over "
        f"{result.cost_increase.shape[1]} sequences; for random subspaces of equal variance, the "
        f"range of {result.null.shape[1]}.",
    )


@register_figure(LearnerSubspace)
def learner_subspace_figure(result: LearnerSubspace) -> viz.Figures:
    """Plot the cost of removing the directions, and its share of the gain by rank."""
    shares = viz.lines(
        {"new tasks of the stopping rule": result.share_by_rank},
        x=range(1, 1 + len(result.share_by_rank)),
        x_title="directions removed",
        y_title="share of the gain from context lost",
        rules={"minimum": result.settings.get("minimum_gain", 0.0)},
        title=f"search direction by direction, layer {result.layer}",
        caption=f"{result.rank} directions were accepted.",
    )
    return viz.row(ablation_figure(result.ablation), shares)


@register_figure(Dissociation)
def dissociation_figure(result: Dissociation) -> viz.Figures:
    """Plot the share of movement by part and kind of task, with its null, and the contrasts."""
    kinds = list(KINDS)
    charts = [_share_figure(result, kinds[:2]), _share_figure(result, kinds[2:])]
    contrasts = viz.intervals(
        [(contrast, *values) for (_, contrast), values in result.contrasts.items()],
        groups=[f"task span and {part}" for part, _ in result.contrasts],
        x_title="difference of shares",
        title="contrasts of the table",
        caption="The double dissociation holds where known tasks, new tasks and interaction lie "
        "above 0.",
    )
    return viz.row(*charts, contrasts)


def _share_figure(result: Dissociation, kinds: list[str]) -> viz.Figure:
    """Plot the shares of movement of some kinds of pairs, with the range of their null."""
    rows, groups = [], []
    for i, part in enumerate(PARTS):
        for kind in kinds:
            rows.append((f"{part}, {kind}", result.share[part, kind], *result.interval[part, kind]))
            groups.append(kind)
            if i < len(result.null):
                null = result.null[i, list(KINDS).index(kind)]
                ends = (float(value) for value in (null.mean(), null.min(), null.max()))
                rows.append((f"{part}, {kind}, random", *ends))
                groups.append("random, equal variance")
    return viz.intervals(
        rows,
        groups=groups,
        x_title="share moved",
        title=f"exchanging parts of states at layer {result.layer}: {', '.join(kinds)} tasks",
        caption="Share of the movement to the prediction on the donor: "
        f"{result.distance.shape[1]} pairs of tasks, 95% bootstrap intervals.",
    )


@register_figure(StatisticsRegression)
def statistics_regression_figure(result: StatisticsRegression) -> viz.Figures:
    """Plot R^2 by number of observations, with the range of its null."""
    titles = {
        "coordinates": "coordinates explained by the learner's statistics",
        "estimate": "learner's estimate recovered from the coordinates",
    }
    null = "statistics of other sequences"
    charts = [
        viz.lines(
            {"R^2": result[measure], null: result.null[measure].mean(1)},
            x=result.observations,
            x_title="observations",
            doublings=True,
            y_title="cross-validated R^2",
            bands={
                "R^2": tuple(result.interval[measure].T),
                null: (result.null[measure].amin(1), result.null[measure].amax(1)),
            },
            title=f"{titles[measure]}, layer {result.layer}",
        )
        for measure in STATISTICS_MEASURES
    ]
    return viz.row(*charts)


@register_figure(NovelTasks)
def novel_tasks_figure(result: NovelTasks) -> viz.Figures:
    """Plot the shares of single tasks inside the task span, and the angles with their null."""
    learner = ", ".join(f"{share:.3f} ({code})" for code, share in result.learner_share.items())
    shares = viz.histogram(
        result.squared_norm_in_span / result.squared_norm,
        mark=result.share,
        mark_label="all tasks",
        x_title="share inside the task span",
        y_title="new tasks",
        title=f"states of {len(result.squared_norm)} new tasks, layer {result.layer}",
        caption=f"A perfect learner: {learner}. A random direction: {result.random_share:.3f}.",
    )
    angles = [orthogonality_figure(result.orthogonality)] if len(result.angles) else []
    return viz.row(shares, *angles)


@register_figure(PrefixDependence)
def prefix_figure(result: PrefixDependence) -> viz.Figures:
    """Plot what the prefix adds to task and last token: by position, by progress and in probes."""
    curves = {"within cells": result.within_share, "prefix": result.prefix_share}
    shares = viz.lines(
        {name: curve[:, 0] for name, curve in curves.items()},
        x=range(1, len(result.within_share) + 1),
        x_title="tokens read",
        y_title="share of variance",
        bands={name: (curve[:, 1], curve[:, 2]) for name, curve in curves.items()},
        title=f"variance within cells, layer {result.layer}",
        caption="Share of variance within cells of equal task and last token, and the part of it "
        "that the number of brackets passed explains.",
    )
    residual = viz.lines(
        {"squared distance from the cell's mean": result.residual},
        x_title="brackets passed",
        y_title="over the total variance",
        title="residual by progress along the path",
    )
    rows, groups = [], []
    for target, accuracy, null in zip(TARGETS, result.accuracy, result.null, strict=True):
        rows += [(target, *accuracy.tolist())]
        spread = (float(v) for v in (null.mean(), null.min(), null.max()))
        rows += [(f"{target}, permuted", *spread)]
        groups += ["probe", "permuted within cells"]
    probe = viz.intervals(rows, groups=groups, x_title="accuracy", title="linear probes")
    return viz.row(shares, residual, probe)
