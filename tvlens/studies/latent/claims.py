"""The claims of the paper against what was found: number, interval, null and verdict."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...stats import bootstrap_interval
from .cell import Cell
from .claim import Claim, tested
from .plan import BY_TOKEN, Plan


def claims(cells: Sequence[Cell], plans: dict[str, Plan]) -> list[Claim]:
    """Every claim about every cell it speaks of: majors alone, or the largest number of minors."""
    found = []
    for cell in cells:
        found.append(_converged(cell, plans[cell.family].converged))
        if cell.minor == "none":
            found += [*_represented(cell), *_injected(cell)]
        elif cell.minor == max(c.minor for c in _like(cells, cell) if c.minor != "none"):
            plain = [c for c in _like(cells, cell) if c.minor == "none"]
            found += [_extrapolates(cell), *_orthogonal(cell), *_outside(cell, plain)]
    return found


def _like(cells: Sequence[Cell], cell: Cell) -> list[Cell]:
    """The cells of the same family and seed."""
    return [c for c in cells if (c.family, c.seed) == (cell.family, cell.seed)]


def _converged(cell: Cell, threshold: float) -> Claim:
    found = cell.behaviour
    return tested(
        "predicts like Bayes on known tasks: KL to retrieval, nats",
        cell,
        found.mean["major", "retrieval"],
        below=threshold,
        interval=found.interval["major", "retrieval"],
        null=found.mean["major", "learner"],
        control="KL to the learner",
    )


# measure: (what is said, threshold, what chance is)
_PROPERTIES = {
    "within-cell share": ("P0, task and token fix the state: variance within cells", 0.02),
    "interaction": ("P1, task and token add up: share of interaction", 0.005),
    "total variation": ("P3, weights are the posterior: total variation", 0.06),
    "correlation": ("P3, weights are the posterior: correlation", 0.95),
}
# Of the families in BY_TOKEN.
_TOKENS_OWN = {
    "total variation by token": ("P3, with task vectors of each last token: total variation", 0.06),
    "correlation by token": ("P3, with task vectors of each last token: correlation", 0.95),
}
_CHANCE = {
    "within-cell share": "tasks permuted",
    "interaction": "cells permuted",
    **dict.fromkeys(["total variation", "correlation", *_TOKENS_OWN], "posteriors of others"),
}


def _represented(cell: Cell) -> list[Claim]:
    """P0, P1 and P3 in the last layer, at the end of the context."""
    found = cell.representation
    made = []
    measures = _PROPERTIES | (_TOKENS_OWN if cell.family in BY_TOKEN else {})
    for measure, (told, threshold) in measures.items():
        low, high = found.interval[measure][-1].tolist()
        side = "above" if measure.startswith("correlation") else "below"
        numbers = dict(interval=(low, high), null=float(found.null[measure][-1].mean()))
        options = numbers | {side: threshold, "control": _CHANCE[measure]}
        made.append(tested(told, cell, float(found[measure][-1]), **options))
    return made


# condition: what is said
_WRITTEN = {"injected": "a written mixture of tasks is predicted: KL to the mixture, nats"}
# Of the families in BY_TOKEN.
_WRITTEN_BY_TOKEN = {
    "injected by token": "the same with task vectors of each last token: KL to the mixture, nats"
}


def _injected(cell: Cell) -> list[Claim]:
    found = cell.injection
    written = _WRITTEN | (_WRITTEN_BY_TOKEN if cell.family in BY_TOKEN else {})
    reaches = [
        tested(
            told,
            cell,
            found.mean[condition],
            below=0.05,
            interval=found.interval[condition],
            null=found.mean["unsteered"],
            control="nothing written",
        )
        for condition, told in written.items()
    ]
    more = (found.kl_under("most likely task") - found.kl_under("injected")).numpy()
    beats = tested(
        "the mixture beats its most likely task: difference of KL, nats",
        cell,
        float(more.mean()),
        above=0.0,
        interval=bootstrap_interval(more),
        null=found.mean["most likely task"] - found.mean["random vectors"],
        control="random vectors beat it",
    )
    return [*reaches, beats]


def _extrapolates(cell: Cell) -> Claim:
    found = cell.behaviour
    pairs = np.stack([found.kl_to("ood", r).mean(1).numpy() for r in found.references[:2]], 1)

    def ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        sums = pairs[rows.astype(int)].sum(-2 if axis == -1 else axis)
        return np.log(sums[..., 0] / sums[..., 1])

    return tested(
        "extrapolates on new tasks: log(KL to M1 / KL to M2)",
        cell,
        found.log_ratio("ood"),
        above=0.0,
        interval=bootstrap_interval(np.arange(len(pairs)), statistic=ratio),
        null=found.log_ratio("major"),
        control="known tasks",
    )


def _orthogonal(cell: Cell) -> list[Claim]:
    found = cell.learning
    rise = found.ablation
    # The largest in size: where no random direction hurts, ten times nothing would be no bar.
    null = {
        split: float(found.null[found.splits.index(split)].abs().max()) for split in found.splits
    }
    hurts = tested(
        "directions outside task and token spans carry new tasks: rise of cost, nats",
        cell,
        rise.mean["ood"],
        above=10 * null["ood"],
        words="above 10 x the largest random",
        interval=rise.interval["ood"],
        null=null["ood"],
        control="largest of random directions",
    )
    low, high = rise.interval["major"]
    spares = replace(
        hurts,
        claim="removing them does not hurt on known tasks: rise of cost, nats",
        value=rise.mean["major"],
        interval=(low, high),
        null=null["major"],
        threshold="interval reaches 0 or below",
        holds=low <= 0,
    )
    return [hurts, spares]


def _outside(cell: Cell, plain: list[Cell]) -> list[Claim]:
    """Against the model without minors, where there is one."""
    found = cell.novel_tasks
    return [
        tested(
            "with minors, new tasks leave the task span: share inside",
            cell,
            found.share,
            below=one.novel_tasks.share,
            words="below that without minors",
            interval=found.interval,
            null=one.novel_tasks.share,
            control="without minors",
        )
        for one in plain
    ]
