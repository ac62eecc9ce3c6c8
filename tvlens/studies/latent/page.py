"""The page of a study of latent tasks."""

from dataclasses import replace
from math import log2
from typing import TYPE_CHECKING

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
from ..report import settings_table
from .claim import minors, verdicts

if TYPE_CHECKING:
    from .cell import Cell
    from .study import LatentStudy


def page(study: "LatentStudy") -> viz.Page:
    """One page: the claims first, then for each family what they stand on."""
    sections = [viz.Section("Claims", _CLAIMS, [_claims(study)])]
    for family in study.families:
        sections += _family(study, family)
    title = f"Two modes of task inference: {', '.join(study.families)}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = (
    "Each claim with the number that decides, its 95% bootstrap interval over sequences (of "
    "several seeds the median and the range), what a control or chance gives, and the "
    "threshold it was held against, which was set beforehand. A model is named by its "
    "family and its number of minor tasks; pictures below are of the first seed."
)
_FOLLOW = (
    "One sequence of each task, in a model that knows the major tasks alone. The weights are those "
    "of the convex combination of task vectors nearest to the token-corrected state of the last "
    "layer; the posterior is that of Bayes. Choose a task below the tokens to colour them by its "
    "weight or by its posterior. Mean and token effects were fitted at the end of the context, so "
    "the first positions fit worse. Where the answer depends on the last token, as a chain's, the "
    "task vectors are each token's own."
)
_SIMPLEX = (
    "States of the last layer, less mean and token effect, projected on the plane of the task "
    "vectors, beside the same sequences placed by their Bayes posterior. Colour is the true task."
)
_REPRESENTATION = (
    "Measured on balanced sequences whose last token is forced, so that task and token do not mix. "
    "Bands are 95% bootstrap intervals; by chance: tasks permuted, cells permuted, random vectors "
    "of the same norms and angles, posteriors of other sequences. By token: with task vectors of "
    "each last token's own, which need no additivity."
)
_BEHAVIOUR = (
    "Retrieval (M1) weighs all known tasks, minors included; extrapolation (M2) weighs the majors "
    "and one new task that is learnt from the context; the learner knows no task."
)
_INJECTION = (
    "The task part of the last state is replaced by a random mixture of task vectors, and the "
    "prediction held against the same mixture of the tasks' predictions. Where log probabilities "
    "are linear in the state, as behind the last layer, even a perfect combination says the "
    "geometric mixture; its distance is the last row. By token: with task vectors of each last "
    "token's own."
)
_REMOVAL = (
    "The mean in place of the task part at every position, and what that costs on known and on new "
    "tasks, beside random subspaces of the same rank."
)
_LEARNING = (
    "The directions were searched outside the spans of task vectors and token effects, on other "
    "sequences than those shown here. Their coordinates are regressed on the logarithm of the "
    "counts that a learner keeps."
)
_STEPS = (
    "Orange, above 0: nearer to extrapolation (M2). Blue, below 0: nearer to retrieval (M1). The "
    "share is that of the mean states of new tasks, token-corrected, inside the span of the task "
    "vectors."
)


def _summary(study: "LatentStudy") -> list[str]:
    held = sum(claim.holds for claim in study.claims)
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    return [
        "Asked: does a small transformer retrieve known tasks as Bayes would, along a convex "
        "combination of task vectors, and learn new tasks outside their span?",
        f"Found: {held} of {len(study.claims)} claims hold, in {len(study.cells)} models of "
        f"{seeds}.",
        *(_missed(study, family) for family in study.families),
        "Trust: every number stands beside its control; task vectors, searches and measurements "
        "use different sequences; the thresholds were set before these models were trained.",
    ]


def _missed(study: "LatentStudy", family: str) -> str:
    """How many claims hold in one family, and what the others come to."""
    claims = [claim for claim in study.claims if claim.family == family]
    told = "; ".join(
        f"{f['claim'].split(':')[0]} ({f['value']:.3g} with {f['model'].split(', ')[1]}; asked: "
        f"{f['threshold']}" + (f"; in {f['holds']} seeds)" if len(study.seeds) > 1 else ")")
        for f in verdicts(claims)
        if f["holds"] not in ("yes", _all(study))
    )
    held = f"{family}: {sum(claim.holds for claim in claims)} of {len(claims)}."
    return held + (f" Missed: {told}." if told else "")


def _all(study: "LatentStudy") -> str:
    return f"{len(study.seeds)} of {len(study.seeds)}"


def _claims(study: "LatentStudy") -> viz.Figure:
    ends = "over seeds" if len(study.seeds) > 1 else "95% interval"
    rows = []
    for found in verdicts(study.claims):
        row: dict[str, object] = {"claim": found["claim"], "model": found["model"]}
        row |= {"holds": found["holds"], "value": f"{found['value']:.4f}"}
        row[ends] = f"[{found['low']:.4f},\u00a0{found['high']:.4f}]"
        row |= {"threshold": found["threshold"], "null": f"{found['null']:.4f}"}
        rows.append(row | {"null is": found["control"]})
    return viz.table(rows)


def _family(study: "LatentStudy", family: str) -> list[viz.Section]:
    """Sections of one family, of the first seed: without minors, with the most, and over steps."""
    cells = [c for c in study.cells if c.family == family and c.seed == study.seeds[0]]
    plain = next((c for c in cells if c.minor == "none"), cells[0])
    rich = max(cells, key=lambda c: -1 if c.minor == "none" else c.minor)
    found = plain.representation
    tokens = [_tokens(plain, k) for k in range(len(plain.example.get("tokens", ())))]
    measures = viz.row(*[measure_figure(found, measure) for measure in MEASURES])
    learning = [
        learner_subspace_figure(rich.learning),
        viz.row(statistics_regression_figure(rich.explained), novel_tasks_figure(rich.novel_tasks)),
    ]
    behaved = [
        viz.Section(f"predictions, {minors(c.minor)}", _BEHAVIOUR, [behaviour_figure(c.behaviour)])
        for c in ([plain, rich] if rich is not plain else [plain])
    ]
    with_most = minors(rich.minor)
    sections = [
        *([viz.Section("weights follow the posterior", _FOLLOW, tokens)] if tokens else []),
        viz.Section("the simplex", _SIMPLEX, [simplex_figure(found)]),
        viz.Section("over training", _STEPS, _over_steps(cells)),
        *behaved,
        viz.Section("properties of the states", _REPRESENTATION, [measures, _by_layer(plain)]),
        viz.Section(f"writing mixtures, {minors(plain.minor)}", _INJECTION, _injected(plain)),
        viz.Section(
            f"removing the task span, {with_most}", _REMOVAL, [ablation_figure(rich.ablation)]
        ),
        viz.Section(f"learning outside the task span, {with_most}", _LEARNING, learning),
    ]
    return [replace(part, title=f"{family}: {part.title}") for part in sections]


def _tokens(cell: "Cell", k: int) -> viz.Figures:
    """One sequence: coloured tokens to choose by, then weights and posterior side by side."""
    tokens = [str(token) for token in cell.example["tokens"][k].tolist()]
    found = {"weight": cell.example["weights"][k], "Bayes": cell.example["posterior"][k]}
    # The sequence's own task first: it is the one that shows before anything is chosen.
    tasks = sorted(range(found["Bayes"].shape[1]), key=lambda j: j != k)
    names = [f"{what}, task {j}" for j in tasks for what in found]
    values = torch.stack([value[:, j].double() for j in tasks for value in found.values()], 1)
    widget = viz.colored_tokens_multi(tokens, values, names, title=f"a sequence of task {k}")
    charts = [
        viz.lines(
            {f"task {j}": curve for j, curve in enumerate(value.T)},
            x=range(1, len(tokens) + 1),
            x_title="observations seen",
            y_title=y_title,
            y_domain=(0, 1),
            title=title,
        )
        for value, y_title, title in (
            (found["weight"], "weight", "weights of the task vectors"),
            (found["Bayes"], "probability", "posterior of Bayes"),
        )
    ]
    return viz.stack(widget, viz.row(*charts))


def _by_layer(cell: "Cell") -> viz.Figure:
    """The measures at the end of the context, layer by layer."""
    rows = []
    for found, written in zip(cell.layers, cell.injections, strict=True):
        row: dict[str, object] = {"layer": str(found.layer)}
        row |= {measure: float(found[measure][-1]) for measure in MEASURES}
        shown = ("unsteered", "injected", "injected by token", "most likely task")
        rows.append(row | {f"KL {name}": written.mean[name] for name in shown})
    return viz.table(rows, title="by layer, at the end of the context")


def _injected(cell: "Cell") -> list:
    return [viz.row(*[injection_figure(found) for found in cell.injections])]


def _over_steps(cells: list["Cell"]) -> list:
    """Phase diagram, share of new tasks inside the task span, distances from the references."""
    rows = {minors(cell.minor): cell for cell in cells}
    maps = [
        viz.heatmap(
            [[record["ratio"][split] for record in cell.steps] for cell in cells],
            rows=list(rows),
            columns=[record["step"] for record in cells[0].steps],
            row_title="minor tasks",
            column_title="training step",
            value_title="log(KL to M1 / KL to M2)",
            diverging=True,
            title=f"phase diagram, {name}",
        )
        for split, name in (("ood", "new tasks"), ("major", "known tasks"))
    ]
    shares = viz.lines(
        {name: [record["share"] for record in cell.steps] for name, cell in rows.items()},
        x=_doublings(cells[0]),
        x_title="log2 of the training step",
        y_title="share inside the task span",
        y_domain=(0, 1),
        bands={
            name: tuple(zip(*[record["share_interval"] for record in cell.steps], strict=True))
            for name, cell in rows.items()
        },
        rules={"random directions": cells[0].steps[0]["chance"]},
        title="mean states of new tasks, last layer",
    )
    ends = dict.fromkeys((next(iter(rows)), list(rows)[-1]))
    return [*maps, viz.row(shares, *[_distances(name, rows[name]) for name in ends])]


def _doublings(cell: "Cell") -> list[float]:
    """Steps double: the number of doublings is the natural axis; the untrained model is at -1."""
    return [log2(max(record["step"], 0.5)) for record in cell.steps]


def _distances(name: str, cell: "Cell") -> viz.Figure:
    """KL to M1 and M2 on known and on new tasks."""
    kinds = {"known": "major", "new": "ood"}
    references = {"M1": "retrieval", "M2": "extrapolation"}
    curves = {
        f"{kind} tasks, {short}": [record["kl"][split][reference] for record in cell.steps]
        for kind, split in kinds.items()
        for short, reference in references.items()
    }
    return viz.lines(
        curves,
        x=_doublings(cell),
        x_title="log2 of the training step",
        y_title="KL, nats",
        title=f"from the model to M1 and M2, {name}",
    )
