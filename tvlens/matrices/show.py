"""Pictures of task matrices and of what they do."""

from typing import TYPE_CHECKING

import torch

from .. import viz
from .report import MATRIX

if TYPE_CHECKING:
    from .curves import RankCurve, SampleCurve
    from .diagnostics import LayerMap, WeightDistance
    from .layers import TaskMatrices
    from .matrix import TaskMatrix
    from .report import MatrixReport
    from .sharing import Sharing

# Method -> what a reader sees.
METHOD_LABELS = {
    MATRIX: "task matrix",
    "finetuned": "finetuned model",
    "ridge_probe": "ridge probe, same layer",
    "ridge_probe_own_layer": "ridge probe, best layer",
    "logistic_probe": "logistic probe, same layer",
    "identity": "finetuned head, W = I",
    "mean_shift": "finetuned head, mean shift",
    "procrustes": "rotation (Procrustes)",
    "permuted": "matrix of permuted pairs",
    "constant": "finetuned head, mean state",
    "majority": "most common label",
    "lora": "low-rank adapters (LoRA)",
}

# Methods that a curve has room for.
_CURVES = (MATRIX, "ridge_probe", "logistic_probe", "identity", "permuted")


def label(name: str) -> str:
    """What a reader sees for a method."""
    return METHOD_LABELS.get(name, name.replace("_", " "))


def matrix_figure(matrix: "TaskMatrix") -> viz.Figures:
    """The singular values, and how much the best map of each rank explains."""
    values, share = matrix.spectrum(), matrix.explained_by_rank()
    ranks = range(1, len(values) + 1)
    shown = {"x": ranks, "x_title": "rank", "doublings": True}
    return viz.row(
        viz.lines({"W": values}, y_title="singular value", title=repr(matrix), **shown),
        viz.lines(
            {"W": share[: len(values)]},
            y_title="share of what W explains",
            title="maps of lower rank",
            y_domain=(0, 1),
            **shown,
        ),
    )


def layers_figure(matrices: "TaskMatrices") -> viz.Figure:
    """R^2 that cross-validation expects, by base layer."""
    frame = matrices.to_dataframe().dropna(subset="predicted_r2")
    if frame.empty:
        return viz.table(matrices.to_dataframe().to_dict("records"), title=repr(matrices))
    curves = {
        f"to tuned layer {target}": [
            rows.set_index("layer").predicted_r2.get(layer, float("nan")) for layer in matrices
        ]
        for target, rows in frame.groupby("target")
    }
    return viz.lines(
        curves,
        x=list(matrices),
        x_title="base layer",
        y_title="expected R^2 (GCV)",
        title="how well tuned states follow from base states",
    )


def map_figure(found: "LayerMap") -> viz.Figures:
    """R^2 of every pair of layers, beside their CKA."""
    shown = {"rows": found.layers, "columns": found.targets}
    shown |= {"row_title": "base layer", "column_title": "tuned layer"}
    how = found.settings.get("r2", "")
    return viz.row(
        viz.heatmap(found.r2, value_title="R^2", title=f"linear maps, R^2 {how}", **shown),
        viz.heatmap(found.cka, value_title="CKA", title="similarity without a map", **shown),
    )


def distance_figure(distance: "WeightDistance") -> viz.Figure:
    """How far each block moved, as a share of its own length."""
    return viz.lines(
        {"block": distance.relative_by_layer},
        x_title="block",
        y_title="moved, share of its length",
        rules={"all weights": distance.relative},
        title="how far finetuning moved the weights",
    )


def layer_figure(report: "MatrixReport") -> viz.Figure:
    """Accuracy by layer on the part that chose, with the test result and its reference lines."""
    low, high = report.interval(MATRIX)
    oracle = report.selection == "oracle"
    chosen = sorted(report.layer.tolist())[len(report.layer) // 2]
    curve = "task matrix, " + ("test part (oracle)" if oracle else "validation part")
    rules = {label(n): report.accuracy(n) for n in ("finetuned", "majority") if n in report.names}
    return viz.lines(
        {curve: report.by_layer.mean(0)},
        x=list(report.layers),
        x_title="base layer",
        y_title="accuracy",
        rules=rules,
        marks={"task matrix, test": (chosen, report.accuracy(MATRIX), low, high)},
        title="where the matrix works",
        caption="Layer, penalty and rank were chosen on the test part: flattering numbers."
        if oracle
        else "Layer, penalty and rank were chosen on the validation part.",
    )


def method_figure(report: "MatrixReport") -> viz.Figure:
    """Test accuracy of every method, with intervals over examples and seeds."""
    rows = [(label(n), report.accuracy(n), *report.interval(n)) for n in report.names]
    return viz.intervals(rows, x_title="accuracy, test part", title="against baselines")


def report_figure(report: "MatrixReport") -> viz.Figures:
    """What a report shows in a notebook."""
    return viz.row(layer_figure(report), method_figure(report))


def sample_figure(curve: "SampleCurve") -> viz.Figure:
    """Accuracy against the number of training examples."""
    names = [n for n in _CURVES if n in curve.reports[0].names]
    ends = {n: torch.tensor([r.interval(n) for r in curve.reports]) for n in names}
    return viz.lines(
        {label(n): [r.accuracy(n) for r in curve.reports] for n in names},
        x=list(curve.sizes),
        x_title="training examples",
        doublings=True,
        y_title="accuracy, test part",
        bands={label(n): (e[:, 0], e[:, 1]) for n, e in ends.items()},
        title="few or many examples",
    )


def rank_figure(curve: "RankCurve") -> viz.Figure:
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
        title="rank against accuracy",
    )


def sharing_figure(found: "Sharing") -> viz.Figure | viz.Figures:
    """Own matrix and one for all, task by task; and what every partner gives or takes."""
    order = sorted(range(len(found.tasks)), key=lambda i: -float(found.lead[-1, i, 0]))
    rows, groups = [], []
    for i in order:
        for place, group in ((i, "its own matrix"), (-1, "one matrix for all")):
            value = float(found.accuracy[place, i])
            rows.append((found.tasks[i], value, *found.interval[place, i].tolist()))
            groups.append(group)
    title = f"one matrix for {len(found.tasks)} tasks"
    every = viz.intervals(rows, groups=groups, x_title="accuracy, test part", title=title)
    if len(found.tasks) == 2:
        return every
    partners = viz.heatmap(
        found.pairs(),
        rows=found.tasks,
        columns=found.tasks,
        row_title="task that decides",
        column_title="shares its matrix with",
        value_title="lead over its own",
        diverging=True,
        title="what a partner gives or takes",
    )
    return viz.row(every, partners)
