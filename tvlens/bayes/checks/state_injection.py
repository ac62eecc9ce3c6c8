"""Injection: write a convex combination of task vectors; does the model predict that mixture?"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ... import viz
from ...errors import TvlensError, unknown
from ...geometry import Effects, balanced_effects
from ...models.forward import Hook
from ...models.loading import model_name
from ...saved import Saved
from ...sites import Site
from ...stats import bootstrap_interval
from ..divergence import kl
from ..pool import at_least
from ..prediction import Moments
from .predictives import Predicted, check_model, gap, predicted
from .probing import Probes, alphabet, forced, most_seen, probes, states
from .vertices import own, shared

if TYPE_CHECKING:
    import pandas

CONDITIONS = (
    "unsteered",
    "injected",
    "injected by token",
    "most likely task",
    "random vectors",
    "geometric mixture",
)


@dataclass(frozen=True)
class Injection(Saved):
    """KL in nats from the model's prediction to the mixture that was injected.

    Attributes:
        kl: by condition, in every sequence.
        conditions: "unsteered"; "injected", the combination of task vectors; "injected by token",
            of the task vectors of each last token's own, in place of the state's part in their
            span; "most likely task", only the vector with the largest weight; "random vectors",
            the same combination of vectors with the same norms and angles; "geometric mixture", no
            model but the normalised product of p_k^alpha_k, which is what a perfect combination
            says where logits are linear in the state (0 for a regression, where means are).
        layer: the block whose output was written.
        settings: model, family, numbers and seed.
    """

    kl: Float[Tensor, "condition n"]
    conditions: tuple[str, ...]
    layer: int
    settings: dict = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {self.mean(name):.3f}" for name in self.conditions)
        return f"Injection(layer {self.layer}: {shown})"

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    def figure(self) -> viz.Figure:
        """Mean KL with its interval, a row for each condition."""
        from .show import injection_figure

        return injection_figure(self)

    def mean(self, condition: str) -> float:
        """Mean KL under a condition."""
        return float(self.each(condition).mean())

    def interval(self, condition: str) -> tuple[float, float]:
        """95% bootstrap interval of the mean, over sequences."""
        return bootstrap_interval(self.each(condition).numpy())

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per condition: mean KL, interval, n."""
        import pandas as pd

        rows = []
        for name in self.conditions:
            low, high = self.interval(name)
            rows.append({"condition": name, "kl": self.mean(name), "low": low, "high": high})
        return pd.DataFrame(rows).assign(n=self.kl.shape[1])

    def each(self, condition: str) -> Float[Tensor, " n"]:
        """KL under a condition, in every sequence."""
        if condition not in self.conditions:
            raise unknown("condition", condition, self.conditions)
        return self.kl[self.conditions.index(condition)]


def injection(
    model: Any,
    family: Any,
    *,
    layer: int = -1,
    sequences: int = 512,
    seen: int | None = None,
    effects: Effects | None = None,
    per_cell: int = 32,
    seed: int = 0,
) -> Injection:
    """Replace the task part of the last state by a random mixture of task vectors.

    The mixture's weights are uniform on the simplex, alpha ~ Dir(1), and tell nothing of the
    sequence's own task; the target is the mixture of the tasks' predictives, sum alpha_k p_k. The
    task part is the projection of the state, less mean and token effect, on the task span; by
    token, of the state less the mean of its token's cells on the span of these.

    Args:
        layer: the block whose output is written, at the last position.
        sequences: each with a random major task and a random last token.
        seen: observations before the state; as many as the context holds by default.
        effects: for all tokens alike, as from `task_effects` of the same layer; made of the probes
            by default.
        per_cell: probes for each pair of task and token, behind the task vectors.

    Raises:
        TvlensError: another vocabulary than the family's, no such layer, or one major task only.
    """
    check_model(model, family)
    at_least(2, sequences=sequences)
    seen = most_seen(model, family) if seen is None else seen
    fit = probes(family, seen=seen, per_cell=per_cell, seed=seed)
    fitted = states(model, fit, layer=layer), fit.task, fit.token
    effects = balanced_effects(*fitted) if effects is None else effects
    rng = np.random.default_rng(seed)
    tokens = torch.tensor(alphabet(family))
    task = torch.from_numpy(rng.integers(family.majors, size=sequences))
    token = tokens[torch.from_numpy(rng.integers(len(tokens), size=sequences))]
    probed = forced(family, task, token, seen=seen, seed=seed + 2)
    alpha = torch.from_numpy(rng.dirichlet(np.ones(family.majors), sequences))
    most = torch.nn.functional.one_hot(alpha.argmax(1), family.majors).double()

    h = states(model, probed, layer=layer).double()
    one, each = shared(h, token, effects), own(h, token, fitted)
    others = h - one.part()
    written = [
        None,
        others + one.points(alpha),
        h - each.part() + each.points(alpha),
        others + one.points(most),
        others + one.turned(rng).points(alpha),
    ]
    target = probed.mixed(family, alpha)
    found = []
    for last in written:
        hooks = [] if last is None else [_writing(model, last, layer)]
        told = predicted(model, family, probed.data, hooks=hooks, batch_size=sequences)
        found.append(_last_gap(family, told, target))
    found.append(_last_gap(family, _geometric(probed, family, alpha), target))
    settings = {"model": model_name(model), "family": str(family), "seen": seen, "seed": seed}
    return Injection(torch.stack(found), CONDITIONS, layer % model.cfg.n_layers, settings)


def _writing(model: Any, last: Float[Tensor, "n d"], layer: int) -> Hook:
    """The hook that replaces the state at the last position of every row."""

    def write(activation: Tensor, hook: Any) -> Tensor:
        edited = activation.clone()
        edited[:, -1] = last.to(edited)
        return edited

    return Site("resid_post", layer).on(model).hook(model), write


def _geometric(probed: Probes, family: Any, alpha: Float[Tensor, "n major"]) -> Predicted:
    """The tasks' predictives, their logarithms mixed; of a regression, their means."""
    ones = torch.eye(family.majors, dtype=torch.float64)
    single = [probed.mixed(family, row.expand(len(alpha), -1)) for row in ones]
    if single[0].ndim == 2:
        return sum(a[:, None] * told for a, told in zip(alpha.T, single, strict=True))
    logs = [a[:, None, None] * told.log() for a, told in zip(alpha.T, single, strict=True)]
    return sum(logs).softmax(-1)


def _last_gap(family: Any, told: Tensor, target: Tensor) -> Float[Tensor, " n"]:
    """KL from the last prediction to the target."""
    if told.ndim == 2:  # means of a regression
        empty = target.new_zeros(len(target), 1, 0)
        target = Moments(empty, target, torch.full_like(target, family.noise**2))
        return gap(family, told[:, -1:], target)[:, 0]
    distances = kl(told[:, -1:], target.clamp(min=0))[:, 0]  # rounding can leave a hair below 0
    if not bool(distances.isfinite().all()):
        raise TvlensError("a mixture of the tasks rules out what the model thinks possible")
    return distances
