"""Is in-context learning of a language model Bayesian retrieval? Prompts that mix tasks, tested."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from ... import viz
from ...bayes import RetrievalCheck, retrieval_check
from ...errors import TvlensError
from ...file_names import file_name
from ...files import check_folder
from ...folder_lock import one_writer
from ...models.forward import check_causal
from ...tasks import Task
from ..cache import cached
from ..report import StudyReport
from .claim_table import claims

if TYPE_CHECKING:
    import pandas

# Tasks on the same words, which a small model does from demonstrations.
MIXTURES = (
    ("present-past", "gerund", "third-person"),
    ("comparative", "superlative"),
    ("country-capital", "country-region", "country-language"),
)


@dataclass(frozen=True)
class MixtureStudy(StudyReport):
    """Retrieval checks of several sets of tasks in one model.

    Attributes:
        checks: by the tasks' names, joined with " + ".
        control: the first set in the same model with scrambled weights. Attention averages labels
            in any network, so that correlation with their numbers alone is nothing learnt.
        settings: everything needed to run it again.
    """

    checks: dict[str, RetrievalCheck]
    control: RetrievalCheck
    settings: dict

    def claims(self) -> list[dict]:  # type: ignore[override]
        """One row per set and claim: number, 95% interval, what its null gives, verdict."""
        return [
            {"tasks": name} | row
            for name, check in self.checks.items()
            for row in claims(check, self.control)
        ]

    def to_dataframe(self) -> "pandas.DataFrame":
        """The table of claims."""
        import pandas as pd

        return pd.DataFrame(self.claims())

    def page(self) -> viz.Page:
        """The report page."""
        from .page import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        return {
            "settings": self.settings,
            "claims": self.claims(),
            "layers": {name: check.layer for name, check in self.checks.items()},
            "position_slopes": {
                name: {of: slopes.tolist() for of, slopes in check.position_slopes.items()}
                for name, check in self.checks.items()
            },
            "agreement": {
                name: json.loads(check.to_dataframe().to_json(orient="records"))
                for name, check in self.checks.items()
            },
        }


@one_writer
def run(
    model: Any,
    tasks: Sequence[Sequence[str | Task]] = MIXTURES,
    *,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
    **options: Any,
) -> MixtureStudy:
    """Check several sets of tasks that have inputs in common.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        tasks: sets of two or more tasks each.
        folder: where finished checks are kept, so that an interrupted run goes on from there, and
            where the page and the JSON are written.
        options: of `tv.bayes.retrieval_check`.

    Raises:
        TvlensError: no tasks, unknown names, sets without common inputs.
    """
    check_causal(model)
    chosen = [
        [task if isinstance(task, Task) else Task.load(task) for task in group] for group in tasks
    ]
    named = {" + ".join(task.name for task in group): group for group in chosen}
    if not named:
        raise TvlensError("no tasks to mix")
    if len(named) < len(chosen):
        raise TvlensError("two sets have the same tasks")
    if folder is not None:
        check_folder(folder)
    checks = {
        name: _kept(model, name, group, folder, options)
        for name, group in tqdm(named.items(), "mixing", disable=not progress)
    }
    name, group = next(iter(named.items()))
    with scrambled(model):
        control = _kept(model, name, group, folder, options, prefix="scrambled-")
    first = checks[name]
    kept = ("model", "revision", "processed", "dtype", "versions", "template", "shots", "contexts")
    kept += ("count", "repeats", "noise", "null", "seed", "site")
    settings = {k: first.settings[k] for k in kept} | {
        "tasks": [list(c.tasks) for c in checks.values()]
    }
    study = MixtureStudy(checks, control, settings)
    if folder is not None:
        study.save(folder)
    return study


@contextlib.contextmanager
def scrambled(model: Any, *, seed: int = 0) -> Iterator[None]:
    """Within, the entries of every weight matrix are permuted: same sizes, nothing learnt."""
    generator = torch.Generator().manual_seed(seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    kept = [p.detach().clone() for p in matrices]
    try:
        with torch.no_grad():
            for p in matrices:
                order = torch.randperm(p.numel(), generator=generator).to(p.device)
                p.copy_(p.flatten()[order].view_as(p))
        yield
    finally:
        with torch.no_grad():
            for p, old in zip(matrices, kept, strict=True):
                p.copy_(old)


def _kept(
    model: Any,
    name: str,
    tasks: Sequence[Task],
    folder: str | os.PathLike | None,
    options: Mapping[str, Any],
    *,
    prefix: str = "",
) -> RetrievalCheck:
    """The check from the folder, if it was made from the same content, else a new one."""
    file = None
    if folder is not None:
        file = Path(folder) / f"{prefix}{file_name(name.replace(' ', ''))}.safetensors"
    kept = {k: v for k, v in options.items() if k not in _NO_MATTER}
    if kept.get("others"):
        kept["others"] = [t if isinstance(t, Task) else Task.load(t) for t in kept["others"]]
    content = {"model": model, "tasks": tasks, "options": kept}
    return cached(
        file, content, lambda: retrieval_check(model, tasks, **options), load=RetrievalCheck.load
    )


# Options that change the speed and not the result.
_NO_MATTER = ("batch_size", "progress")
