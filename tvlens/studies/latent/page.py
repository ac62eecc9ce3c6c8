"""The page of the latent study."""

from collections import Counter
from collections.abc import Callable, Sequence
from math import log2

import torch

from ... import viz
from ...bayes import PhaseBoundary, PosteriorWeights
from ...bayes.show import phase_boundary_figure
from ..claims import VERDICT_RULE, Claim, claims_table
from ..report import build_page, settings_table
from .checkpoints import CheckpointResult, measured_boundary
from .checks import CHECKS
from .config import TOKEN_DEPENDENT
from .registry import Check, TrainedModelResult, apply_rule
from .study import LatentStudy

# Number of example sequences, one for each of the first tasks.
_N_EXAMPLES = 3


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
    "table gives medians and ranges. Claims about states are tested at the layers at half and two "
    "thirds of the depth, a rule that does not depend on the results of a run, as the thresholds "
    "do not; the sections below show all layers, for the first seed."
)


def _summary(study: LatentStudy) -> list[str]:
    verdicts = [claim.verdict for claim in study.claims]
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    return [
        "Question: does a small transformer retrieve known tasks like a Bayesian observer, along "
        "convex combinations of task vectors, and learn new tasks outside their span?",
        f"Result: {verdicts.count('holds')} of {len(verdicts)} claims hold, "
        f"{verdicts.count('undecided')} undecided, in {len(study.models)} models of {seeds}.",
        *(_summarize_family(study, family) for family in study.families),
        "Every number is given with a control. Task vectors, searches and measurements use "
        "disjoint sequences.",
    ]


def _summarize_family(study: LatentStudy, family: str) -> str:
    """Count the verdicts on the claims of one family, and list those that miss in most seeds."""
    claims = [claim for claim in study.claims if claim.where["family"] == family]
    verdicts = Counter(claim.verdict for claim in claims)
    counts = [f"{verdicts[v]} {text}" for v, text in _VERDICTS.items() if verdicts[v]]
    misses = Counter(_describe_claim(claim) for claim in claims if claim.verdict == "misses")
    mostly = [claim for claim, count in misses.items() if 2 * count > len(study.seeds)]
    text = f"{family}: {', '.join(counts)}."
    return text + (f" Missed in most seeds: {'; '.join(mostly)}." if mostly else "")


_VERDICTS = {"holds": "hold", "misses": "miss", "undecided": "undecided"}


def _describe_claim(claim: Claim) -> str:
    """Describe a claim by its name, number of minor tasks and layer."""
    layer = f", layer {claim.where['layer']}" if "layer" in claim.where else ""
    return f"{claim.id} ({claim.where['minors']} minor tasks{layer})"


def _describe_minors(minor: int | str) -> str:
    """Describe the number of minor tasks of an exponent."""
    return "no minors" if minor == "none" else f"{2**minor} minor{'s' if minor else ''}"


def _family_sections(study: LatentStudy, family: str) -> list[viz.Section]:
    """Build the sections of one family for the first seed: one for each check with a title."""
    models = [m for m in study.models if m.family == family and m.seed == study.seeds[0]]
    sections = []
    for name, check in CHECKS.items():
        checked = [model for model in models if model.places(name)]
        if check.title and checked:
            figures = _FIGURES.get(name, _check_figures)(name, check, checked)
            sections.append(viz.Section(f"{family}: {check.title}", check.text, figures))
    return sections


def _check_figures(
    name: str, check: Check, models: Sequence[TrainedModelResult]
) -> list[viz.Figure | viz.Figures]:
    """Show a check in the models with fewest and most minor tasks, claims by layer first."""
    figures: list[viz.Figure | viz.Figures] = []
    for model in models if len(models) < 3 else (models[0], models[-1]):
        places = check.tested_places(model.config, model.minor)
        if check.at == "layers" and check.claims:
            figures += _claim_curves(check, model, models)
        figures += [model[name, place].figure() for place in places]
    return figures


def _claim_curves(
    check: Check, model: TrainedModelResult, models: Sequence[TrainedModelResult]
) -> list[viz.Figures]:
    """Plot the number that tests each claim at every layer, with its nulls and threshold."""
    charts = []
    for rule in check.claims:
        claims = apply_rule(rule, check, model, models, all_layers=True)
        if not claims:
            continue
        curves = {"model": [claim.value for claim in claims]}
        curves |= {null: [claim.nulls[null] for claim in claims] for null in claims[0].nulls}
        others = [kind for kind in check.substitutes if kind not in rule.nulls]
        shown = rule.measure_substitutes(model, others)
        curves |= {name: [value] * len(claims) for name, value in shown.items()}
        ends = [claim.interval or (claim.value, claim.value) for claim in claims]
        threshold = {"threshold": rule.threshold} if rule.threshold is not None else {}
        charts.append(
            viz.lines(
                curves,
                x=[int(claim.where["layer"]) for claim in claims],
                x_title="layer",
                y_title=rule.id,
                bands={"model": tuple(zip(*ends, strict=True))},
                rules=threshold,
                title=f"{rule.id} by layer, {_describe_minors(model.minor)}",
                caption=f"{rule.statement} Required: {rule.side} threshold and nulls.",
            )
        )
    return [viz.row(*charts)] if charts else []


def _posterior_weights_figures(
    name: str, check: Check, models: Sequence[TrainedModelResult]
) -> list[viz.Figure | viz.Figures]:
    """Plot one sequence of each task below the figures of the check."""
    figures = _check_figures(name, check, models)
    result: PosteriorWeights = models[0][name, check.tested_places(models[0].config, "none")[-1]]
    if result.last.is_floating_point():
        return figures
    examples = [int((result.task == k).nonzero()[0]) for k in result.task.unique()[:_N_EXAMPLES]]
    return [*figures, *(_example_figure(result, models[0].family, i) for i in examples)]


def _example_figure(result: PosteriorWeights, family: str, i: int) -> viz.Figures:
    """Plot one sequence: coloured tokens, then weights and posterior side by side."""
    tokens, k = [str(token) for token in result.last[i].tolist()], int(result.task[i])
    weights = result.weights[int(family in TOKEN_DEPENDENT), i]
    curves = {"weight": weights, "posterior": result.posterior[i]}
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


def _checkpoint_figures(
    name: str, check: Check, models: Sequence[TrainedModelResult]
) -> list[viz.Figure | viz.Figures]:
    """Plot phase diagrams, the share inside the task span and the KL to the references."""
    rows = {_describe_minors(model.minor): model.all(name) for model in models}
    splits = {"train": "the training mixture", "major": "known tasks", "ood": "new tasks"}
    shown = [split for split in splits if all(split in r[0].splits for r in rows.values())]
    maps = [
        viz.heatmap(
            [[result.log_ratio(split) for result in results] for results in rows.values()],
            rows=list(rows),
            columns=models[0].places(name),
            row_title="minor tasks",
            column_title="training step",
            value_title="log(KL to M1 / KL to M2)",
            diverging=True,
            title=f"phase diagram, {splits[split]}",
        )
        for split in shown
    ]
    ends = dict.fromkeys((next(iter(rows)), list(rows)[-1]))
    first = next(iter(rows.values()))[0]
    shares = [
        viz.lines(
            {row: [result.share[i, 0] for result in results] for row, results in rows.items()},
            x=_log2_steps(models[0].places(name)),
            x_title="log2 of the training step",
            y_title="share inside the task span",
            y_domain=(0, 1),
            bands={
                row: tuple(torch.stack([result.share[i, 1:] for result in results]).T)
                for row, results in rows.items()
            },
            rules={"perfect learner": first.null_share},
            title=f"mean states of new tasks, layer {layer}",
        )
        for i, layer in enumerate(first.layers)
    ]
    kls = [_kl_figure(row, rows[row]) for row in ends]
    figures: list[viz.Figure | viz.Figures] = [viz.row(*maps), viz.row(*shares), viz.row(*kls)]
    with_minors = [model for model in models if model.minor != "none"]
    if len(with_minors) > 1:
        figures.insert(1, _boundary_figure(name, with_minors))
    return figures


def _boundary_figure(name: str, models: Sequence[TrainedModelResult]) -> viz.Figure:
    """Plot the number of minor tasks at which models leave M1 for M2, by training step."""
    exponents = [int(model.minor) for model in models]
    steps = [step for step in models[0].places(name) if step]
    boundaries = [measured_boundary([m[name, step] for m in models], exponents) for step in steps]
    limits = exponents[0] - 1, exponents[-1] + 1
    values, low, high = (
        [min(max(v, limits[0]), limits[1]) for v in column]
        for column in zip(*((value, *ends) for value, ends in boundaries), strict=True)
    )
    return viz.lines(
        {"measured": values},
        x=_log2_steps(steps),
        x_title="log2 of the training step",
        y_title="log2 of the number of minor tasks",
        bands={"measured": (low, high)},
        title="measured boundary on the training mixture",
        caption="Models with fewer minor tasks are closer to M1, those with more to M2. A boundary "
        "outside the grid is drawn one beyond its end.",
    )


def _phase_boundary_figures(
    name: str, check: Check, models: Sequence[TrainedModelResult]
) -> list[viz.Figure | viz.Figures]:
    """Plot the advantage of M1, and tabulate where it falls below the tolerance."""
    model = models[-1]
    result: PhaseBoundary = model[name]
    tolerance = model.config.converged
    rows = []
    for mass in result.masses:
        for length in result.lengths:
            value, (low, high) = result.boundary(tolerance, mass=mass, length=length)
            place = {"p0": mass, "observations": length, "log2 of minor tasks": value}
            rows.append(place | {"low": low, "high": high})
    return [phase_boundary_figure(result, tolerance), viz.table(rows)]


def _log2_steps(steps: Sequence[int | None]) -> list[float]:
    """Return log2 of the steps; the untrained model is at -1."""
    return [log2(step or 0.5) for step in steps]


def _kl_figure(name: str, results: Sequence[CheckpointResult]) -> viz.Figure:
    """Plot the KL to M1 and M2 on known and new tasks."""
    kinds = {"major": "known", "ood": "new"}
    references = {"M1": "retrieval", "M2": "extrapolation"}
    curves = {
        f"{kinds[split]} tasks, {short}": [result.mean[split, reference] for result in results]
        for split in kinds
        if split in results[0].splits
        for short, reference in references.items()
    }
    return viz.lines(
        curves,
        x=_log2_steps([result.step for result in results]),
        x_title="log2 of the training step",
        y_title="KL, nats",
        title=f"from the model to M1 and M2, {name}",
    )


# Checks whose section is not made of the figures of their results.
_FIGURES: dict[str, Callable[..., list[viz.Figure | viz.Figures]]] = {
    "checkpoints": _checkpoint_figures,
    "posterior_weights": _posterior_weights_figures,
    "phase_boundary": _phase_boundary_figures,
}
