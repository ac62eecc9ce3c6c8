"""Figures of vectors and of their reports."""

import torch

from .. import viz
from ..results import register_figure
from .logit_lens import Phases
from .report import VectorReport
from .vector import TaskVector

# Condition -> its label in figures.
CONDITION_LABELS = {
    "zero_shot": "zero-shot",
    "vector": "task vector",
    "few_shot": "few-shot",
    "random": "random vector",
    "wrong_task": "wrong task's vector",
    "shuffled_labels": "few-shot, labels shuffled",
    "most_common": "most common answer",
}


def layer_figure(report: VectorReport) -> viz.Figure:
    """Accuracy by layer on the validation part, with the test result and reference levels."""
    low, high = report.interval
    rules = {"zero-shot": report.zero_shot}
    if report.few_shot is not None:
        rules["few-shot"] = report.few_shot
    band = report.by_layer_interval
    return viz.lines(
        {"vector, validation items": report.by_layer},
        x_title="layer",
        y_title="first-token accuracy",
        bands={"vector, validation items": (band[:, 0], band[:, 1])},
        rules=rules,
        marks={"vector, test items": (report.layer, report.accuracy, low, high)},
        y_domain=(0, 1),
        title=f"{report.task}: where the vector works",
        caption=_sentence(report.note),
    )


def condition_figure(report: VectorReport) -> viz.Figure:
    """Test accuracy under every condition, with intervals."""
    rows = [
        (CONDITION_LABELS.get(c.name, c.name), c.first, *c.first_interval)
        for c in report.conditions.values()
    ]
    return viz.intervals(
        rows,
        x_title="first-token accuracy, test items",
        title=f"{report.task}: against controls",
        caption=_sentence(report.note),
    )


def _sentence(note: str) -> str:
    return note and f"{note[0].upper()}{note[1:]}."


@register_figure(VectorReport)
def report_figure(report: VectorReport) -> viz.Figures:
    """Accuracy by layer, and under every condition."""
    return viz.row(layer_figure(report), condition_figure(report))


@register_figure(TaskVector)
def vector_figure(vector: TaskVector) -> viz.Figure:
    """Effects of the heads of a function vector, or the norm by layer."""
    if "effects" in vector.meta:
        return head_figure(vector)
    return viz.lines(
        {"norm": vector.norms},
        x_title="layer",
        y_title="norm of the vector",
        title=f"{vector.name or 'task vector'}: length by layer",
    )


def head_figure(vector: TaskVector) -> viz.Figure:
    """Indirect effect of every head; frames mark those that a function vector sums."""
    effects = torch.tensor(vector.meta["effects"])
    layers, heads = effects.shape
    return viz.heatmap(
        effects,
        rows=range(layers),
        columns=range(heads),
        row_title="layer",
        column_title="head",
        value_title="effect on the right answer's probability",
        diverging=True,
        annotate=False,
        marked=[tuple(head) for head in vector.meta["heads"]],
        title=f"{vector.name or 'task vector'}: indirect effect by head",
    )


@register_figure(Phases)
def phase_figure(phases: Phases, *, title: str = "what the last token is about") -> viz.Figure:
    """Mean reciprocal rank of every group of words over depth, with intervals over prompts."""
    ends = phases.interval
    return viz.lines(
        dict(zip(phases.groups, phases.mean, strict=True)),
        x_title="layer",
        y_title="mean reciprocal rank",
        bands={name: (e[:, 0], e[:, 1]) for name, e in zip(phases.groups, ends, strict=True)},
        y_domain=(0, 1),
        title=title,
    )
