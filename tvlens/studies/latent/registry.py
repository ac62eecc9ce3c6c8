"""`Check`: a measurement of every trained model, with the claims that it tests."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ...bayes import default_references, task_effects
from ...bayes.checks.model_predictions import default_splits
from ...bayes.checks.states import ruled_layers
from ...bayes.ideal_states import ReferenceKind
from ...bayes.pool import Split
from ...errors import TvlensError
from ...geometry import Effects
from ...training import Run, log_steps
from ..claims import Claim
from .config import FAMILIES, FamilyConfig

# What is measured in place of the trained model: an ideal one, or the model before its training at
# the second of the ruled layers.
Substitute = ReferenceKind | Literal["untrained"]
# Where a check is made: a layer, the step of a checkpoint, a substitute, or None for the model as a
# whole.
Place = int | Substitute | None
Places = Literal["model", "layers", "ruled layers", "checkpoints"]
# Models with any number of minor tasks, without any, or with the largest number.
Minors = Literal["all", "none", "most"]


@dataclass(frozen=True)
class TrainedModelResult:
    """Results of all checks of one trained model.

    Attributes:
        config: configuration of the family.
        minor: exponent k of the number 2^k of minor tasks, or "none".
        seed: of tasks, weights and data.
        results: result of each check, by name and place.
    """

    config: FamilyConfig
    minor: int | str
    seed: int
    results: Mapping[tuple[str, Place], Any]

    def __repr__(self) -> str:
        checks = ", ".join(dict.fromkeys(name for name, _ in self.results))
        return f"TrainedModelResult({self.name}: {checks})"

    def __getitem__(self, key: str | tuple[str, Place]) -> Any:
        """Return the result of a check: `model["behaviour"]`, `model["representation", 3]`.

        Raises:
            TvlensError: this model has no such result; names the existing ones.
        """
        place = (key, None) if isinstance(key, str) else key
        if place not in self.results:
            places = ", ".join(map(str, self.places(place[0]))) or "none"
            raise TvlensError(f"{self.name} has no {place[0]} at {place[1]}; there are {places}")
        return self.results[place]

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.config.family

    @property
    def name(self) -> str:
        """Name of the model on the page and of its folder."""
        return model_name(self.family, self.minor, self.seed)

    @property
    def minors(self) -> int:
        """Number of minor tasks."""
        return 0 if isinstance(self.minor, str) else 2**self.minor

    def places(self, check: str) -> list[Place]:
        """Return the layers or steps of a check's results, in order."""
        return [p for name, p in self.results if name == check and not isinstance(p, str)]

    def all(self, check: str) -> list[Any]:
        """Return the results of a check at all layers or steps, in order."""
        return [self.results[check, place] for place in self.places(check)]


class Estimate(NamedTuple):
    """A number that tests a claim.

    Attributes:
        value, interval, nulls: as in `Claim`.
        threshold: in place of the rule's threshold, where it depends on the measurement.
    """

    value: float
    interval: tuple[float, float] | None
    nulls: dict[str, float]
    threshold: float | None = None


# From a model, a place and the model without minor tasks of the same family and seed, if any.
Measure = Callable[[TrainedModelResult, Place, TrainedModelResult | None], Estimate | None]


@dataclass(frozen=True, kw_only=True)
class ClaimRule:
    """A claim before it is tested; of a check by layer, it is tested at the ruled layers.

    Attributes:
        id, statement, side, threshold: as in `Claim`.
        measure: the number that tests it; None where the model cannot test it.
        nulls: substitutes that the trained model must beat, among the check's.
        minors: numbers of minor tasks of the models in which it is tested.
        families: names of the families in which it is tested.
    """

    id: str
    statement: str
    measure: Measure
    side: Literal["above", "below"] = "above"
    threshold: float | None = None
    nulls: tuple[Substitute, ...] = ()
    minors: Minors = "all"
    families: tuple[str, ...] = tuple(FAMILIES)

    def applies(self, config: FamilyConfig, minor: int | str) -> bool:
        """Whether the claim is tested in a model."""
        return config.family in self.families and _is_selected(self.minors, config, minor)

    def test(
        self, model: TrainedModelResult, place: Place, plain: TrainedModelResult | None
    ) -> Claim | None:
        """Test the claim in a model, at a layer where the check has layers."""
        estimate = self.measure(model, place, plain)
        if estimate is None:
            return None
        where: dict[str, str | int] = {"family": model.family, "minors": model.minors}
        where |= {"seed": model.seed} | ({} if place is None else {"layer": place})
        return Claim(
            id=self.id,
            statement=self.statement,
            value=estimate.value,
            interval=estimate.interval,
            side=self.side,
            threshold=self.threshold if estimate.threshold is None else estimate.threshold,
            nulls=estimate.nulls | self.measure_substitutes(model, self.nulls),
            where=where,
        )

    def measure_substitutes(
        self, model: TrainedModelResult, kinds: Sequence[Substitute]
    ) -> dict[str, float]:
        """Return the number that tests the claim in substitutes of the model, by name."""
        estimates = {kind: self.measure(model, kind, None) for kind in kinds}
        return {kind: e.value for kind, e in estimates.items() if e is not None}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A measurement of trained models: how it is made, what it tests, and where it is shown.

    Attributes:
        compute: from the setup to the result.
        result: type of the result.
        title: of its section on the page; a check without title has none.
        text: explanation at the head of that section.
        at: whether it is made once per model, at layers or at checkpoints.
        minors: numbers of minor tasks of the models that are checked.
        families: names of the families that are checked.
        substitutes: what is measured in place of the trained model, too. Those that are not among
            the nulls of a claim are shown beside it.
        sizes: options of the measurement for each effort.
        claims: what it tests.
    """

    compute: Callable[["CheckSetup"], Any]
    result: Any
    title: str = ""
    text: str = ""
    at: Places = "model"
    minors: Minors = "all"
    families: tuple[str, ...] = tuple(FAMILIES)
    substitutes: tuple[Substitute, ...] = ()
    sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    claims: Sequence[ClaimRule] = ()

    def places(self, config: FamilyConfig, minor: int | str) -> list[Place]:
        """List the places at which a model is checked; none if the check is not for it."""
        if config.family not in self.families or not _is_selected(self.minors, config, minor):
            return []
        places: dict[Places, Callable[[], Sequence[Place]]] = {
            "model": lambda: [None],
            "layers": lambda: range(config.layers),
            "ruled layers": lambda: ruled_layers(config.layers),
            "checkpoints": lambda: log_steps(config.steps),
        }
        return [*dict.fromkeys(places[self.at]()), *self.substitutes]

    def model_places(self, config: FamilyConfig, minor: int | str) -> list[Place]:
        """List the places in the trained model, without substitutes."""
        return [place for place in self.places(config, minor) if not isinstance(place, str)]

    def tested_places(self, config: FamilyConfig, minor: int | str) -> list[Place]:
        """List the places at which claims are tested: of a check by layer, the ruled layers."""
        places, ruled = self.model_places(config, minor), ruled_layers(config.layers)
        return [p for p in places if p in ruled] if self.at == "layers" else places


@dataclass(frozen=True)
class CheckSetup:
    """A trained model with all that a check of it needs.

    Attributes:
        config: configuration of the family.
        family: the tasks.
        run: the training run.
        seed: of tasks, weights and data.
        results: of the checks that come before this one, by name and place.
    """

    config: FamilyConfig
    family: Any
    run: Run
    seed: int
    results: Mapping[tuple[str, Place], Any]
    place: Place = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        """The trained model, with hook points."""
        return self.share("model", self.run.model)

    @property
    def subject(self) -> Any:
        """What is measured: the trained model, the untrained one, or the name of an ideal one."""
        if self.place == "untrained":
            return self.share("untrained", lambda: self.run.model(0))
        return self.place if isinstance(self.place, str) else self.model

    @property
    def layer(self) -> int:
        """The layer that is measured."""
        if self.place == "untrained":
            return ruled_layers(self.config.layers)[1]
        return self.place if isinstance(self.place, int) else -1

    @property
    def options(self) -> dict[str, Any]:
        """Sizes, seed and layer (of an ideal model, its context) as options of a check."""
        options: dict[str, Any] = {"seed": self.seed, **self.sizes}
        if self.place is None:
            return options
        if isinstance(self.place, int) or self.place == "untrained":
            return options | {"layer": self.layer}
        return options | {"length": self.config.length}

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits on which every reference is defined: no path outside the pool of `Dyck`."""
        splits = default_splits(self.family)
        return tuple(s for s in splits if s != "ood" or self.config.family != "dyck")

    @property
    def references(self) -> dict[str, Any]:
        """The references: without those for which a minor path of `Dyck` is impossible."""
        references = default_references(self.family)
        if self.config.family == "dyck":
            references.pop("major retrieval", None)
        return references

    def effects(self, layer: int = -1) -> Effects:
        """Estimate mean, task vectors and token effects at a layer."""
        options = dict(per_cell=self.config.per_cell, seed=self.seed)
        compute = functools.partial(task_effects, self.model, self.family, layer=layer, **options)
        effects: Effects = self.share(("effects", layer % self.config.layers), compute)
        return effects

    def share(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Compute something that several checks of a model need, once."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]


def model_name(family: str, minor: int | str, seed: int) -> str:
    """Return the name of a model's folder, such as "dice-none-0"."""
    return f"{family}-{minor}-{seed}"


def compute_claims(
    models: Sequence[TrainedModelResult], checks: Mapping[str, Check]
) -> list[Claim]:
    """Test every claim of the checks in the models to which it applies, at the ruled layers."""
    return [
        claim
        for model in models
        for check in checks.values()
        for rule in check.claims
        for claim in apply_rule(rule, check, model, models)
    ]


def apply_rule(
    rule: ClaimRule,
    check: Check,
    model: TrainedModelResult,
    models: Sequence[TrainedModelResult],
    *,
    all_layers: bool = False,
) -> list[Claim]:
    """Test a claim in a model at the ruled layers, or at all layers that are checked."""
    config = model.config
    if not rule.applies(config, model.minor):
        return []
    list_places = check.model_places if all_layers else check.tested_places
    same = (m for m in models if (m.family, m.seed, m.minor) == (model.family, model.seed, "none"))
    plain = next(same, None)
    claims = (rule.test(model, place, plain) for place in list_places(config, model.minor))
    return [claim for claim in claims if claim is not None]


def _is_selected(minors: Minors, config: FamilyConfig, minor: int | str) -> bool:
    if minors == "all" or minor == "none":
        return minors in ("all", "none")
    return minors == "most" and minor == max(k for k in config.minor if k != "none")
