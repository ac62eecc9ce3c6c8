"""The page of the study of task matrices."""

from ... import viz
from ...matrices import SharingReport
from ...matrices.report import MATRIX
from ...matrices.show import (
    layer_figure,
    learning_figure,
    map_figure,
    method_figure,
    method_label,
    rank_figure,
    sharing_figure,
)
from ..claims import VERDICT_RULE, claims_table
from ..report import build_page, settings_table
from .claims import group_by_verdict
from .dataset import DatasetResult
from .study import MatrixStudy
from .tables import PROBE, mean_difference


@build_page.register(MatrixStudy)
def matrix_page(study: MatrixStudy) -> viz.Page:
    """Build the page: a table of all datasets, the claims, then a section per dataset."""
    results = list(study.datasets.values())
    claims = claims_table(study.claims, over="dataset")
    sections = [
        viz.Section("All datasets", _TABLE, [_results_table(study), _differences(results)]),
        viz.Section("Claims", VERDICT_RULE, [claims]),
        *[_sharing_section(base, report) for base, report in study.sharing.items()],
        *[viz.Section(r.name, _describe_result(r), _result_figures(r)) for r in results],
    ]
    settings = settings_table(study.settings)
    return viz.Page("Task matrices", _summarize(study), sections, settings)


_TABLE = (
    "A task matrix maps states of the base model at one layer to the finetuned model's last "
    "states, which the finetuned head classifies. The linear probe (ridge regression to the "
    "labels) reads the same layer of the base model and is trained on the same examples. Brackets "
    "are 95% Wilson intervals over test examples; the difference to the probe is paired by "
    "example and has a bootstrap interval. The recovered gap is the share of the gap between probe "
    "and finetuned model; it is left out if the finetuned model is not clearly better than the "
    "probe. In the last column layer, penalty and rank were chosen on the test part, as in the "
    "paper, which flatters the result; it is given for comparison only."
)


def _summarize(study: MatrixStudy) -> list[str]:
    results = list(study.datasets.values())
    groups = group_by_verdict(results, PROBE)
    reference = group_by_verdict(results, "finetuned")
    count_near = len(reference["wins"]) + len(reference["ties"])
    null = max(result.report.accuracies["permuted"] for result in results)
    n = len(results)
    part = "on the validation part; the test part was used once"
    if study.settings["selection"] == "oracle":
        part = "ON THE TEST PART, as in the paper, which flatters every number here"
    return [
        "Question: can a linear map of a base model's states replace finetuning, and is it more "
        "accurate than a linear probe of the same states?",
        f"Result: against the probe at the same layer, on {n} dataset{'s' * (n > 1)}, it wins on "
        f"{_list_names(groups['wins'])}, ties on {_list_names(groups['ties'])}, and loses on "
        f"{_list_names(groups['loses'])}. On {count_near} its accuracy does not differ "
        "significantly from the finetuned model's, or is higher.",
        f"Controls: matrices fitted to permuted pairs reach at most {null:.2f}. Layer, penalty and "
        f"rank were chosen {part}. {_describe_seeds(study)}",
    ]


def _describe_seeds(study: MatrixStudy) -> str:
    seeds = study.settings["seeds"]
    if seeds > 1:
        return (
            f"Every model was finetuned {seeds} times: intervals are over examples and finetunings."
        )
    return "Models were finetuned once: intervals are over examples, not over finetunings."


def _list_names(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names)})" if len(names) <= 4 else str(len(names))


def _results_table(study: MatrixStudy) -> viz.Figure:
    rows = []
    for row in study.to_dataframe().to_dict("records"):
        gap = row["gap_recovered"]
        rows.append(
            {
                "dataset": row["dataset"],
                "layer": _format_range(study.datasets[row["dataset"]].report.layer.tolist()),
                "probe": _format_interval(row, "probe", "probe_low", "probe_high"),
                "task matrix": _format_interval(row, "task_matrix", "low", "high"),
                **({"LoRA": f"{row['lora']:.2f}"} if study.settings["lora"] else {}),
                "finetuned": f"{row['finetuned']:.2f}",
                "recovered gap": "" if gap is None or gap != gap else f"{gap:.2f}",
                "difference": _format_interval(
                    row, "difference", "difference_low", "difference_high", sign="+"
                ),
                "verdict": row["verdict"],
                "chosen on test": f"{row['oracle']:.2f}",
            }
        )
    return viz.table(rows)


def _format_range(layers: list[int]) -> str:
    """Format the layers that several finetunings chose."""
    low, high = min(layers), max(layers)
    return str(low) if low == high else f"{low} to {high}"


def _format_interval(row: dict, value: str, low: str, high: str, *, sign: str = "") -> str:
    a, b, c = (format(row[k], f"{sign}.2f") for k in (value, low, high))
    return f"{a} [{b}, {c}]".replace(" ", "\u00a0")


def _differences(results: list[DatasetResult]) -> viz.Figure:
    """Plot the difference to the probe, by dataset."""
    rows = []
    for result in results:
        difference = result.report.difference(MATRIX, PROBE)
        rows.append((result.name, difference.value, *difference.interval))
    rows.sort(key=lambda row: -row[1])
    title = "task matrix minus probe"
    return viz.intervals(rows, x_title="difference of accuracy", title=title)


def _sharing_section(base: str, report: SharingReport) -> viz.Section:
    """Build the section about one matrix for all datasets of a base model."""
    names, best, shared = report.tasks, report.best(), mean_difference(report, *report.tasks)
    differences = report.difference[-1]
    worst = min(range(len(names)), key=lambda i: float(differences[i, 0]))
    worse = [n for n, (_, _, high) in zip(names, differences.tolist(), strict=True) if high < 0]
    pair = mean_difference(report, *best)
    text = (
        "The moments of several datasets add up to those of one matrix that all of them share; "
        "each dataset has its own finetuned head. Layers and penalties are chosen on the "
        "validation parts, for full matrices. "
        f"One matrix for all {len(names)}: {shared['accuracy']:.2f} on average against "
        f"{shared['own']:.2f} with their own; significantly worse on {_list_names(worse)}; the "
        f"largest loss is on {names[worst]} ({float(differences[worst, 0]):+.2f}). "
        f"The pair of highest validation accuracy is {' and '.join(best)}: "
        f"{pair['difference']:+.2f} on test."
    )
    return viz.Section(f"One matrix for several tasks: {base}", text, [sharing_figure(report)])


def _describe_result(result: DatasetResult) -> str:
    facts, matrix = result.facts, result.matrix
    text = (
        f"{facts['classes']} classes; {facts['train']} training, {facts['validation']} validation "
        f"and {facts['test']} test examples. Base {facts['base']}, finetuned {facts['tuned']}, "
        f"readout: {facts['readout']} state. Finetuning changed the weights by "
        f"{facts['relative_weight_distance']:.1%} of their norm. "
    )
    distance = facts["distance_from_identity"]
    if distance is not None:
        text += f"At layer {matrix.layer}, ||W - I|| / ||I|| is {distance:.2f}. "
    if facts["lora"]:
        text += (
            f"LoRA of rank {facts['lora']} was trained on the same examples for as many epochs, "
            "and has its own head. "
        )
    if facts["seeds"] > 1:
        text += "Curves over examples and ranks, spectrum and maps are of the first finetuning. "
    agreement = result.report.agreement()
    return text + f"On {agreement:.0%} of the test part it agrees with the finetuned model."


def _result_figures(result: DatasetResult) -> list:
    spectrum = viz.lines(
        {method_label(MATRIX): result.matrix.spectrum()},
        x=range(1, min(result.matrix.weight.shape) + 1),
        x_title="direction",
        y_title="singular value",
        doublings=True,
        title="spectrum of W",
    )
    return [
        viz.row(layer_figure(result.report), method_figure(result.report)),
        viz.row(learning_figure(result.samples), rank_figure(result.ranks)),
        viz.row(spectrum, map_figure(result.layers)),
    ]
