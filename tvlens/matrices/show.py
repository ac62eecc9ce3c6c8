"""Figures of task matrices and of their results."""

import torch

from .. import viz
from ..results import register_figure
from .curves import LearningCurve, RankCurve
from .diagnostics import LayerMap, WeightDistance
from .matrix import TaskMatrices, TaskMatrix
from .report import MATRIX, MatrixReport
from .sharing import SharingReport

# Method -> its label in figures.
METHOD_LABELS = {
    MATRIX: "task matrix",
    "finetuned": "finetuned model",
    "ridge_probe": "ridge probe, same layer",
    "ridge_probe_best_layer": "ridge probe, best layer",
    "logistic_probe": "logistic probe, same layer",
    "identity": "finetuned head, W = I",
    "mean_shift": "finetuned head, mean shift",
    "procrustes": "rotation (Procrustes)",
    "permuted": "matrix of permuted pairs",
    "constant": "finetuned head, mean state",
    "majority": "most common label",
    "lora": "low-rank adapters (LoRA)",
}

# Methods shown in learning curves.
_CURVES = (MATRIX, "ridge_probe", "logistic_probe", "identity", "permuted")


def method_label(method: str) -> str:
    """The label of a method in figures."""
    return METHOD_LABELS.get(method, method.replace("_", " "))


@register_figure(TaskMatrix)
def matrix_figure(matrix: TaskMatrix) -> viz.Figures:
    """The singular values, and how much the best map of each rank explains."""
    values, explained = matrix.spectrum(), matrix.explained_by_rank()
    axis = {"x": range(1, len(values) + 1), "x_title": "rank", "doublings": True}
    return viz.row(
        viz.lines({"W": values}, y_title="singular value", title=repr(matrix), **axis),
        viz.lines(
            {"W": explained[: len(values)]},
            y_title="share of what W explains",
            title="maps of lower rank",
            y_domain=(0, 1),
            **axis,
        ),
    )


@register_figure(TaskMatrices)
def layers_figure(matrices: TaskMatrices) -> viz.Figure:
    """R^2 predicted by cross-validation, by base layer."""
    frame = matrices.to_dataframe().dropna(subset="predicted_r2")
    if frame.empty:
        return viz.table(matrices.to_dataframe().to_dict("records"), title=repr(matrices))
    curves = {
        f"to finetuned layer {target}": [
            rows.set_index("layer").predicted_r2.get(layer, float("nan")) for layer in matrices
        ]
        for target, rows in frame.groupby("target")
    }
    return viz.lines(
        curves,
        x=list(matrices),
        x_title="base layer",
        y_title="predicted R^2 (GCV)",
        title="R^2 of finetuned states given base states",
    )


@register_figure(LayerMap)
def map_figure(layer_map: LayerMap) -> viz.Figures:
    """R^2 and CKA of every pair of layers."""
    axes = {"rows": layer_map.layers, "columns": layer_map.targets}
    axes |= {"row_title": "base layer", "column_title": "finetuned layer"}
    estimate = layer_map.settings.get("r2", "")
    return viz.row(
        viz.heatmap(layer_map.r2, value_title="R^2", title=f"linear maps, R^2 {estimate}", **axes),
        viz.heatmap(layer_map.cka, value_title="CKA", title="similarity without a map", **axes),
    )


@register_figure(WeightDistance)
def distance_figure(distance: WeightDistance) -> viz.Figure:
    """Relative change of each block's weights."""
    return viz.lines(
        {"block": distance.relative_by_layer},
        x_title="block",
        y_title="relative change",
        rules={"all weights": distance.relative},
        title="relative change of the weights by finetuning",
    )


def layer_figure(report: MatrixReport) -> viz.Figure:
    """Accuracy by layer on the part used for the choice, with test result and references."""
    is_oracle = report.selection == "oracle"
    layer = sorted(report.layer.tolist())[len(report.layer) // 2]
    curve = "task matrix, " + ("test part (oracle)" if is_oracle else "validation part")
    rules = {
        method_label(m): report.accuracies[m]
        for m in ("finetuned", "majority")
        if m in report.methods
    }
    return viz.lines(
        {curve: report.by_layer.mean(0)},
        x=list(report.layers),
        x_title="base layer",
        y_title="accuracy",
        rules=rules,
        marks={"task matrix, test": (layer, report.accuracy, *report.interval)},
        title="accuracy by layer",
        caption="Layer, penalty and rank were chosen on the test part, which flatters the numbers."
        if is_oracle
        else "Layer, penalty and rank were chosen on the validation part.",
    )


def method_figure(report: MatrixReport) -> viz.Figure:
    """Test accuracy of every method, with intervals over examples and seeds."""
    rows = [(method_label(m), report.accuracies[m], *report.intervals[m]) for m in report.methods]
    return viz.intervals(rows, x_title="accuracy, test part", title="against baselines")


@register_figure(MatrixReport)
def report_figure(report: MatrixReport) -> viz.Figures:
    """Accuracy by layer, and against baselines."""
    return viz.row(layer_figure(report), method_figure(report))


@register_figure(LearningCurve)
def learning_figure(curve: LearningCurve) -> viz.Figure:
    """Accuracy against the number of training examples."""
    methods = [m for m in _CURVES if m in curve.reports[0].methods]
    ends = {m: torch.tensor([r.intervals[m] for r in curve.reports]) for m in methods}
    return viz.lines(
        {method_label(m): [r.accuracies[m] for r in curve.reports] for m in methods},
        x=list(curve.sizes),
        x_title="training examples",
        doublings=True,
        y_title="accuracy, test part",
        bands={method_label(m): (e[:, 0], e[:, 1]) for m, e in ends.items()},
        title="learning curve",
    )


@register_figure(RankCurve)
def rank_figure(curve: RankCurve) -> viz.Figure:
    """Accuracy, agreement and R^2 against the rank."""
    return viz.lines(
        {
            "accuracy": curve.accuracy,
            "agreement with the finetuned model": curve.agreement,
            "R^2": curve.r2,
        },
        x=list(curve.ranks),
        x_title="rank",
        doublings=True,
        y_title="share",
        bands={"accuracy": (curve.interval[:, 0], curve.interval[:, 1])},
        rules={"finetuned model": curve.finetuned},
        title="accuracy by rank",
    )


@register_figure(SharingReport)
def sharing_figure(report: SharingReport) -> viz.Figure | viz.Figures:
    """Accuracy with the own and the common matrix by task, and the effect of every partner."""
    order = sorted(range(len(report.tasks)), key=lambda i: -float(report.difference[-1, i, 0]))
    rows, groups = [], []
    for i in order:
        for index, group in ((i, "its own matrix"), (-1, "one matrix for all")):
            accuracy = float(report.accuracy[index, i])
            rows.append((report.tasks[i], accuracy, *report.interval[index, i].tolist()))
            groups.append(group)
    title = f"one matrix for {len(report.tasks)} tasks"
    by_task = viz.intervals(rows, groups=groups, x_title="accuracy, test part", title=title)
    if len(report.tasks) == 2:
        return by_task
    partners = viz.heatmap(
        report.pair_differences(),
        rows=report.tasks,
        columns=report.tasks,
        row_title="task that is scored",
        column_title="task that shares its matrix",
        value_title="difference to its own matrix",
        diverging=True,
        title="effect of sharing with one task",
    )
    return viz.row(by_task, partners)
