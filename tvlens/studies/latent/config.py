"""`FamilyConfig`: model, training and check sizes of one task family; the presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ...bayes import Dice, Dyck, LinearRegression, Markov
from ...errors import unknown
from ...training import TransformerConfig, cosine, triangular
from ...training.schedules import Schedule

FamilyName = Literal["dice", "markov", "regression", "dyck"]
FAMILIES: dict[FamilyName, Any] = {
    "dice": Dice,
    "markov": Markov,
    "regression": LinearRegression,
    "dyck": Dyck,
}
# Families with the geometry of the paper, and with sequences of new tasks for every reference.
ADDITIVE = ("dice", "markov", "regression")
# Families whose predictive depends on the last token or input, which breaks additivity.
TOKEN_DEPENDENT = ("markov", "regression")
ScheduleName = Literal["cosine", "triangular"]
_SCHEDULES: dict[ScheduleName, Schedule] = {"cosine": cosine, "triangular": triangular}

Effort = Literal["quick", "full"]
# Options of the checks, by check.
CheckSizes = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class FamilyConfig:
    """Model, training and check sizes of one task family.

    Attributes:
        family: "dice", "markov", "regression" or "dyck".
        length: observations per sequence: tokens, or pairs.
        layers, d_model, heads, d_mlp, positions, norm, final_norm, activation: of the model.
        steps, batch, lr, weight_decay, max_grad_norm, schedule: of the training.
        minor: exponents k of the numbers 2^k of minor tasks, and "none".
        minor_mass: total prior mass of the minor tasks.
        tasks: number of major tasks.
        options: further arguments of the family.
        converged: threshold of the KL to Bayesian retrieval on known tasks, in nats.
        effort: sizes of the checks.
        per_cell: sequences for each pair of task and last token, for the task vectors.
        checks: options of the checks that differ from those of `effort`.
    """

    family: str
    length: int
    layers: int
    d_model: int
    steps: int
    batch: int
    lr: float
    minor: tuple[int | str, ...]
    minor_mass: float
    converged: float
    effort: Effort = "quick"
    per_cell: int = 32
    checks: CheckSizes = field(default_factory=dict)
    heads: int = 2
    d_mlp: int | None = None
    positions: str = "rotary"
    norm: str = "layer"
    final_norm: bool = False
    activation: str = "silu"
    weight_decay: float = 4e-4
    max_grad_norm: float | None = None
    schedule: ScheduleName = "cosine"
    tasks: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def make_family(self, minor: int | str, seed: int) -> Any:
        """Create the family with 2^minor minor tasks, or without any."""
        count = 0 if minor == "none" else 2**minor
        options = dict(self.options) | {"minor": count, "minor_mass": self.minor_mass}
        return FAMILIES[self.family](tasks=self.tasks, seed=seed, **options)

    def transformer_config(self, family: Any) -> TransformerConfig:
        """Return the model's architecture, with a context of one sequence."""
        regression = self.family == "regression"
        reads = {"inputs": family.dim} if regression else {"vocab": family.vocabulary}
        names = "layers", "d_model", "heads", "d_mlp", "positions", "norm", "final_norm"
        options = {name: getattr(self, name) for name in (*names, "activation")}
        context = 2 * self.length - 1 if regression else self.length
        return TransformerConfig(context=context, **reads, **options)

    def learning_rate_schedule(self) -> Schedule:
        """Return the learning-rate schedule."""
        if self.schedule not in _SCHEDULES:
            raise unknown("schedule", self.schedule, _SCHEDULES)
        return _SCHEDULES[self.schedule]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain data."""
        return asdict(self)


# Sizes follow arXiv 2605.03780 and its code: rotary positions and LayerNorm everywhere; regressions
# add a final norm and clipped gradients.
_REGRESSION_OPTIONS: dict[str, Any] = dict(
    activation="gelu",
    final_norm=True,
    weight_decay=1e-4,
    max_grad_norm=1.0,
    # With a deviation of 0.5, four pairs identify the task, and no posterior is left to follow.
    options={"noise": 2.0},
)
_QUICK_DICE = FamilyConfig("dice", 64, 2, 64, 1000, 64, 3e-3, ("none", 9), 0.1, converged=0.003)
# Eight models, about 45 minutes of training on two cores.
_CPU_OPTIONS: dict[str, Any] = dict(
    layers=6, d_model=64, lr=1e-3, minor=("none", 9), minor_mass=0.1
)
_CPU = (
    FamilyConfig("dice", 64, steps=2000, batch=64, converged=0.003, **_CPU_OPTIONS),
    FamilyConfig(
        "markov",
        64,
        steps=12_000,
        batch=32,
        converged=0.02,
        **_CPU_OPTIONS,
        options={"states": 6},
    ),
    FamilyConfig(
        "regression",
        24,
        steps=6000,
        batch=64,
        converged=0.01,
        **_CPU_OPTIONS | _REGRESSION_OPTIONS,
    ),
    FamilyConfig("dyck", 64, steps=6000, batch=32, converged=0.01, **_CPU_OPTIONS),
)
_PAPER_OPTIONS: dict[str, Any] = dict(
    layers=6,
    d_model=128,
    steps=30_000,
    batch=128,
    lr=4e-4,
    minor=("none", *range(13)),
    minor_mass=0.1,
    schedule="triangular",
    effort="full",
    per_cell=64,
)
_PAPER = (
    FamilyConfig("dice", 129, converged=0.003, **_PAPER_OPTIONS),
    FamilyConfig("markov", 192, converged=0.02, **_PAPER_OPTIONS),
    FamilyConfig(
        "regression",
        64,
        converged=0.01,
        **_PAPER_OPTIONS | _REGRESSION_OPTIONS | dict(layers=16, batch=256, lr=2e-4),
    ),
    FamilyConfig("dyck", 169, converged=0.01, **_PAPER_OPTIONS),
)
PresetName = Literal["quick", "cpu", "paper"]
PRESETS: dict[PresetName, tuple[FamilyConfig, ...]] = {
    "quick": (_QUICK_DICE,),
    "cpu": _CPU,
    "paper": _PAPER,
}
