"""The page of the study of task matrices."""

from typing import TYPE_CHECKING

from ... import viz
from ...matrices.report import MATRIX
from ...matrices.show import (
    label,
    layer_figure,
    map_figure,
    method_figure,
    rank_figure,
    sample_figure,
    sharing_figure,
)
from ..report import settings_table
from .claims import PROBE, Claim, verdicts
from .sharing import mean_lead

if TYPE_CHECKING:
    from ...matrices import Sharing
    from .case import Case
    from .study import MatrixStudy


def page(study: "MatrixStudy") -> viz.Page:
    """One page: one table over all datasets, claims, then every dataset by itself."""
    cases = list(study.cases.values())
    sections = [
        viz.Section("All datasets", _TABLE, [_table(study), _leads(cases)]),
        viz.Section("Claims", _CLAIMS, [viz.table([_claim(c) for c in study.claims()])]),
        *[_shared(base, found) for base, found in study.sharing.items()],
        *[viz.Section(case.name, _about(case), _figures(case)) for case in cases],
    ]
    return viz.Page("Task matrices", _summary(study), sections, settings_table(study.settings))


_TABLE = (
    "A task matrix maps states of the base model at one layer to the finetuned model's last "
    "states; the finetuned head decides. The linear probe (ridge regression to the labels) reads "
    "the same layer of the base model and learns from the same examples. Brackets are 95% "
    "Wilson intervals over test examples; the lead over the probe is paired by example and has a "
    "bootstrap interval. "
    "The share of the gap is how much of the way from the probe to the finetuned model the matrix "
    "goes; it is left out where the finetuned model is not clearly better than the probe. "
    "The last column chose layer, penalty and rank on the test part, as the paper does: it "
    "flatters, and is here for comparison only."
)
_CLAIMS = (
    "A claim of superiority holds where the interval of the difference lies above zero on every "
    "dataset, is mixed where it does on some, and is not seen where it does on none."
)


def _summary(study: "MatrixStudy") -> list[str]:
    cases = list(study.cases.values())
    against = verdicts(cases, PROBE)
    reached = verdicts(cases, "finetuned")
    near = len(reached["wins"]) + len(reached["ties"])
    chance = max(case.report.accuracy("permuted") for case in cases)
    n = len(cases)
    how = "on the validation part; the test part was used once"
    if study.settings["selection"] == "oracle":
        how = "ON THE TEST PART, as the paper does, which flatters every number here"
    return [
        "Asked: can one linear map of a base model's states stand in for finetuning, and does it "
        "do more than a linear probe of the same states?",
        f"Found: against the probe at the same layer, on {n} dataset{'s' * (n > 1)}: it wins on "
        f"{_listed(against['wins'])}, ties on {_listed(against['ties'])}, loses on "
        f"{_listed(against['loses'])}. From the finetuned model it is not told apart on {near}.",
        f"Trust: matrices fitted to permuted pairs reach at most {chance:.2f}. Layer, penalty and "
        f"rank were chosen {how}. {_finetunings(study)}",
    ]


def _finetunings(study: "MatrixStudy") -> str:
    seeds = study.settings["seeds"]
    if seeds > 1:
        return (
            f"Every twin was finetuned {seeds} times: intervals are over examples and finetunings."
        )
    return "The twins were finetuned once: intervals are over examples, not over finetunings."


def _listed(names: list[str]) -> str:
    if not names:
        return "none"
    return f"{len(names)} ({', '.join(names)})" if len(names) <= 4 else str(len(names))


def _table(study: "MatrixStudy") -> viz.Figure:
    rows = []
    for found in study.to_dataframe().to_dict("records"):
        probe = _with_ends(found, "base_probe", "base_probe_low", "base_probe_high")
        lead = _with_ends(found, "lead", "lead_low", "lead_high", sign="+")
        share = found["share_of_gap"]
        rows.append(
            {
                "dataset": found["dataset"],
                "layer": _span(study.cases[found["dataset"]].report.layer.tolist()),
                "probe": probe,
                "task matrix": _with_ends(found, "task_matrix", "low", "high"),
                **({"LoRA": f"{found['lora']:.2f}"} if study.settings["lora"] else {}),
                "finetuned": f"{found['finetuned']:.2f}",
                "of gap": "" if share is None or share != share else f"{share:.2f}",
                "lead": lead,
                "verdict": found["verdict"],
                "on test": f"{found['oracle']:.2f}",
            }
        )
    return viz.table(rows)


def _span(layers: list[int]) -> str:
    """What several finetunings chose."""
    low, high = min(layers), max(layers)
    return str(low) if low == high else f"{low} to {high}"


def _with_ends(found: dict, value: str, low: str, high: str, *, sign: str = "") -> str:
    a, b, c = (format(found[k], f"{sign}.2f") for k in (value, low, high))
    return f"{a} [{b}, {c}]".replace(" ", "\u00a0")


def _leads(cases: list["Case"]) -> viz.Figure:
    """The lead over the probe, dataset by dataset."""
    rows = []
    for case in cases:
        lead = case.report.difference(MATRIX, PROBE)
        rows.append((case.name, lead.value, lead.low, lead.high))
    rows.sort(key=lambda row: -row[1])
    title = "lead of the task matrix over the probe"
    return viz.intervals(rows, x_title="difference of accuracy", title=title)


def _shared(base: str, found: "Sharing") -> viz.Section:
    """One matrix for all datasets of a base model."""
    names, best, whole = found.tasks, found.best(), mean_lead(found, *found.tasks)
    worst = min(range(len(names)), key=lambda i: float(found.lead[-1, i, 0]))
    lost = [n for n, (_, _, high) in zip(names, found.lead[-1].tolist(), strict=True) if high < 0]
    pair = mean_lead(found, *best)
    text = (
        "The moments of several datasets add up to those of one matrix that all of them share; "
        "each dataset still decides by its own finetuned head. Layers and penalties are chosen on "
        "the validation parts, for whole matrices. "
        f"One matrix for all {len(names)}: {whole['accuracy']:.2f} on average against "
        f"{whole['own']:.2f} with their own; clearly worse on {_listed(lost)}; the most is lost on "
        f"{names[worst]} ({float(found.lead[-1, worst, 0]):+.2f}). "
        f"The pair that shares best on the validation parts is {' and '.join(best)}: "
        f"{pair['lead']:+.2f} on test."
    )
    return viz.Section(f"One matrix for several tasks: {base}", text, [sharing_figure(found)])


def _claim(claim: Claim) -> dict[str, str]:
    return {"claim": claim.claim, "found": claim.found, "verdict": claim.verdict}


def _about(case: "Case") -> str:
    facts, matrix = case.facts, case.matrix
    text = (
        f"{facts['classes']} classes; {facts['train']} examples to fit to, {facts['validation']} "
        f"to choose by, {facts['test']} to test on. Base {facts['base']}, tuned {facts['tuned']}, "
        f"read by the {facts['readout']} state. Finetuning moved the weights by "
        f"{facts['weights moved, share']:.1%} of their length. "
    )
    distance = facts["||W - I|| / ||I||"]
    if distance is not None:
        text += f"The matrix at layer {matrix.layer} is {distance:.2f} times as far from the "
        text += "identity as the identity from zero. "
    if facts["lora"]:
        text += (
            f"LoRA of rank {facts['lora']} learnt in as many epochs from the same examples, and "
            "decides by itself. "
        )
    if facts["seeds"] > 1:
        text += "Curves over examples and ranks, spectrum and maps are of the first finetuning. "
    agreed = case.report.agreement()
    return text + f"It decides as the finetuned model does on {agreed:.0%} of the test part."


def _figures(case: "Case") -> list:
    found = [
        viz.row(layer_figure(case.report), method_figure(case.report)),
        viz.row(sample_figure(case.samples), rank_figure(case.ranks)),
    ]
    spectrum = viz.lines(
        {label(MATRIX): case.matrix.spectrum()},
        x=range(1, min(case.matrix.weight.shape) + 1),
        x_title="direction",
        y_title="singular value",
        doublings=True,
        title="spectrum of W",
    )
    return [*found, viz.row(spectrum, map_figure(case.layers))]
