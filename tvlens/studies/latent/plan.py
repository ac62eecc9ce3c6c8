"""What a study of latent tasks trains and how closely it looks: the presets."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from ...bayes import Dice, LinearRegression, Markov
from ...errors import unknown
from ...training import Shape, cosine, triangular
from ...training.schedules import Schedule

FamilyName = Literal["dice", "markov", "regression"]
FAMILIES: dict[FamilyName, Any] = {"dice": Dice, "markov": Markov, "regression": LinearRegression}
# Families whose answer depends on the last token or input too: task and token cannot add up there.
BY_TOKEN = ("markov", "regression")
ScheduleName = Literal["cosine", "triangular"]
_SCHEDULES: dict[ScheduleName, Schedule] = {"cosine": cosine, "triangular": triangular}

# Sizes of the checks: option -> value, by check.
Sizes = Mapping[str, Mapping[str, int]]

_QUICK: Sizes = {
    "behaviour": {"sequences": 256},
    "representation": {"per_cell": 32, "resamples": 300, "null": 20},
    "injection": {"sequences": 256},
    "ablation": {"sequences": 128, "null": 19},
    "learning": {"sequences": 64, "null": 30, "rank": 4},
    "explained": {"sequences": 256, "null": 5},
    "novel_tasks": {"tasks": 64, "sequences": 24},
    "over_steps": {"sequences": 96, "tasks": 32, "per_task": 12, "per_cell": 8},
}
_FULL: Sizes = {
    "behaviour": {"sequences": 1024},
    "representation": {"per_cell": 64, "resamples": 1000, "null": 100},
    "injection": {"sequences": 1024},
    "ablation": {"sequences": 512, "null": 50},
    "learning": {"sequences": 128, "null": 100, "rank": 4},
    "explained": {"sequences": 1024, "null": 20},
    "novel_tasks": {"tasks": 128, "sequences": 128},
    "over_steps": {"sequences": 1024, "tasks": 128, "per_task": 128, "per_cell": 32},
}


@dataclass(frozen=True)
class Plan:
    """One family, its model, its training and the sizes of its checks.

    Attributes:
        family: "dice", "markov" or "regression".
        length: observations in a sequence: tokens, or pairs.
        layers, d_model, heads, d_mlp, positions, norm, activation: of the model.
        steps, batch, lr, weight_decay, schedule: of the training.
        minor: exponents k of the numbers 2^k of minor tasks, and "none".
        minor_mass: prior mass of all minors together.
        tasks: number of major tasks.
        options: of the family.
        converged: KL to Bayes in distribution, in nats, below which training counts as done.
        checks: sizes of the checks.
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
    checks: Sizes = field(default_factory=lambda: _QUICK)
    heads: int = 2
    d_mlp: int | None = None
    positions: str = "rotary"
    norm: str = "rms"
    activation: str = "silu"
    weight_decay: float = 4e-4
    schedule: ScheduleName = "cosine"
    tasks: int = 3
    options: Mapping[str, Any] = field(default_factory=dict)

    def make_family(self, minor: int | str, seed: int) -> Any:
        """The tasks, with 2^minor minors or with none."""
        count = 0 if minor == "none" else 2**minor
        options = dict(self.options) | {"minor": count, "minor_mass": self.minor_mass}
        return FAMILIES[self.family](tasks=self.tasks, seed=seed, **options)

    def shape(self, family: Any) -> Shape:
        """The model's architecture; its context holds one sequence."""
        regression = self.family == "regression"
        reads = {"inputs": family.dim} if regression else {"vocab": family.vocabulary}
        names = "layers", "d_model", "heads", "d_mlp", "positions", "norm", "activation"
        context = 2 * self.length - 1 if regression else self.length
        return Shape(context=context, **reads, **{name: getattr(self, name) for name in names})

    def rate(self) -> Schedule:
        """The learning rate by step."""
        if self.schedule not in _SCHEDULES:
            raise unknown("schedule", self.schedule, _SCHEDULES)
        return _SCHEDULES[self.schedule]

    def key(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return asdict(self)


# The paper's style for regressions, which learns them in fewer steps than that of the others.
_GPT2 = dict(positions="learned", norm="layer", activation="gelu")
_DICE = Plan("dice", 64, 2, 64, 1000, 64, 3e-3, ("none", 9), 0.3, converged=0.003)
# A regression predicts less sharply and a chain needs an induction head: more layers and steps.
_SMALL = dict(
    layers=4,
    d_model=64,
    steps=10_000,
    batch=64,
    lr=1e-3,
    minor=("none", 9),
    minor_mass=0.3,
    converged=0.02,
)
_CPU = (
    replace(_DICE, steps=3000),
    Plan("regression", 32, **_SMALL | _GPT2),
    Plan("markov", 96, **_SMALL, options={"states": 6}),
)
_LARGE = dict(
    layers=6,
    d_model=128,
    steps=30_000,
    batch=128,
    lr=4e-4,
    minor=("none", *range(13)),
    minor_mass=0.1,
    schedule="triangular",
    checks=_FULL,
)
_PAPER = (
    Plan("dice", 129, converged=0.003, **_LARGE),
    Plan(
        "regression",
        64,
        converged=0.02,
        **_LARGE | dict(layers=16, batch=256, lr=2e-4) | _GPT2,
    ),
    Plan("markov", 192, converged=0.02, **_LARGE),
)
PresetName = Literal["quick", "cpu", "paper"]
PRESETS: dict[PresetName, tuple[Plan, ...]] = {"quick": (_DICE,), "cpu": _CPU, "paper": _PAPER}
