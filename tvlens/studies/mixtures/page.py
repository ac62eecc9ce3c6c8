"""The page of the mixtures study."""

from ... import viz
from ...bayes import RetrievalCheck
from ...bayes.mixtures.show import (
    correlation_figure,
    distance_figure,
    injection_figure,
    position_slopes_figure,
    residual_share_figure,
    weights_figure,
)
from ..claims import VERDICT_RULE, claims_table
from ..report import build_page, settings_table
from .study import MixtureStudy


@build_page.register(MixtureStudy)
def mixtures_page(study: MixtureStudy) -> viz.Page:
    """Build the page: claims, then the figures of every set of tasks."""
    checks = study.checks.values()
    sections = [viz.Section("Claims", _CLAIMS, [claims_table(study.claims)])]
    for title, text, figures in (
        ("By layer", _LAYERS, (correlation_figure, residual_share_figure)),
        ("Weights and order", _WEIGHTS, (weights_figure, position_slopes_figure)),
        ("Distances and injected combinations", _DISTANCES, (distance_figure, injection_figure)),
    ):
        rows = [viz.row(*(figure(check) for figure in figures)) for check in checks]
        order = "; ".join(f"{i}. {name}" for i, name in enumerate(study.checks, 1))
        sections.append(viz.Section(title, f"{text}\n\nFrom top to bottom: {order}.", rows))
    control = viz.row(correlation_figure(study.control), residual_share_figure(study.control))
    sections.append(viz.Section("Scrambled weights", _CONTROL, [control]))
    sections.append(viz.Section("Methods", _METHODS))
    title = f"Prompts that mix tasks in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = (
    f"{VERDICT_RULE} All numbers are at the layer with the best zero-shot injections on validation "
    "inputs; intervals are 95% bootstrap intervals over queries. Distances are total variations, "
    "compared with uniform weights. The nulls of shares and correlations are the best 5% of every "
    "control; correlations are also compared with the best layer of the network with scrambled "
    "weights."
)
_LAYERS = (
    "Left: correlation of the states' convex weights with the posterior under each noise model and "
    "with the model's answers. The control is the 95% quantile over other simplices: rotated task "
    "vectors, shuffled task labels, random states, other tasks. Right: share of the state's "
    "squared norm, minus the mean state of the query, that the best convex combination leaves "
    "unexplained; pure prompts show the share due to noise."
)
_WEIGHTS = (
    "Left: every point is a mixed prompt. Right: influence of a demonstration by its position; it "
    "is constant for an observer that ignores the order."
)
_DISTANCES = (
    "Left: distance of states and answers from the posteriors under each noise model. Right: "
    "combinations of task vectors with weights from Dirichlet(1) are injected into zero-shot "
    "prompts; distance of the normalized answer probabilities from these weights."
)
_CONTROL = (
    "The first set of tasks in the network with the entries of every weight matrix permuted. "
    "Attention averages labels even there, and the average depends on their numbers: a correlation "
    "of this size is no evidence of inference."
)
_METHODS = (
    "The common inputs of the tasks are split into three parts: task vectors are means of "
    "single-task prompts on the first, the layer is selected on the second, and everything else is "
    "measured on the third. Every division of the demonstrations among the tasks is equally "
    "frequent, and their order is random.\n\n"
    "Under every noise model, a demonstration of task k has the answer of that task with "
    "probability 1 - noise and every other label with noise / (labels - 1). Proportions: the tasks "
    "of demonstrations and query are sampled from unknown proportions with a uniform prior. One "
    "task: all demonstrations and the query share one task. Switching: the task persists, and is "
    "resampled with probability 0.2 before each demonstration.\n\n"
    "Behaviour is the probability of the first token of each task's answer, normalized to sum to "
    "1. Queries are restricted to those whose answers begin with different tokens."
)


def _summary(study: MixtureStudy) -> list[str]:
    question = (
        f"Question: when demonstrations of several tasks are mixed, are the states of "
        f"{study.settings['model']} convex combinations of task vectors with weights that follow "
        "the posterior over tasks?"
    )
    return [question, *(_summarize_check(name, check) for name, check in study.checks.items())]


def _summarize_check(name: str, check: RetrievalCheck) -> str:
    primary, layer = check.noise_models[0], check.layer
    weights = check.weight_agreement[primary].at_layer(layer)
    low, high = weights.correlation_interval.tolist()
    distances = {k: float(a.distance) for k, a in check.behaviour_agreement.items()}
    nearest = min(distances, key=distances.__getitem__)
    injected = {k: float(a.distance) for k, a in check.injection_agreement.items()}
    return (
        f"{name}: at layer {layer}, weights correlate {float(weights.correlation):.2f} "
        f"[{low:.2f}, {high:.2f}] with the posterior ({primary}), at a distance of "
        f"{float(weights.distance):.2f} (uniform weights {weights.uniform_distance:.2f}). "
        f"Combinations leave {float(check.residual_share.values[layer]):.2f} of the squared norm "
        f"unexplained ({float(check.pure_residual_share.values[layer]):.2f} for pure prompts). "
        f"Answers are nearest to the noise model {nearest} ({distances[nearest]:.2f}). Injected "
        f"combinations yield answers at a distance of {injected['combination']:.2f} from their "
        f"weights, the vector of the most likely task {injected['most likely task']:.2f}."
    )
