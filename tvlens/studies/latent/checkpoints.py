"""`CheckpointResult`: distance of a checkpoint from the references, and its new tasks' states."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...bayes import ReferencePredictions, novel_tasks, task_effects
from ...bayes.checks.states import ruled_layers
from ...bayes.phase_boundary import find_crossing
from ...errors import NamedValues
from ...results import Result
from ...stats import bootstrap_counts, bootstrap_interval, percentiles
from .registry import CheckSetup


@dataclass(frozen=True)
class CheckpointResult(Result):
    """A model at one step of its training.

    Attributes:
        step: number of updates.
        kl: KL in nats to M1 and M2, averaged over positions, for every sequence.
        splits: names of the splits.
        share: share of new tasks' states inside the task span, with its 95% interval, by layer.
        null_share: share of a perfect learner.
        layers: the layers of `share`.
    """

    step: int
    kl: Float[Tensor, "split 2 n"]
    splits: tuple[str, ...]
    share: Float[Tensor, "layer 3"]
    null_share: float
    layers: tuple[int, ...]

    @cached_property
    def mean(self) -> NamedValues[float]:
        """Mean KL by split and reference, "retrieval" or "extrapolation"."""
        axes = {"split": self.splits, "reference": ("retrieval", "extrapolation")}
        return NamedValues(axes, (float(kl.mean()) for kl in self.kl.flatten(0, 1)))

    def log_ratio(self, split: str) -> float:
        """Compute log(KL to M1 / KL to M2), which is positive where the model extrapolates."""
        first, second = self.kl[self.splits.index(split)].double().mean(-1).log()
        return float(first - second)

    def log_ratio_interval(self, split: str) -> tuple[float, float]:
        """95% bootstrap interval of `log_ratio` over sequences."""
        return log_ratio_interval(self.kl[self.splits.index(split)].double().T.numpy())

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        ratios = {s: [self.log_ratio(s), *self.log_ratio_interval(s)] for s in self.splits}
        kl = dict(zip(self.splits, self.kl.mean(-1).tolist(), strict=True))
        shares = dict(zip(map(str, self.layers), self.share.tolist(), strict=True))
        numbers = {"step": self.step, "kl": kl, "log_ratio": ratios, "share": shares}
        return numbers | {"null_share": self.null_share}


def checkpoint(setup: CheckSetup) -> CheckpointResult:
    """Compare the model of a checkpoint with the references, and locate new tasks' states."""
    sizes, step = setup.sizes, setup.layer
    references = setup.share(
        "references",
        lambda: ReferencePredictions.compute(
            setup.family,
            length=setup.config.length,
            sequences=sizes["sequences"],
            splits=("train", *setup.splits),
            references=setup.references,
            seed=setup.seed,
        ),
    )
    model = setup.run.model(step)
    result = references.compare(model)
    layers = tuple(dict.fromkeys(ruled_layers(setup.config.layers)))
    options = dict(tasks=sizes["tasks"], sequences=sizes["sequences_per_task"], null=2)
    novel = []
    for layer in layers:
        place = dict(layer=layer, seed=setup.seed)
        effects = task_effects(model, setup.family, per_cell=sizes["per_cell"], **place)
        novel.append(novel_tasks(model, setup.family, effects=effects, **place, **options))
    return CheckpointResult(
        step=step,
        kl=result.kl[:, :2].mean(-1).float(),
        splits=result.splits,
        share=torch.tensor([[n.share, *n.interval] for n in novel]),
        null_share=novel[0].null,
        layers=layers,
    )


def log_ratio_interval(kls: Float[np.ndarray, "n 2"]) -> tuple[float, float]:
    """95% bootstrap interval over sequences of log(mean of the first / mean of the second)."""

    def log_ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        sums = kls[rows.astype(int)].sum(-2 if axis == -1 else axis)
        ratios: np.ndarray = np.log(sums[..., 0] / sums[..., 1])
        return ratios

    return bootstrap_interval(np.arange(len(kls)), statistic=log_ratio)


def measured_boundary(
    results: Sequence[CheckpointResult], exponents: Sequence[int]
) -> tuple[float, tuple[float, float]]:
    """Find log2 of the number of minor tasks at which models leave M1 for M2.

    There, the log ratio of KLs on the training mixture passes 0, linearly interpolated between the
    numbers of minor tasks.

    Args:
        results: of one checkpoint of models with different numbers of minor tasks.
        exponents: log2 of these numbers, ascending.

    Returns:
        The value, and its 95% bootstrap interval over sequences.
    """
    kls = [result.kl[result.splits.index("train")].double().numpy() for result in results]
    counts = [bootstrap_counts(kl.shape[1], 1000, seed=i) for i, kl in enumerate(kls)]
    draws = np.stack(
        [np.log(c @ kl[1]) - np.log(c @ kl[0]) for c, kl in zip(counts, kls, strict=True)], 1
    )
    values = np.array([[-result.log_ratio("train") for result in results]])
    x = np.array(exponents, dtype=float)
    low, high = percentiles(find_crossing(x, draws), method="nearest")
    return float(find_crossing(x, values)[0]), (float(low), float(high))
