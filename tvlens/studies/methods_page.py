"""The page of the study of extraction methods."""

import torch

from .. import viz
from ..stats import bootstrap_interval
from ..vectors import VectorReport
from .claims import VERDICT_RULE, claims_table
from .methods import MethodStudy
from .report import build_page, settings_table


@build_page.register(MethodStudy)
def methods_page(study: MethodStudy) -> viz.Page:
    """Build the page: accuracy by task, method and layer, and the heads of function vectors."""
    sections = [
        viz.Section("Which method works where", _RESULTS, [_map(study), _table(study)]),
        viz.Section("At which layers", _LAYERS, [_layers(study)]),
    ]
    if study.head_effects is not None:
        sections.append(viz.Section("Through which heads", _HEADS, [_heads(study)]))
    claims = claims_table(study.claims, over="task")
    sections.append(viz.Section("Claims", VERDICT_RULE, [claims]))
    title = f"Extraction methods in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_RESULTS = (
    "First-token accuracy on test items with each method's vector written into a prompt without "
    "demonstrations, at the layer chosen on other items, beside the bare query and the few-shot "
    "prompt. Brackets are 95% Wilson intervals over items."
)
_LAYERS = (
    "Accuracy on the validation items, averaged over tasks. State and instruction vectors replace "
    "the state; function and difference vectors are added; the in-context vector turns it."
)
_HEADS = (
    "How much more likely the right answer gets, in prompts with shuffled labels, when one head's "
    "output at the last token is its mean over prompts answered rightly: the mean over tasks. A "
    "function vector is the sum of what the strongest heads write."
)


def _summary(study: MethodStudy) -> list[str]:
    mean = dict(zip(study.methods, study.accuracy.mean(0).tolist(), strict=True))
    ranked = sorted(mean, key=mean.__getitem__, reverse=True)
    few = [_any_report(study, task).few_shot for task in study.tasks]
    ranking = ", ".join(
        f"{method} {mean[method]:.2f} {_over_tasks(study, method)}" for method in ranked
    )
    controls = [
        report.controls[name]
        for by in study.reports.values()
        for report in by.values()
        for name in ("random", "wrong_task")
    ]
    best = study.accuracy.argmax(1).bincount(minlength=len(ranked)).tolist()
    wins = ", ".join(f"{m} {n}" for m, n in zip(study.methods, best, strict=True) if n)
    return [
        f"Question: which of {len(study.methods)} extraction methods works on "
        f"{len(study.tasks)} tasks?",
        f"Mean accuracy on test items, with 95% intervals over tasks: {ranking}; "
        f"demonstrations give {sum(few) / len(few):.2f}. "
        f"Best on so many tasks (the first named where equal): {wins}.",
        *[
            f"Note, {task}: {note}."
            for task in study.tasks
            if (note := _any_report(study, task).note)
        ],
        f"Controls: one seed; random vectors of the same length and other tasks' vectors reach "
        f"{torch.tensor(controls).mean():.2f} on average, {max(controls):.2f} at most; layers "
        "were chosen on other items.",
    ]


def _over_tasks(study: MethodStudy, method: str) -> str:
    if len(study.tasks) < 2:
        return ""
    low, high = bootstrap_interval(study.accuracy[:, study.methods.index(method)].numpy())
    return f"[{low:.2f}, {high:.2f}]"


def _any_report(study: MethodStudy, task: str) -> VectorReport:
    """Return any report of the task, for numbers that do not depend on the method."""
    return next(iter(study.reports[task].values()))


def _map(study: MethodStudy) -> viz.Figure:
    ends = [
        [_any_report(study, t).zero_shot, _any_report(study, t).few_shot or 0.0]
        for t in study.tasks
    ]
    values = torch.cat([study.accuracy, torch.tensor(ends)], dim=1)
    return viz.heatmap(
        values,
        rows=study.tasks,
        columns=[*study.methods, "zero-shot", "few-shot"],
        row_title="task",
        value_title="accuracy",
        annotate=True,
        title="first-token accuracy on test items",
    )


def _table(study: MethodStudy) -> viz.Figure:
    rows = []
    for task in study.tasks:
        report = _any_report(study, task)
        row: dict[str, object] = {"task": task, "n": report.conditions["vector"].count}
        for method in study.methods:
            result = study.reports[task][method]
            low, high = result.interval
            # Two lines in a narrow cell, broken between the number and its interval.
            row[method] = (
                f"{result.accuracy:.2f}\u00a0at\u00a0{result.layer} [{low:.2f},\u00a0{high:.2f}]"
            )
        row |= {"zero-shot": report.zero_shot, "few-shot": report.few_shot}
        rows.append(row)
    return viz.table(rows)


def _layers(study: MethodStudy) -> viz.Figure:
    means = study.by_layer.mean(1)
    return viz.lines(
        dict(zip(study.methods, means, strict=True)),
        x_title="layer",
        y_title="first-token accuracy",
        y_domain=(0, 1),
        title=f"mean over {len(study.tasks)} tasks, validation items",
    )


def _heads(study: MethodStudy) -> viz.Figure:
    effects = study.head_effects.mean(0)
    layers, heads = effects.shape
    top = effects.flatten().topk(min(10, effects.numel())).indices.tolist()
    return viz.heatmap(
        effects,
        rows=range(layers),
        columns=range(heads),
        row_title="layer",
        column_title="head",
        value_title="effect on the right answer's probability",
        diverging=True,
        annotate=False,
        marked=[(i // heads, i % heads) for i in top],
        title=f"indirect effect by head, mean over {len(study.tasks)} tasks",
    )
