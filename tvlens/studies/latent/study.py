"""Two modes of task inference in one small model: trained, checked, one page, one JSON.

Reproduces "Task Vector Geometry Underlies Dual Modes of Task Inference in Transformers"
(arXiv 2605.03780): in distribution a model retrieves the task as Bayes would, along a convex
combination of task vectors; on new tasks it learns from the context, outside their span.
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
from tqdm.auto import tqdm

from ... import viz
from ...errors import TvlensError, unknown
from ...files import check_folder
from ...folder_lock import one_writer
from ...integers import is_integer, require_at_least
from ...signals import defer_signals, end_with_parent, lock_bars_by_thread
from ..report import StudyReport
from .cell import Cell, finished, load, make
from .claim import Claim, verdicts
from .claims import claims
from .plan import FAMILIES, PRESETS, FamilyName, Plan, PresetName

if TYPE_CHECKING:
    import pandas

# Posteriors over more tasks fill the memory of a small machine.
_MOST = 16

# A cell of the grid: its plan, the exponent of the number of minors, its seed.
Spot = tuple[Plan, int | str, int]


@dataclass(frozen=True)
class LatentStudy(StudyReport):
    """A grid of trained models, and what was found in them.

    Attributes:
        cells: one for each family, number of minors and seed.
        plans: by family.
        settings: everything needed to run it again.
    """

    cells: list[Cell]
    plans: dict[str, Plan]
    settings: dict

    def __repr__(self) -> str:
        held = sum(claim.holds for claim in self.claims)
        return f"LatentStudy({len(self.cells)} models, {held} of {len(self.claims)} claims hold)"

    @functools.cached_property
    def claims(self) -> list[Claim]:  # type: ignore[override]
        """The claims of the paper, with number, interval, null and verdict, cell by cell."""
        return claims(self.cells, self.plans)

    @property
    def families(self) -> list[str]:
        """Names of the families, in order."""
        return list(dict.fromkeys(cell.family for cell in self.cells))

    @property
    def seeds(self) -> list[int]:
        """The seeds, in order."""
        return sorted({cell.seed for cell in self.cells})

    def cell(self, family: str, minor: int | str = "none", seed: int | None = None) -> Cell:
        """One cell; of the first seed by default.

        Raises:
            TvlensError: there is no such cell; names those there are.
        """
        seed = self.seeds[0] if seed is None else seed
        for cell in self.cells:
            if (cell.family, cell.minor, cell.seed) == (family, minor, seed):
                return cell
        there = ", ".join(cell.name for cell in self.cells)
        raise TvlensError(f"no cell {family}-{minor}-{seed}; there are {there}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per claim and cell."""
        import pandas as pd

        return pd.DataFrame([claim.to_json() for claim in self.claims])

    def verdicts(self) -> str:
        """The claims as a table for a terminal, a line per claim and kind of model."""
        import pandas as pd

        frame = pd.DataFrame(verdicts(self.claims))
        ends = frame.pop("low").map("[{:.4f}, ".format) + frame.pop("high").map("{:.4f}]".format)
        frame.insert(3, "over seeds" if len(self.seeds) > 1 else "95%", ends)
        return frame.to_string(index=False, float_format="{:.4f}".format)

    def page(self) -> viz.Page:
        """The report page."""
        from .page import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        steps = {cell.name: cell.steps for cell in self.cells}
        told = [claim.to_json() for claim in self.claims]
        return {"settings": self.settings, "claims": told, "steps": steps}


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
    progress: bool = True,
) -> LatentStudy:
    """Train a model in every cell of families x minors x seeds, check all, write page and JSON.

    The folder keeps each finished cell and the checkpoints of those that are not, so that the same
    call goes on where it was stopped and never makes a cell twice.

    Cells run through joblib: in local processes, or wherever its own switch sends them, if the
    workers see the same folder::

        client = dask.distributed.Client("tcp://scheduler:8786")
        with joblib.parallel_config(backend="dask"):  # or "ray", after ray's register_ray()
            tv.studies.latent.run("paper", folder="/shared/latent", seeds=5)

    Args:
        preset: "quick" (dice; minutes), "cpu" (dice, regression and chains; hours) or "paper" (the
            sizes of the paper; for a GPU).
        folder: where everything is kept.
        families: of the preset's families, those wanted; all by default.
        minor: exponents k of the numbers 2^k of minor tasks, and "none"; the preset's by default.
        seeds: how many seeds, from
        seed: the first one.
        steps: of the training; the preset's by default.
        jobs: cells at once, one thread each; as many as joblib has workers by default. A single
            one runs in this process, with all threads, as all do where there is a GPU.

    Raises:
        TvlensError: an unknown preset or family, a number of minors that is none, numbers below 1,
            or a folder that holds a study of other settings.
    """
    plans = _plans(preset, families, minor, steps)
    require_at_least(1, seeds=seeds, jobs=1 if jobs is None else jobs)
    require_at_least(0, seed=seed)
    each = range(seed, seed + seeds)
    grid = [(plan, m, s) for s in each for plan in plans for m in plan.minor]
    check_folder(folder)
    _make(grid, folder, jobs, progress)
    cells = [load(folder, plan.family, m, s) for plan, m, s in grid]
    settings = {"preset": preset, "seeds": list(each)}
    settings |= {plan.family: plan.key() for plan in plans} | {"versions": _versions()}
    study = LatentStudy(cells, {plan.family: plan for plan in plans}, settings)
    study.save(folder)
    return study


def _plans(
    preset: PresetName,
    families: Sequence[FamilyName] | None,
    minor: Sequence[int | Literal["none"]] | None,
    steps: int | None,
) -> list[Plan]:
    """The preset's plans with what was asked for in place of their own."""
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    plans = list(PRESETS[preset])
    for name in families or ():
        if name not in FAMILIES:
            raise unknown("family", name, FAMILIES)
        if name not in (there := [plan.family for plan in plans]):
            raise TvlensError(f"preset {preset!r} has no {name}, only {', '.join(there)}")
    changes: dict[str, Any] = {}
    if steps is not None:
        require_at_least(1, steps=steps)
        changes["steps"] = steps
    if minor is not None:
        changes["minor"] = tuple(dict.fromkeys(_exponent(k) for k in minor))
        if not changes["minor"]:
            raise TvlensError("no number of minor tasks to study")
    wanted = [plan for plan in plans if families is None or plan.family in families]
    if not wanted:
        raise TvlensError("no family to study")
    return [replace(plan, **changes) for plan in wanted]


def _exponent(k: int | str) -> int | str:
    if k != "none" and (not is_integer(k) or not 0 <= k <= _MOST):
        raise TvlensError(
            f"minor is 'none' or the exponent k of 2^k minor tasks, 0 to {_MOST}, not {k!r}"
        )
    return k if isinstance(k, str) else int(k)


def _make(grid: list[Spot], folder: str | os.PathLike, jobs: int | None, progress: bool) -> None:
    """Make every cell that is not finished."""
    todo = [spot for spot in grid if not finished(*spot, folder)]
    if jobs is None:
        jobs = 1 if torch.cuda.is_available() else joblib.effective_n_jobs(-1)
    if min(jobs, len(todo)) < 2:
        for plan, m, s in todo:
            make(plan, m, s, folder, progress=progress)
        return
    parent = os.getpid()
    tasks = (joblib.delayed(_make_beside)(plan, m, s, folder, parent) for plan, m, s in todo)
    with defer_signals():
        # The processes that watch semaphores: starting them unblocks signals in some versions.
        loky_tracker.ensure_running()
        if os.name == "posix":
            multiprocessing.resource_tracker.ensure_running()
    with defer_signals():
        made = joblib.Parallel(min(jobs, len(todo)), return_as="generator_unordered")(tasks)
    for _ in tqdm(made, "models", total=len(todo), disable=not progress, file=sys.stderr):
        pass


def _make_beside(plan: Plan, m: int | str, s: int, folder: str | os.PathLike, parent: int) -> None:
    """Train and check one cell in a worker process, which ends with its parent.

    Ctrl-C is left to the parent: a worker that answers while it is being ended can leave the
    parent waiting.
    """
    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or multiprocessing.current_process().name == "MainProcess":
        make(plan, m, s, folder, threads=1)
        return
    end_with_parent(parent)
    lock_bars_by_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        make(plan, m, s, folder, threads=1)
    finally:
        signal.signal(signal.SIGINT, before)


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformer-lens")}
