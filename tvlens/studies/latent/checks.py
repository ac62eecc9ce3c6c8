"""`CHECKS`: every check of a trained model, with its sizes, claims and section of the page.

A new claim with a new check needs a function and a result type in `tvlens/bayes/checks`, its figure
in `show.py` there, and a record here, in `state_checks.py` or in `causal_checks.py`. Statements and
thresholds are fixed in the records, before any result is known.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from ...bayes import Behaviour, PhaseBoundary, behaviour, solve_phase_boundary
from .causal_checks import CAUSAL_CHECKS
from .checkpoints import CheckpointResult, checkpoint, log_ratio_interval
from .config import ADDITIVE
from .registry import Check, CheckSetup, ClaimRule, Estimate, Place, TrainedModelResult
from .state_checks import STATE_CHECKS


def _compute_behaviour(setup: CheckSetup) -> Behaviour:
    options = dict(splits=setup.splits, references=setup.references)
    return behaviour(setup.model, setup.family, **options, **setup.options)


def _compute_phase_boundary(setup: CheckSetup) -> PhaseBoundary:
    config = setup.config

    def make_family(minor: int, mass: float) -> Any:
        return replace(config, minor_mass=mass).make_family(minor.bit_length() - 1, setup.seed)

    return solve_phase_boundary(
        make_family,
        minors=[2**k for k in range(0, setup.sizes["largest"] + 1, setup.sizes["step"])],
        lengths=[max(1, config.length // 4), config.length],
        masses=sorted({config.minor_mass / 3, config.minor_mass, 3 * config.minor_mass}),
        sequences=setup.sizes["sequences"],
        seed=setup.seed,
    )


def _measure_convergence(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: Behaviour = model["behaviour"]
    nulls = {"KL to the learner": result.mean["major", "learner"]}
    pair = "major", "retrieval"
    return Estimate(result.mean[pair], result.interval[pair], nulls, model.config.converged)


def _measure_extrapolation(model: TrainedModelResult, place: Place, _: object) -> Estimate:
    result: Behaviour = model["behaviour"]
    kls = np.stack([result.kl_to("ood", r).mean(1).numpy() for r in result.references[:2]], 1)
    nulls = {"known tasks": result.log_ratio("major")}
    return Estimate(result.log_ratio("ood"), log_ratio_interval(kls), nulls)


# In the order in which they are made: a check may read the results of those before it.
CHECKS: dict[str, Check] = {
    "behaviour": Check(
        compute=_compute_behaviour,
        result=Behaviour,
        title="predictions",
        text="Retrieval (M1) weights all known tasks, including minor ones; extrapolation (M2) "
        "weights the major tasks and one new task learned in context; the learner knows no task.",
        sizes={"quick": {"sequences": 256}, "full": {"sequences": 1024}},
        claims=[
            ClaimRule(
                id="retrieval-kl",
                statement="Predictions on known tasks match Bayesian retrieval (KL, nats).",
                measure=_measure_convergence,
                side="below",
            ),
            ClaimRule(
                id="extrapolation",
                statement="New tasks are extrapolated rather than retrieved: "
                "log(KL to M1 / KL to M2).",
                measure=_measure_extrapolation,
                threshold=0.0,
                minors="most",
                families=ADDITIVE,
            ),
        ],
    ),
    "checkpoints": Check(
        compute=checkpoint,
        result=CheckpointResult,
        title="over training",
        text="Positive values (orange): closer to extrapolation (M2). Negative values (blue): "
        "closer to retrieval (M1). The share is the fraction of the squared norm of new tasks' "
        "mean states, after token correction, inside the span of the task vectors.",
        at="checkpoints",
        sizes={
            "quick": {"sequences": 96, "tasks": 32, "sequences_per_task": 12, "per_cell": 8},
            "full": {"sequences": 1024, "tasks": 128, "sequences_per_task": 128, "per_cell": 32},
        },
    ),
    "phase_boundary": Check(
        compute=_compute_phase_boundary,
        result=PhaseBoundary,
        title="phase boundary",
        text="Advantage of M1 over M2 on the training mixture, from the evidence of both and "
        "without a model. Where it is below the tolerance, the KL at which a model counts as "
        "converged, M1 gives way to M2. The measured boundary is where the log ratio of the KLs "
        "of trained models to M1 and M2 passes 0 on the training mixture.",
        minors="most",
        families=ADDITIVE,
        sizes={
            "quick": {"sequences": 256, "largest": 9, "step": 3},
            "full": {"sequences": 1024, "largest": 12, "step": 1},
        },
    ),
    **STATE_CHECKS,
    **CAUSAL_CHECKS,
}
