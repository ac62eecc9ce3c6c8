"""`CAUSAL_CHECKS`: interventions on states, and the subspaces that carry known and new tasks."""

from typing import Any

from ...bayes import (
    Ablation,
    Dissociation,
    Injection,
    LearnerSubspace,
    NovelTasks,
    SimplexMap,
    StatisticsRegression,
    ablation,
    dissociation,
    injection,
    learner_subspace,
    novel_tasks,
    simplex_map,
    statistics_regression,
)
from ...bayes.checks.learner_search import EQUIVALENCE_BOUND
from ...stats import bootstrap_interval
from .config import ADDITIVE, TOKEN_DEPENDENT
from .registry import Check, CheckSetup, ClaimRule, Estimate, Measure, Place, TrainedModelResult


def _injection_options(setup: CheckSetup) -> dict[str, Any]:
    options = dict(effects=setup.effects(setup.layer), per_cell=setup.config.per_cell)
    return options | setup.options


def _compute_injection(setup: CheckSetup) -> Injection:
    return injection(setup.model, setup.family, **_injection_options(setup))


def _compute_posterior_injection(setup: CheckSetup) -> Injection:
    options = _injection_options(setup)
    return injection(setup.model, setup.family, mixtures="posterior of new tasks", **options)


def _compute_simplex_map(setup: CheckSetup) -> SimplexMap:
    by_token = setup.config.family in TOKEN_DEPENDENT
    options = _injection_options(setup)
    return simplex_map(setup.model, setup.family, by_token=by_token, **options)


def _causal_options(setup: CheckSetup) -> dict[str, Any]:
    by_token = setup.config.family in TOKEN_DEPENDENT
    return dict(effects=setup.effects(setup.layer), by_token=by_token) | setup.options


def _compute_ablation(setup: CheckSetup) -> Ablation:
    return ablation(setup.model, setup.family, **_causal_options(setup))


def _compute_learner_subspace(setup: CheckSetup) -> LearnerSubspace:
    return learner_subspace(setup.model, setup.family, **_causal_options(setup))


def _compute_dissociation(setup: CheckSetup) -> Dissociation:
    learner = setup.results["learner_subspace", setup.place].subspace
    return dissociation(setup.model, setup.family, learner=learner, **_causal_options(setup))


def _compute_statistics_regression(setup: CheckSetup) -> StatisticsRegression:
    subspace = setup.results["learner_subspace", setup.place].subspace
    return statistics_regression(setup.model, setup.family, subspace, **setup.options)


def _compute_novel_tasks(setup: CheckSetup) -> NovelTasks:
    effects = setup.effects(setup.layer)
    return novel_tasks(setup.model, setup.family, effects=effects, **setup.options)


def _measure_injection(condition: str) -> Measure:
    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: Injection = model["injection", place]
        nulls = {"unsteered": result.mean["unsteered"]}
        return Estimate(result.mean[condition], result.interval[condition], nulls)

    return estimate


def _measure_mixture(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: Injection = model["injection", place]
    difference = (result.kl_under("most likely task") - result.kl_under("injected")).numpy()
    random = result.mean["most likely task"] - result.mean["random vectors"]
    interval = bootstrap_interval(difference)
    return Estimate(float(difference.mean()), interval, {"random vectors": random})


def _measure_learner_subspace(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: LearnerSubspace = model["learner_subspace", place]
    nulls = {"largest of random subspaces": result.null_share["ood"]}
    return Estimate(result.share["ood"], result.share_interval["ood"], nulls)


def _measure_known_tasks(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: LearnerSubspace = model["learner_subspace", place]
    return Estimate(result.known_ratio, result.known_ratio_interval, {})


def _measure_retrieval_of_new_tasks(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: Injection = model["posterior_injection", place]
    nulls = {name: result.mean[name] for name in ("unsteered", "injected")}
    return Estimate(result.mean["whole state"], result.interval["whole state"], nulls)


def _measure_contrast(name: str) -> Measure:
    """Return the measurement of a contrast between task span and learner's subspace."""

    def estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
        result: Dissociation = model["dissociation", place]
        value, low, high = result.contrasts["learner subspace", name]
        return Estimate(value, (low, high), {})

    return estimate


def _measure_exchange(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: Dissociation = model["dissociation", place]
    part, kind = "learner subspace", "new"
    nulls = {"largest of random subspaces": float(result.null[1, 1].max())}
    return Estimate(result.share[part, kind], result.interval[part, kind], nulls)


def _measure_novel_tasks(
    model: TrainedModelResult, place: Place, plain: TrainedModelResult | None
) -> Estimate | None:
    if plain is None:
        return None
    result: NovelTasks = model["novel_tasks", place]
    nulls = {"without minors": plain["novel_tasks", place].share, "perfect learner": result.null}
    return Estimate(result.share, result.interval, nulls)


def _measure_estimate(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: StatisticsRegression = model["statistics_regression", place]
    low, high = result.interval["estimate"][-1].tolist()
    nulls = {"other sequences": float(result.null["estimate"][-1].max())}
    return Estimate(float(result["estimate"][-1]), (low, high), nulls)


# In the order in which they are made: a check may read the results of those before it.
CAUSAL_CHECKS: dict[str, Check] = {
    "injection": Check(
        compute=_compute_injection,
        result=Injection,
        title="injected mixtures",
        text="The task part of the last state is replaced by a random mixture of task vectors, "
        "and the prediction is compared with the same mixture of the tasks' predictives. Where "
        "log-probabilities are linear in the state, as after the last layer, even a perfect "
        "combination predicts the geometric mixture; its divergence is the last row. Injections "
        "by token use task vectors of each last token.",
        at="layers",
        minors="none",
        families=ADDITIVE,
        sizes={"quick": {"sequences": 256}, "full": {"sequences": 1024}},
        claims=[
            ClaimRule(
                id="injected",
                statement="An injected mixture of task vectors is predicted (KL, nats).",
                measure=_measure_injection("injected"),
                side="below",
                threshold=0.05,
            ),
            ClaimRule(
                id="injected-by-token",
                statement="An injected mixture of token-specific vectors is predicted (KL, nats).",
                measure=_measure_injection("injected by token"),
                side="below",
                threshold=0.05,
                families=TOKEN_DEPENDENT,
            ),
            ClaimRule(
                id="mixture-beats-most-likely-task",
                statement="The mixture is predicted better than by its most likely task "
                "(KL, nats).",
                measure=_measure_mixture,
                threshold=0.0,
            ),
        ],
    ),
    "ablation": Check(
        compute=_compute_ablation,
        result=Ablation,
        title="ablation of the task span",
        text="Cost of replacing the task part by its mean at every position, on known and new "
        "tasks, beside random subspaces that hold as much variance. Token effects remain.",
        at="ruled layers",
        minors="most",
        families=ADDITIVE,
        sizes={"quick": {"sequences": 128, "null": 19}, "full": {"sequences": 512, "null": 50}},
    ),
    "learner_subspace": Check(
        compute=_compute_learner_subspace,
        result=LearnerSubspace,
        title="learner subspace",
        text="Directions found one by one outside the spans of task vectors and token effects, "
        "each on fresh tasks, and evaluated on other tasks.",
        at="ruled layers",
        minors="most",
        families=ADDITIVE,
        sizes={
            "quick": {"sequences": 64, "null": 30, "max_rank": 4, "restarts": 2},
            "full": {"sequences": 128, "null": 100, "max_rank": 8},
        },
        claims=[
            ClaimRule(
                id="learner-subspace",
                statement="New tasks depend on directions outside task and token spans: ablation "
                "costs a larger share of the gain from context than any random subspace of equal "
                "variance.",
                measure=_measure_learner_subspace,
            ),
            ClaimRule(
                id="learner-subspace-spares-known-tasks",
                statement="Ablating them costs known tasks less than a tenth as much (ratio).",
                measure=_measure_known_tasks,
                side="below",
                threshold=EQUIVALENCE_BOUND,
            ),
        ],
    ),
    "posterior_injection": Check(
        compute=_compute_posterior_injection,
        result=Injection,
        title="injected posteriors of new tasks",
        text="The posterior of retrieval among the major tasks is written into the state on the "
        "same sequence of a new task. Where only the task part is replaced, the rest of the state "
        "remains; the whole state is mean, token effect and combination of task vectors.",
        at="ruled layers",
        minors="most",
        families=ADDITIVE,
        sizes={"quick": {"sequences": 256}, "full": {"sequences": 1024}},
        claims=[
            ClaimRule(
                id="posterior-alone-retrieves",
                statement="Without the rest of the state, the posterior makes a model that learns "
                "new tasks retrieve known ones (KL to retrieval, nats).",
                measure=_measure_retrieval_of_new_tasks,
                side="below",
                threshold=0.05,
            ),
        ],
    ),
    "simplex_map": Check(
        compute=_compute_simplex_map,
        result=SimplexMap,
        title="mixtures over the simplex",
        text="Every mixture of three tasks is injected. At the last layer a combination of task "
        "vectors is forced into the geometric mixture; other layers can do either.",
        at="layers",
        minors="none",
        families=ADDITIVE,
        sizes={
            "quick": {"resolution": 8, "sequences": 24},
            "full": {"resolution": 16, "sequences": 64},
        },
    ),
    "dissociation": Check(
        compute=_compute_dissociation,
        result=Dissociation,
        title="double dissociation",
        text="The part of a state inside the task span, or inside the learner's subspace, is "
        "exchanged between prompts of two known tasks, or of two new ones. The share of movement "
        "is 1 where the prediction becomes that of the donor's reference.",
        at="ruled layers",
        minors="most",
        families=ADDITIVE,
        sizes={"quick": {"pairs": 256, "null": 19}, "full": {"pairs": 1024, "null": 50}},
        claims=[
            ClaimRule(
                id="dissociation-known-tasks",
                statement="On known tasks, the task span moves predictions more than the learner's "
                "subspace does (difference of shares).",
                measure=_measure_contrast("known tasks"),
                threshold=0.0,
            ),
            ClaimRule(
                id="dissociation-new-tasks",
                statement="On new tasks, the learner's subspace moves predictions more than the "
                "task span does (difference of shares).",
                measure=_measure_contrast("new tasks"),
                threshold=0.0,
            ),
            ClaimRule(
                id="dissociation-interaction",
                statement="Task span and learner's subspace act on different kinds of tasks "
                "(interaction of shares).",
                measure=_measure_contrast("interaction"),
                threshold=0.0,
            ),
            ClaimRule(
                id="learner-subspace-moves-new-tasks",
                statement="On new tasks, the learner's subspace moves predictions more than random "
                "subspaces of equal variance do (share).",
                measure=_measure_exchange,
            ),
        ],
    ),
    "statistics_regression": Check(
        compute=_compute_statistics_regression,
        result=StatisticsRegression,
        title="sufficient statistics",
        text="Coordinates in the learner subspace, regressed on what a learner holds, and the "
        "learner's estimate, regressed on them.",
        at="ruled layers",
        minors="most",
        families=ADDITIVE,
        sizes={"quick": {"sequences": 256, "null": 5}, "full": {"sequences": 1024, "null": 20}},
        claims=[
            ClaimRule(
                id="learner-subspace-holds-estimate",
                statement="The learner's estimate is linear in the learner subspace (R2 across "
                "new tasks).",
                measure=_measure_estimate,
                threshold=0.5,
            ),
        ],
    ),
    "novel_tasks": Check(
        compute=_compute_novel_tasks,
        result=NovelTasks,
        title="states of new tasks",
        text="Share of the squared norm of new tasks' mean states inside the span of the task "
        "vectors, and principal angles to it.",
        at="layers",
        families=ADDITIVE,
        sizes={
            "quick": {"tasks": 64, "sequences": 24},
            "full": {"tasks": 128, "sequences": 128},
        },
        claims=[
            ClaimRule(
                id="novel-tasks-leave-span",
                statement="Minor tasks in training move new tasks out of the task span, "
                "further than a perfect learner's code lies (share inside).",
                measure=_measure_novel_tasks,
                side="below",
                minors="most",
            ),
        ],
    ),
}
