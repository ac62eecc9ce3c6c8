"""The page of a study of mixed prompts."""

from typing import TYPE_CHECKING

from ... import viz
from ...bayes.mixtures.show import (
    correlation_figure,
    distance_figure,
    injection_figure,
    position_slopes_figure,
    residual_share_figure,
    weights_figure,
)
from ..report import settings_table

if TYPE_CHECKING:
    from ...bayes import RetrievalCheck
    from .study import MixtureStudy


def page(study: "MixtureStudy") -> viz.Page:
    """One page: the claims, and for every set of tasks where they come from."""
    checks = study.checks.values()
    sections = [viz.Section("Claims", _CLAIMS, [_table(study)])]
    for title, text, figures in (
        ("By layer", _LAYERS, (correlation_figure, residual_share_figure)),
        ("Weights and order", _WEIGHTS, (weights_figure, position_slopes_figure)),
        ("Distances, and combinations written in", _DISTANCES, (distance_figure, injection_figure)),
    ):
        shown = [viz.row(*(figure(check) for figure in figures)) for check in checks]
        order = "; ".join(f"{i}. {name}" for i, name in enumerate(study.checks, 1))
        sections.append(viz.Section(title, f"{text}\n\nFrom top to bottom: {order}.", shown))
    control = viz.row(correlation_figure(study.control), residual_share_figure(study.control))
    sections.append(viz.Section("With scrambled weights", _CONTROL, [control]))
    sections.append(viz.Section("How it was measured", _METHOD))
    title = f"Prompts that mix tasks in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = (
    "All numbers are at the layer chosen on other items, the one at which task vectors work best "
    "in bare queries. Brackets are 95% bootstrap intervals over queries. A distance is total "
    "variation, and holds where it is below that of weights that are all alike; a correlation or a "
    "share holds where its interval is beyond the best 5% of every control; for a correlation "
    "these include the best layer of the same network with scrambled weights."
)
_LAYERS = (
    "Left: correlation of the states' convex weights with the posterior under each noise model and "
    "with the model's own answers. The control is the 95% quantile over other simplices: the task "
    "vectors' in random orientation, of shuffled task labels, of random states, of other tasks. "
    "Right: the share of the state's squared length, less the query's own mean state, that the "
    "best convex combination leaves; pure prompts show what noise alone leaves."
)
_WEIGHTS = (
    "Left: every point is a mixed prompt. Right: how much a demonstration moves the result "
    "by its place. An observer for whom order does not count has a flat line."
)
_DISTANCES = (
    "Left: how far states and answers are from the posteriors under each noise model. Right: "
    "weights from Dirichlet(1) are written into prompts without demonstrations as a combination "
    "of task vectors; how far the shares of the tasks' answers are from these weights."
)
_CONTROL = (
    "The first set of tasks in the same network with the entries of every weight matrix permuted. "
    "Attention averages the labels it sees even there, and the average moves with their numbers: a "
    "correlation of this size says nothing about inference."
)
_METHOD = (
    "The common inputs of the tasks are split in three: task vectors are means of pure prompts on "
    "the first part, the layer is chosen on the second, everything else is measured on the third. "
    "In mixed prompts every division of the demonstrations among the tasks is equally frequent, "
    "and their order is random.\n\n"
    "Noise models. Under each, a demonstration of task k has that task's own answer with "
    "probability 1 - noise and each other label with noise / (labels - 1). Proportions: every "
    "demonstration, and the query, draws its task from unknown proportions, all alike likely "
    "beforehand. One task: all demonstrations and the query have one task. Switching: the task "
    "lasts, and is drawn anew with probability 0.2 before each demonstration.\n\n"
    "Behaviour is the probability of the first token of each task's answer, as shares of their "
    "sum; only queries whose answers begin with different tokens are asked."
)


def _summary(study: "MixtureStudy") -> list[str]:
    lines = [
        f"Asked: when demonstrations of several tasks are mixed, is the state of "
        f"{study.settings['model']} a convex combination of task vectors, with weights that follow "
        "the posterior over tasks?"
    ]
    return lines + [_sentence(name, check) for name, check in study.checks.items()]


def _sentence(name: str, check: "RetrievalCheck") -> str:
    model, layer = check.noise_models[0], check.layer
    found = check.weight_agreement[model].at_layer(layer)
    low, high = found.correlation_interval.tolist()
    nearest = min(
        check.behaviour_agreement, key=lambda k: float(check.behaviour_agreement[k].distance)
    )
    nearest_distance = float(check.behaviour_agreement[nearest].distance)
    written = check.injection_agreement
    return (
        f"{name}: at layer {layer} weights correlate {float(found.correlation):.2f} "
        f"[{low:.2f}, {high:.2f}] with the posterior ({model}), at a distance of "
        f"{float(found.distance):.2f} (uniform weights {found.uniform_distance:.2f}); combinations "
        f"leave {float(check.residual_share.values[layer]):.2f} of the state, and "
        f"{float(check.pure_residual_share.values[layer]):.2f} of pure prompts. Answers are "
        f"nearest to the noise model {nearest} ({nearest_distance:.2f}). "
        f"Written in, combinations give answers at a distance of "
        f"{float(written['combination'].distance):.2f} from their weights; the most likely task's "
        f"vector alone {float(written['most likely task'].distance):.2f}."
    )


def _table(study: "MixtureStudy") -> viz.Figure:
    rows = []
    for row in study.claims():
        shown = {"tasks": row["tasks"], "claim": row["claim"], "value": row["value"]}
        shown |= {"95% interval": f"[{row['low']:.2f}, {row['high']:.2f}]", "null": row["null"]}
        rows.append(shown | {"null value": row["null value"], "holds": row["holds"]})
    return viz.table(rows)
