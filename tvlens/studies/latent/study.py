"""The latent study: small transformers trained on latent tasks, compared with Bayesian observers.

Reproduces "Task Vector Geometry Underlies Dual Modes of Task Inference in Transformers"
(arXiv 2605.03780): a model retrieves known tasks along convex combinations of task vectors, like a
Bayesian observer, and learns new tasks in context, outside the span of the task vectors.
"""

import functools
import multiprocessing.resource_tracker
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import joblib
import torch
from joblib.externals.loky.backend import resource_tracker as loky_tracker

from ...bayes.checks.states import ruled_layers
from ...errors import TvlensError, unknown
from ...files import check_folder
from ...folder_lock import one_writer
from ...integers import is_integer, require_at_least
from ...progress import progress_bar
from ...signals import defer_signals, end_with_parent, lock_bars_by_thread
from ..claims import Claim, summarize_claims
from ..report import StudyReport
from .checks import CHECKS
from .config import FAMILIES, PRESETS, FamilyConfig, FamilyName, PresetName
from .registry import TrainedModelResult, compute_claims
from .trained_model import GridPoint, is_checked, train_and_check

if TYPE_CHECKING:
    import pandas

# Posteriors over more tasks exceed the memory of small machines.
_MAX_EXPONENT = 16


@dataclass(frozen=True)
class LatentStudy(StudyReport):
    """Results of a grid of trained models.

    Attributes:
        models: one for each family, number of minor tasks and seed.
        settings: all settings of the study.
    """

    models: list[TrainedModelResult]
    settings: dict

    def __repr__(self) -> str:
        count = sum(claim.verdict == "holds" for claim in self.claims)
        return f"LatentStudy({len(self.models)} models, {count} of {len(self.claims)} claims hold)"

    @functools.cached_property
    def claims(self) -> list[Claim]:
        """Claims of the paper, tested in every model to which they apply."""
        return compute_claims(self.models, CHECKS)

    @property
    def families(self) -> list[str]:
        """Names of the families."""
        return list(dict.fromkeys(model.family for model in self.models))

    @property
    def seeds(self) -> list[int]:
        """The seeds, ascending."""
        return sorted({model.seed for model in self.models})

    def model(
        self, family: str, minor: int | str = "none", seed: int | None = None
    ) -> TrainedModelResult:
        """Return one model, of the first seed by default.

        Raises:
            TvlensError: there is no such model; names the existing ones.
        """
        seed = self.seeds[0] if seed is None else seed
        for model in self.models:
            if (model.family, model.minor, model.seed) == (family, minor, seed):
                return model
        names = ", ".join(model.name for model in self.models)
        raise TvlensError(f"no model {family}-{minor}-{seed}; there are {names}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per claim and model."""
        import pandas as pd

        return pd.DataFrame([claim.to_dict() for claim in self.claims])

    def verdicts(self) -> str:
        """Format the claims as a table for a terminal, summarized over seeds."""
        import pandas as pd

        rows = summarize_claims(self.claims, over="seed" if len(self.seeds) > 1 else "")
        table: str = pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format)
        return table

    def numbers(self) -> dict[str, Any]:
        """Return the records of all checkpoints, by model."""
        return {
            "steps": {
                model.name: [result.to_dict() for result in model.all("checkpoints")]
                for model in self.models
            }
        }


@one_writer
def run(
    preset: PresetName = "quick",
    *,
    folder: str | os.PathLike,
    families: Sequence[FamilyName] | None = None,
    minor: Sequence[int | Literal["none"]] | None = None,
    seeds: int = 1,
    seed: int = 0,
    steps: int | None = None,
    jobs: int | None = None,
    progress: bool | None = None,
) -> LatentStudy:
    """Train and check a model for every family, number of minor tasks and seed; write the report.

    The folder keeps every finished model and the checkpoints of unfinished ones, so that the same
    call resumes an interrupted study.

    Models are trained in parallel by joblib: in local processes, or with another backend whose
    workers share the folder::

        client = dask.distributed.Client("tcp://scheduler:8786")
        with joblib.parallel_config(backend="dask"):  # or "ray", after ray's register_ray()
            tv.studies.latent.run("paper", folder="/shared/latent", seeds=5)

    Args:
        preset: "quick" (dice; minutes), "cpu" (all families, 6 layers; at most two hours on two
            cores) or "paper" (the sizes of the paper; for a GPU).
        folder: folder of the study.
        families: names of the families; all of the preset by default.
        minor: exponents k of the numbers 2^k of minor tasks, and "none"; the preset's by default.
        seeds: number of seeds.
        seed: the first seed.
        steps: training steps; the preset's by default.
        jobs: models that are trained at once, with one thread each; by default the number of
            joblib's workers. A single job, the default on a GPU, runs in this process with all
            threads.

    Raises:
        TvlensError: a preset, family or exponent is invalid, a number is below 1, or the folder
            holds a study of other settings.
    """
    configs = _select_configs(preset, families, minor, steps)
    require_at_least(1, seeds=seeds, jobs=1 if jobs is None else jobs)
    require_at_least(0, seed=seed)
    all_seeds = range(seed, seed + seeds)
    grid = [(config, m, s) for s in all_seeds for config in configs for m in config.minor]
    check_folder(folder)
    _train_grid(grid, folder, jobs, progress)
    models = [train_and_check(*point, folder) for point in grid]
    settings = {"preset": preset, "seeds": list(all_seeds)}
    settings |= {config.family: config.to_dict() for config in configs}
    settings |= {"versions": _package_versions()}
    study = LatentStudy(models, settings)
    study.save(folder)
    return study


def _select_configs(
    preset: PresetName,
    families: Sequence[FamilyName] | None,
    minor: Sequence[int | Literal["none"]] | None,
    steps: int | None,
) -> list[FamilyConfig]:
    """Return the preset's configurations after applying the arguments of `run`."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    configs = list(PRESETS[preset])
    for name in families or ():
        if name not in FAMILIES:
            raise unknown("family", name, FAMILIES)
        if name not in (names := [config.family for config in configs]):
            raise TvlensError(f"preset {preset!r} has no {name}, only {', '.join(names)}")
    changes: dict[str, Any] = {}
    if steps is not None:
        require_at_least(1, steps=steps)
        changes["steps"] = steps
    if minor is not None:
        changes["minor"] = tuple(dict.fromkeys(_validate_exponent(k) for k in minor))
        if not changes["minor"]:
            raise TvlensError("no number of minor tasks to study")
    selected = [config for config in configs if families is None or config.family in families]
    if not selected:
        raise TvlensError("no family to study")
    for config in selected:
        ruled_layers(config.layers)
    return [replace(config, **changes) for config in selected]


def _validate_exponent(k: int | str) -> int | str:
    if k != "none" and (not is_integer(k) or not 0 <= k <= _MAX_EXPONENT):
        raise TvlensError(
            f"minor is 'none' or the exponent k of 2^k minor tasks, 0 to {_MAX_EXPONENT}, not {k!r}"
        )
    return k if isinstance(k, str) else int(k)


def _train_grid(
    grid: list[GridPoint], folder: str | os.PathLike, jobs: int | None, progress: bool | None
) -> None:
    """Train and check every unfinished model."""
    pending = [point for point in grid if not is_checked(*point, folder)]
    if jobs is None:
        jobs = 1 if torch.cuda.is_available() else joblib.effective_n_jobs(-1)
    if min(jobs, len(pending)) < 2:
        for point in pending:
            train_and_check(*point, folder, progress=progress)
        return
    parent = os.getpid()
    tasks = (joblib.delayed(_train_in_worker)(point, folder, parent) for point in pending)
    with defer_signals():
        # The processes that watch semaphores: starting them unblocks signals in some versions.
        loky_tracker.ensure_running()
        if os.name == "posix":
            multiprocessing.resource_tracker.ensure_running()
    with defer_signals():
        results = joblib.Parallel(min(jobs, len(pending)), return_as="generator_unordered")(tasks)
    for _ in progress_bar(
        results, "models", total=len(pending), progress=progress, file=sys.stderr
    ):
        pass


def _train_in_worker(point: GridPoint, folder: str | os.PathLike, parent: int) -> None:
    """Train and check one model in a worker process, which exits with its parent.

    The parent handles Ctrl-C: a worker that responds while it is terminated can block the parent.
    """
    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or multiprocessing.current_process().name == "MainProcess":
        train_and_check(*point, folder, threads=1)
        return
    end_with_parent(parent)
    lock_bars_by_thread()
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train_and_check(*point, folder, threads=1)
    finally:
        signal.signal(signal.SIGINT, previous)


def _package_versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformer-lens")}
