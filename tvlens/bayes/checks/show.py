"""Pictures of the checks."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...geometry.show import orthogonality_figure

if TYPE_CHECKING:
    from .ablation import Removal
    from .behaviour_check import Behaviour
    from .ood import Newcomers
    from .orthogonal import Learning
    from .representation_check import Representation
    from .state_injection import Injection
    from .sufficient_statistics import Explained

# Points of the simplex that a picture has room for.
_POINTS = 400


def behaviour_figure(result: "Behaviour") -> viz.Figures:
    """KL by position to every reference, a chart for each split."""
    return viz.row(*[_split_figure(result, split) for split in result.splits])


def _split_figure(result: "Behaviour", split: str) -> viz.Figure:
    curves = {name: result.each(split, name) for name in result.references}
    return viz.lines(
        {name: kl.mean(0) for name, kl in curves.items()},
        x=range(1, result.kl.shape[-1] + 1),
        x_title="observations seen",
        y_title="KL, nats",
        bands={name: _two_errors(kl) for name, kl in curves.items()},
        title=f"from the model to each reference, {split}",
        caption=f"{result.kl.shape[2]} sequences; bands are two standard errors.",
    )


def _two_errors(values: Float[Tensor, "n position"]) -> tuple[Tensor, Tensor]:
    mean, error = values.mean(0), values.std(0) / len(values) ** 0.5
    return (mean - 2 * error).clamp(min=0), mean + 2 * error


def representation_figure(result: "Representation") -> viz.Figures:
    """Every measure by the number seen, and the simplex of states beside that of Bayes."""
    shown = [measure_figure(result, measure) for measure in _measures()]
    return viz.stack(viz.row(*shown), simplex_figure(result))


def _measures() -> tuple[str, ...]:
    from .representation_check import MEASURES

    return MEASURES


def measure_figure(result: "Representation", measure: str) -> viz.Figure:
    """One measure with its interval, and the null's middle 95%."""
    null = result.null(measure)
    ends = torch.quantile(null, torch.tensor([0.025, 0.975], dtype=null.dtype), dim=1)
    return viz.lines(
        {measure: result[measure], "by chance": null.mean(1)},
        x=result.seen,
        x_title="observations seen",
        doublings=True,
        y_title=measure,
        bands={measure: tuple(result.interval(measure).T), "by chance": tuple(ends)},
        title=f"{measure}, layer {result.layer}",
    )


def simplex_figure(result: "Representation", seen: int | None = None) -> viz.Figures:
    """Token-corrected states on the plane of the task vectors, beside the posteriors of Bayes.

    The plane is that of the first three task vectors; states off the plane are projected. Both
    pictures have the task vectors as corners.
    """
    at = _middle(result) if seen is None else result.seen.tolist().index(seen)
    rows = torch.linspace(0, len(result.task) - 1, min(_POINTS, len(result.task))).long()
    corners, axes = _plane(result.task_vectors.double())
    states = result.residuals[at, rows].double() @ axes
    bayes = result.posterior[at, rows] @ (result.task_vectors.double() @ axes)
    groups = [f"task {k}" for k in result.task[rows].tolist()]
    names = [f"task {k}" for k in range(len(corners))]
    count = int(result.seen[at])
    return viz.row(
        _map(states, corners, groups, names, f"hidden states, {count} seen"),
        _map(bayes, corners, groups, names, f"posterior of Bayes, {count} seen"),
    )


def _middle(result: "Representation") -> int:
    """Where posteriors are most spread over the simplex: neither flat nor certain."""
    return int(result.posterior.var(1).sum(-1).sub(0.15).abs().argmin())


def _plane(vectors: Float[Tensor, "k d"]) -> tuple[Float[Tensor, "k 2"], Float[Tensor, "d 2"]]:
    """Orthonormal axes in which the task vectors vary most, and the vectors in them."""
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


def injection_figure(result: "Injection") -> viz.Figure:
    """Mean KL to the injected mixture, a row for each condition."""
    rows = [(name, result.mean(name), *result.interval(name)) for name in result.conditions]
    return viz.intervals(
        rows,
        x_title="KL from the model to the mixture, nats",
        title=f"writing a mixture of tasks at layer {result.layer}",
        caption=f"{result.kl.shape[1]} sequences, 95% bootstrap intervals.",
    )


def removal_figure(result: "Removal") -> viz.Figure:
    """Mean rise by split, and the range of random subspaces beside it."""
    rows, groups = [], []
    for split, null in zip(result.splits, result.null, strict=True):
        rows.append((split, result.mean(split), *result.interval(split)))
        rows.append(
            (f"{split}, random", *(float(v) for v in (null.mean(), null.min(), null.max())))
        )
        groups += [result.settings.get("of", "subspace"), "random subspaces"]
    return viz.intervals(
        rows,
        groups=groups,
        x_title="rise of the cost of an observation, nats",
        title=f"removing {result.settings.get('of', 'a subspace')} at layer {result.layer}",
        caption=f"Rank {result.rank}. Whiskers: 95% bootstrap interval over {result.rise.shape[1]} "
        f"sequences; for random subspaces, the range of {result.null.shape[1]}.",
    )


def learning_figure(result: "Learning") -> viz.Figures:
    """What removing the directions costs, and how the search went."""
    search = viz.lines(
        {"objective": result.curve},
        x_title="step of the search",
        y_title="rise on new tasks less penalty, nats",
        title="the search",
    )
    return viz.row(removal_figure(result.removal), search)


def explained_figure(result: "Explained") -> viz.Figure:
    """R^2 by the number seen, with the range of its null."""
    return viz.lines(
        {"R^2": result.share, "statistics of other sequences": result.null.mean(1)},
        x=result.seen,
        x_title="observations seen",
        doublings=True,
        y_title="cross-validated R^2",
        bands={
            "statistics of other sequences": (result.null.amin(1), result.null.amax(1)),
        },
        title=f"coordinates from the learner's statistics, layer {result.layer}",
    )


def newcomers_figure(result: "Newcomers") -> viz.Figures:
    """Shares of single tasks inside the task span, and the angles against random subspaces."""
    shares = viz.histogram(
        result.inside / result.total,
        mark=result.share,
        mark_label="all together",
        x_title="share inside the task span",
        y_title="new tasks",
        title=f"states of {len(result.total)} new tasks, layer {result.layer}",
        caption=f"A random direction has {result.chance:.3f} inside.",
    )
    return viz.row(shares, orthogonality_figure(result.orthogonality))
