"""The page of the study of task vectors."""

import numpy as np

from .. import viz
from ..vectors.show import condition_figure, layer_figure
from .claims import VERDICT_RULE, claims_table
from .report import build_page, settings_table
from .vectors import VectorStudy


@build_page.register(VectorStudy)
def vectors_page(study: VectorStudy) -> viz.Page:
    """Build the page: accuracy by task, layer and control, geometry, and a prompt."""
    sections = [
        viz.Section("Claims", VERDICT_RULE, [claims_table(study.claims)]),
        viz.Section("Results", _RESULTS, [_table(study)]),
        viz.Section("Where each vector works", _WHERE, [_layers(study)]),
        viz.Section("Against controls", _CONTROLS, [_conditions(study)]),
        viz.Section("Geometry of the vectors", _geometry_text(study), [_geometry(study)]),
        viz.Section("On a real prompt", _prompt_text(study), _prompt(study)),
        viz.Section("Tokens that a vector alone makes likely", _TOP_TOKENS, [_top_tokens(study)]),
    ]
    title = f"Task vectors in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_RESULTS = (
    "First-token accuracy on test items, which were used neither for extraction nor for choosing "
    "the layer. The vector is written into a prompt without any demonstration, at the delimiter. "
    "Brackets are 95% Wilson intervals over items."
)
_WHERE = (
    "The curve is accuracy on the validation items, with 95% Wilson intervals; the layer with the "
    "highest value was chosen there. The diamond is the one test at that layer, on other items."
)
_CONTROLS = (
    "If a random vector of the same length, or the vector of another task, did as well, the vector "
    "would not carry this task. Demonstrations with shuffled labels show how much of few-shot "
    "accuracy needs the labels to be right; the most common answer is what a constant would score."
)
_TOP_TOKENS = (
    "Each layer's vector, put in place of the last block's output, read by the model's own final "
    "norm and unembedding (the logit lens). Early vectors rarely name the task: they are "
    "instructions for later layers, not answers."
)


def _summary(study: VectorStudy) -> list[str]:
    reports = list(study.reports.values())
    lines = [
        f"Question: does {study.settings['model']} represent "
        + ("this task" if len(reports) == 1 else f"these {len(reports)} tasks")
        + " as a vector in its residual stream, and at which layer?"
    ]
    answers = {"holds": "yes", "misses": "no", "undecided": "not clearly"}
    for r, claim in zip(reports, study.claims, strict=True):
        low, high = r.interval
        lines.append(
            f"{r.task}: {answers[claim.verdict]}. The vector at layer {r.layer} "
            f"raises accuracy from {r.zero_shot:.2f} to {r.accuracy:.2f} [{low:.2f}, {high:.2f}]"
            + (f"; demonstrations give {r.few_shot:.2f}." if r.few_shot is not None else ".")
            + (f" Note: {r.note}." if r.note else "")
        )
    controls = [r.controls[k] for r in reports for k in ("random", "wrong_task")]
    sizes = [r.conditions["vector"].count for r in reports]
    lines.append(
        f"Controls: random vectors of the same length and other tasks' vectors reach at most "
        f"{max(controls):.2f}; examples for extraction, for choosing the layer and for the test "
        f"are disjoint; {min(sizes)} to {max(sizes)} test items a task, one seed."
    )
    return lines


def _table(study: VectorStudy) -> viz.Figure:
    rows = []
    for name, report in study.reports.items():
        low, high = report.interval
        row = {"task": name, "items": report.conditions["vector"].count, "layer": report.layer}
        row |= {"zero-shot": report.zero_shot, "task vector": report.accuracy}
        row |= {"95% interval": f"[{low:.2f}, {high:.2f}]", "whole answer": report.full_accuracy}
        row |= {"few-shot": report.few_shot, "random": report.controls["random"]}
        rows.append(row | {"wrong task": report.controls["wrong_task"]})
    return viz.table(rows)


def _layers(study: VectorStudy) -> viz.Figures:
    return viz.row(*[layer_figure(report) for report in study.reports.values()])


def _conditions(study: VectorStudy) -> viz.Figures:
    return viz.row(*[condition_figure(report) for report in study.reports.values()])


def _geometry_text(study: VectorStudy) -> str:
    return (
        f"All vectors at layer {study.layer}. On the left their cosines; a common part of all "
        "few-shot prompts makes them positive. On the right the states of the single contexts, "
        "each with its task's mean, on their first two principal components."
    )


def _geometry(study: VectorStudy) -> viz.Figures:
    names = list(study.vectors)
    table = viz.heatmap(
        study.cosines,
        rows=names,
        columns=names,
        value_title="cosine",
        diverging=True,
        annotate=True,
        title="cosine of task vectors",
    )
    points, labels, groups, explained = _map(study)
    shown = [f"component {i + 1} ({share:.0%})" for i, share in enumerate(explained)]
    scatter = viz.scatter(
        points,
        labels=labels,
        groups=groups,
        x_title=shown[0],
        y_title=shown[1],
        title="states of single contexts",
    )
    return viz.row(table, scatter)


def _map(study: VectorStudy) -> tuple[np.ndarray, list[str], list[str], np.ndarray]:
    """Project contexts and task means on two principal components."""
    from sklearn.decomposition import PCA

    names = list(study.states)
    states = np.concatenate([study.states[name].float().numpy() for name in names])
    means = np.stack([study.states[name].float().mean(0).numpy() for name in names])
    pca = PCA(2, random_state=0).fit(states)
    groups = [name for name in names for _ in study.states[name]] + names
    labels = [""] * len(states) + names
    points = pca.transform(np.concatenate([states, means]))
    return points, labels, groups, pca.explained_variance_ratio_


def _prompt_text(study: VectorStudy) -> str:
    first = next(iter(study.vectors))
    heads = ", ".join(f"L{l}H{h} ({share:.2f})" for l, h, share in study.heads[:4])
    return (
        f"A few-shot prompt of {first}. The colour of a token is the cosine of its state at layer "
        f"{study.layer} with the task vector, both less the mean state of the prompt's tokens: "
        "blue for alike, red for opposed. Below, the heads up to that layer that look most from "
        f"the last token at the demonstrations' labels: {heads}."
    )


def _prompt(study: VectorStudy) -> list:
    tokens = [token.replace("\n", "\u21b5") for token in study.prompt]
    names = [f"L{layer}H{head}" for layer, head, _ in study.heads]
    return [
        viz.colored_tokens(tokens, study.alignment, title="cosine with the task vector"),
        viz.attention_heads(study.patterns, tokens, head_names=names),
    ]


def _top_tokens(study: VectorStudy) -> viz.Figure:
    layers = len(next(iter(study.vectors.values())).values)
    around = range(max(study.layer - 1, 0), min(study.layer + 3, layers))
    layers_shown = sorted({0, layers // 2, *around, layers - 1})
    rows = []
    for layer in layers_shown:
        row: dict[str, object] = {"layer": str(layer)}
        for name, tokens in study.top_tokens.items():
            row[name] = "  ".join(f"{token!r} {p:.2f}" for token, p in tokens[layer][:4])
        rows.append(row)
    return viz.table(rows)
