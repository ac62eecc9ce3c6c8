"""The page of the latent study."""

from collections.abc import Sequence
from dataclasses import replace
from math import log2

import torch

from ... import viz
from ...bayes.checks.representation_check import MEASURES
from ...bayes.checks.show import (
    ablation_figure,
    behaviour_figure,
    injection_figure,
    learner_subspace_figure,
    measure_figure,
    novel_tasks_figure,
    simplex_figure,
    statistics_regression_figure,
)
from ..claims import VERDICT_RULE, claims_table
from ..report import build_page, settings_table
from .study import LatentStudy
from .trained_model import TrainedModelResult


@build_page.register(LatentStudy)
def latent_page(study: LatentStudy) -> viz.Page:
    """Build the page: claims, then the results of each family."""
    over = "seed" if len(study.seeds) > 1 else ""
    sections = [viz.Section("Claims", _CLAIMS, [claims_table(study.claims, over=over)])]
    for family in study.families:
        sections += _family_sections(study, family)
    title = f"Two modes of task inference: {', '.join(study.families)}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = (
    f"{VERDICT_RULE} Intervals are 95% bootstrap intervals over sequences; for several seeds, the "
    "table gives medians and ranges. Thresholds do not depend on the results of a run. Figures "
    "below show the first seed."
)
_EXAMPLE = (
    "One sequence of each task, in a model without minor tasks. Weights are those of the convex "
    "combination of task vectors nearest to the token-corrected state of the last layer, beside "
    "the Bayesian posterior. Select a task below the tokens to colour them by its weight or "
    "posterior. Mean and token effects are estimated at the end of the context, so early positions "
    "fit worse. Where the predictive depends on the last token, task vectors are token-specific."
)
_SIMPLEX = (
    "States of the last layer, minus mean and token effect, projected onto the plane of the task "
    "vectors, beside the Bayesian posteriors of the same sequences. Colour is the true task."
)
_REPRESENTATION = (
    "Measured on balanced sequences with a forced last token, which separates task from token. "
    "Bands are 95% bootstrap intervals. Nulls: tasks permuted, cells permuted, random vectors of "
    "equal norms and angles, posteriors of other sequences. Measures by token use task vectors of "
    "each last token and require no additivity."
)
_BEHAVIOUR = (
    "Retrieval (M1) weights all known tasks, including minor ones; extrapolation (M2) weights the "
    "major tasks and one new task learned in context; the learner knows no task."
)
_INJECTION = (
    "The task part of the last state is replaced by a random mixture of task vectors, and the "
    "prediction is compared with the same mixture of the tasks' predictives. Where "
    "log-probabilities are linear in the state, as after the last layer, even a perfect "
    "combination predicts the geometric mixture; its divergence is the last row. Injections by "
    "token use task vectors of each last token."
)
_ABLATION = (
    "Cost of replacing the task part by its mean at every position, on known and new tasks, beside "
    "random subspaces that hold as much variance. Token effects remain."
)
_LEARNER = (
    "Directions found one by one outside the spans of task vectors and token effects, each on "
    "fresh tasks, and evaluated on other tasks. Their coordinates are regressed on the logarithm "
    "of the counts that a learner accumulates."
)
_STEPS = (
    "Positive values (orange): closer to extrapolation (M2). Negative values (blue): closer to "
    "retrieval (M1). The share is the fraction of the squared norm of new tasks' mean states, "
    "after token correction, inside the span of the task vectors."
)


def _summary(study: LatentStudy) -> list[str]:
    verdicts = [claim.verdict for claim in study.claims]
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    return [
        "Question: does a small transformer retrieve known tasks like a Bayesian observer, along "
        "convex combinations of task vectors, and learn new tasks outside their span?",
        f"Result: {verdicts.count('holds')} of {len(verdicts)} claims hold, "
        f"{verdicts.count('undecided')} are undecided, in {len(study.models)} models of {seeds}.",
        *(_summarize_family(study, family) for family in study.families),
        "Every number is given with a control. Task vectors, searches and measurements use "
        "disjoint sequences.",
    ]


def _summarize_family(study: LatentStudy, family: str) -> str:
    """Count the claims of one family that hold, and list the others."""
    claims = [claim for claim in study.claims if claim.where["family"] == family]
    others = "; ".join(
        f"{c.id} with {c.where['minors']} minors: {c.value:.3g}, {c.side} {c.bound:.3g} required"
        for c in claims
        if c.verdict != "holds"
    )
    holds = sum(claim.verdict == "holds" for claim in claims)
    text = f"{family}: {holds} of {len(claims)} hold."
    return text + (f" Not confirmed: {others}." if others else "")


def _describe_minors(minor: int | str) -> str:
    """Describe the number of minor tasks of an exponent."""
    return "no minors" if minor == "none" else f"{2**minor} minor{'s' if minor else ''}"


def _family_sections(study: LatentStudy, family: str) -> list[viz.Section]:
    """Build the sections of one family for the first seed."""
    models = [m for m in study.models if m.family == family and m.seed == study.seeds[0]]
    plain = next((m for m in models if m.minor == "none"), models[0])
    most = max(models, key=lambda m: -1 if m.minor == "none" else m.minor)
    result = plain.representation
    examples = [_example_figure(plain, k) for k in range(len(plain.example.get("tokens", ())))]
    measures = viz.row(*[measure_figure(result, measure) for measure in MEASURES])
    learner = [
        learner_subspace_figure(most.learner_subspace),
        viz.row(
            statistics_regression_figure(most.statistics_regression),
            novel_tasks_figure(most.novel_tasks),
        ),
    ]
    predictions = [
        viz.Section(
            f"predictions, {_describe_minors(c.minor)}", _BEHAVIOUR, [behaviour_figure(c.behaviour)]
        )
        for c in ([plain, most] if most is not plain else [plain])
    ]
    n_minors = _describe_minors(most.minor)
    sections = [
        *([viz.Section("weights follow the posterior", _EXAMPLE, examples)] if examples else []),
        viz.Section("the simplex", _SIMPLEX, [simplex_figure(result)]),
        viz.Section("over training", _STEPS, _checkpoint_figures(models)),
        *predictions,
        viz.Section("properties of the states", _REPRESENTATION, [measures, _layer_table(plain)]),
        viz.Section(
            f"injected mixtures, {_describe_minors(plain.minor)}",
            _INJECTION,
            [_injection_row(plain)],
        ),
        viz.Section(
            f"ablation of the task span, {n_minors}", _ABLATION, [ablation_figure(most.ablation)]
        ),
        viz.Section(f"learner subspace, {n_minors}", _LEARNER, learner),
    ]
    return [replace(part, title=f"{family}: {part.title}") for part in sections]


def _example_figure(model: TrainedModelResult, k: int) -> viz.Figures:
    """Plot one sequence: coloured tokens, then weights and posterior side by side."""
    tokens = [str(token) for token in model.example["tokens"][k].tolist()]
    curves = {"weight": model.example["weights"][k], "posterior": model.example["posterior"][k]}
    # The sequence's task comes first, as the default selection.
    tasks = sorted(range(curves["posterior"].shape[1]), key=lambda j: j != k)
    names = [f"{what}, task {j}" for j in tasks for what in curves]
    values = torch.stack([value[:, j].double() for j in tasks for value in curves.values()], 1)
    widget = viz.colored_tokens_multi(tokens, values, names, title=f"a sequence of task {k}")
    charts = [
        viz.lines(
            {f"task {j}": curve for j, curve in enumerate(value.T)},
            x=range(1, len(tokens) + 1),
            x_title="observations",
            y_title=y_title,
            y_domain=(0, 1),
            title=title,
        )
        for value, y_title, title in (
            (curves["weight"], "weight", "weights of the task vectors"),
            (curves["posterior"], "probability", "Bayesian posterior"),
        )
    ]
    return viz.stack(widget, viz.row(*charts))


def _layer_table(model: TrainedModelResult) -> viz.Figure:
    """Tabulate the measures at the end of the context by layer."""
    rows = []
    for result, injected in zip(model.layers, model.injections, strict=True):
        row: dict[str, object] = {"layer": str(result.layer)}
        row |= {measure: float(result[measure][-1]) for measure in MEASURES}
        conditions = ("unsteered", "injected", "injected by token", "most likely task")
        rows.append(row | {f"KL {name}": injected.mean[name] for name in conditions})
    return viz.table(rows, title="by layer, at the end of the context")


def _injection_row(model: TrainedModelResult) -> viz.Figures:
    return viz.row(*[injection_figure(result) for result in model.injections])


def _checkpoint_figures(models: Sequence[TrainedModelResult]) -> list:
    """Plot phase diagrams, the share inside the task span and the KL to the references."""
    rows = {_describe_minors(model.minor): model for model in models}
    maps = [
        viz.heatmap(
            [[record["log_ratio"][split] for record in model.steps] for model in models],
            rows=list(rows),
            columns=[record["step"] for record in models[0].steps],
            row_title="minor tasks",
            column_title="training step",
            value_title="log(KL to M1 / KL to M2)",
            diverging=True,
            title=f"phase diagram, {name}",
        )
        for split, name in (("ood", "new tasks"), ("major", "known tasks"))
    ]
    shares = viz.lines(
        {name: [record["share"] for record in model.steps] for name, model in rows.items()},
        x=_log2_steps(models[0]),
        x_title="log2 of the training step",
        y_title="share inside the task span",
        y_domain=(0, 1),
        bands={
            name: tuple(zip(*[record["share_interval"] for record in model.steps], strict=True))
            for name, model in rows.items()
        },
        rules={"random directions": models[0].steps[0]["null_share"]},
        title="mean states of new tasks, last layer",
    )
    first_and_last = dict.fromkeys((next(iter(rows)), list(rows)[-1]))
    return [*maps, viz.row(shares, *[_kl_figure(name, rows[name]) for name in first_and_last])]


def _log2_steps(model: TrainedModelResult) -> list[float]:
    """Return log2 of the steps; the untrained model is at -1."""
    return [log2(max(record["step"], 0.5)) for record in model.steps]


def _kl_figure(name: str, model: TrainedModelResult) -> viz.Figure:
    """Plot the KL to M1 and M2 on known and new tasks."""
    kinds = {"known": "major", "new": "ood"}
    references = {"M1": "retrieval", "M2": "extrapolation"}
    curves = {
        f"{kind} tasks, {short}": [record["kl"][split][reference] for record in model.steps]
        for kind, split in kinds.items()
        for short, reference in references.items()
    }
    return viz.lines(
        curves,
        x=_log2_steps(model),
        x_title="log2 of the training step",
        y_title="KL, nats",
        title=f"from the model to M1 and M2, {name}",
    )
