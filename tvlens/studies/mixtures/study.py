"""The mixtures study: prompts that mix tasks, compared with Bayesian posteriors."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...bayes import RetrievalCheck, retrieval_check
from ...errors import TvlensError
from ...file_names import file_name
from ...files import check_folder
from ...folder_lock import one_writer
from ...models.forward import check_causal
from ...progress import progress_bar
from ...tasks import Task
from ..cache import cached
from ..claims import Claim, summarize_claims
from ..report import StudyReport
from .claims import compute_claims

if TYPE_CHECKING:
    import pandas

# Tasks with common inputs that a small model performs from demonstrations.
MIXTURES = (
    ("present-past", "gerund", "third-person"),
    ("comparative", "superlative"),
    ("country-capital", "country-region", "country-language"),
)

# Settings of a check that the report lists.
_SETTINGS = ("model", "revision", "processed", "dtype", "versions", "template", "shots", "contexts")
_SETTINGS += ("count", "repeats", "noise", "null", "seed", "site")


@dataclass(frozen=True)
class MixtureStudy(StudyReport):
    """Retrieval checks of several sets of tasks in one model.

    Attributes:
        checks: by the names of the tasks, joined with " + ".
        control: the first set in the same model with scrambled weights: attention averages labels
            in any network, so a correlation with their numbers does not imply inference.
        settings: all settings of the study.
    """

    checks: dict[str, RetrievalCheck]
    control: RetrievalCheck
    settings: dict

    @property
    def claims(self) -> list[Claim]:
        """Claims of every set of tasks."""
        by_set = (compute_claims(name, c, self.control) for name, c in self.checks.items())
        return [claim for claims in by_set for claim in claims]

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return one row per claim."""
        import pandas as pd

        return pd.DataFrame(summarize_claims(self.claims, over=""))

    def numbers(self) -> dict[str, Any]:
        """Return layers, position slopes and agreements of every set of tasks."""
        checks = self.checks.items()
        return {
            "layers": {name: check.layer for name, check in checks},
            "position_slopes": {
                name: {key: slopes.tolist() for key, slopes in check.position_slopes.items()}
                for name, check in checks
            },
            "agreement": {
                name: json.loads(check.to_dataframe().to_json(orient="records"))
                for name, check in checks
            },
        }


@one_writer
def run(
    model: Any,
    tasks: Sequence[Sequence[str | Task]] = MIXTURES,
    *,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
    **options: Any,
) -> MixtureStudy:
    """Run a retrieval check for several sets of tasks with common inputs.

    Args:
        model: a causal model with a tokenizer, as returned by `load`.
        tasks: sets of two or more tasks each.
        folder: folder of the report and of finished checks, from which an interrupted run resumes.
        options: arguments of `tv.bayes.retrieval_check`.

    Raises:
        TvlensError: there are no tasks, a name is unknown, or a set has no common inputs.
    """
    check_causal(model)
    task_sets = [
        [task if isinstance(task, Task) else Task.load(task) for task in group] for group in tasks
    ]
    by_name = {" + ".join(task.name for task in group): group for group in task_sets}
    if not by_name:
        raise TvlensError("no tasks to mix")
    if len(by_name) < len(task_sets):
        raise TvlensError("two sets have the same tasks")
    if folder is not None:
        check_folder(folder)
    checks = {
        name: _cached_check(model, name, group, folder, options)
        for name, group in progress_bar(by_name.items(), "mixing", progress=progress)
    }
    name, group = next(iter(by_name.items()))
    with scrambled_weights(model):
        control = _cached_check(model, name, group, folder, options, prefix="scrambled-")
    settings = {k: checks[name].settings[k] for k in _SETTINGS}
    settings |= {"tasks": [list(check.tasks) for check in checks.values()]}
    study = MixtureStudy(checks, control, settings)
    if folder is not None:
        study.save(folder)
    return study


@contextlib.contextmanager
def scrambled_weights(model: Any, *, seed: int = 0) -> Iterator[None]:
    """Permute the entries of every weight matrix within the context."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    originals = [p.detach().clone() for p in matrices]
    try:
        with torch.no_grad():
            for p in matrices:
                order = torch.randperm(p.numel(), generator=generator).to(p.device)
                p.copy_(p.flatten()[order].view_as(p))
        yield
    finally:
        with torch.no_grad():
            for p, original in zip(matrices, originals, strict=True):
                p.copy_(original)


def _cached_check(
    model: Any,
    name: str,
    tasks: Sequence[Task],
    folder: str | os.PathLike | None,
    options: Mapping[str, Any],
    *,
    prefix: str = "",
) -> RetrievalCheck:
    """Run a retrieval check, or load it from the folder if its content is unchanged."""
    file = None
    if folder is not None:
        file = Path(folder) / f"{prefix}{file_name(name.replace(' ', ''))}.safetensors"
    relevant = {k: v for k, v in options.items() if k not in ("batch_size", "progress")}
    if relevant.get("others"):
        others = relevant["others"]
        relevant["others"] = [t if isinstance(t, Task) else Task.load(t) for t in others]
    content = {"model": model, "tasks": tasks, "options": relevant}
    return cached(
        file, content, lambda: retrieval_check(model, tasks, **options), load=RetrievalCheck.load
    )
