"""The study of extraction methods: the vector of every method on every task."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError, unknown
from ..file_names import file_name
from ..files import check_folder
from ..folder_lock import one_writer
from ..models.forward import check_causal
from ..models.loading import model_name
from ..progress import progress_bar
from ..tasks import Task, Template
from ..vectors import METHODS, TaskVector, VectorReport, evaluate, extract
from .cache import cached
from .claims import Claim
from .report import StudyReport
from .vectors import vector_claim

if TYPE_CHECKING:
    import pandas

# Number of other tasks' vectors in the wrong-task control.
_WRONG = 2


@dataclass(frozen=True)
class MethodStudy(StudyReport):
    """Vectors of every method and task, evaluated on the same items.

    Attributes:
        vectors, reports: by task and method.
        settings: everything needed to run it again.
    """

    vectors: dict[str, dict[str, TaskVector]]
    reports: dict[str, dict[str, VectorReport]]
    settings: dict

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks, in order."""
        return list(self.reports)

    @property
    def methods(self) -> list[str]:
        """Names of the extraction methods, in order."""
        return list(self.settings["methods"])

    @property
    def accuracy(self) -> Float[Tensor, "task method"]:
        """First-token accuracy on test items, at each vector's selected layer."""
        rows = [[self.reports[t][m].accuracy for m in self.methods] for t in self.tasks]
        return torch.tensor(rows)

    @property
    def by_layer(self) -> Float[Tensor, "method task layer"]:
        """First-token accuracy on validation items."""
        rows = [[self.reports[t][m].by_layer for t in self.tasks] for m in self.methods]
        return torch.stack([torch.stack(row) for row in rows])

    @property
    def head_effects(self) -> Float[Tensor, "task layer head"] | None:
        """Indirect effect of every head, where function vectors were extracted."""
        if "function" not in self.methods:
            return None
        return torch.tensor([v["function"].meta["effects"] for v in self.vectors.values()])

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per task, method and condition."""
        import pandas as pd

        frames = [
            report.to_dataframe().assign(method=method)
            for reports in self.reports.values()
            for method, report in reports.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def table(self) -> "pandas.DataFrame":
        """Test accuracies with intervals: a row per task and columns per method."""
        import pandas as pd

        frame = pd.DataFrame(self.accuracy.tolist(), index=self.tasks, columns=self.methods)
        any_report = [next(iter(by.values())) for by in self.reports.values()]
        frame["zero-shot"] = [report.zero_shot for report in any_report]
        frame["few-shot"] = [report.few_shot for report in any_report]
        return frame

    @property
    def claims(self) -> list[Claim]:
        """One claim per task and method: its vector works."""
        return [
            vector_claim(report, method=method)
            for by_method in self.reports.values()
            for method, report in by_method.items()
        ]

    def numbers(self) -> dict[str, Any]:
        """Reports by task and method, as plain data."""
        reports = {t: {m: r.to_json() for m, r in by.items()} for t, by in self.reports.items()}
        return {"tasks": reports}


@one_writer
def run(
    model: Any,
    tasks: Sequence[str | Task] | None = None,
    *,
    methods: Sequence[str] = tuple(METHODS),
    items: int = 40,
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> MethodStudy:
    """Extract every task's vector by every method and evaluate all of them on the same items.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        tasks: catalogue names, files, or tasks; the whole catalogue by default.
        items: maximal number of items of the validation part and of the test part.
        folder: where vectors and reports are cached, so that an interrupted run resumes, and where
            the page and the JSON are written.
        methods, template, shots, contexts, seed: as in `extract`.

    Raises:
        TvlensError: unknown names, fewer than two kinds of tasks, too small tasks.
    """
    check_causal(model)
    chosen = load_tasks(tasks, methods=methods)
    options = dict(shots=shots, contexts=contexts, seed=seed)
    form = Template.of(template)
    options["template"] = form.demonstration
    parts = {task.name: _parts(task, items, seed) for task in chosen}
    place = None if folder is None else Path(folder)
    if folder is not None:
        check_folder(folder)

    vectors: dict[str, dict[str, TaskVector]] = {name: {} for name in parts}
    pairs = [(name, method) for name in parts for method in methods]
    for name, method in progress_bar(pairs, "extracting", progress=progress):
        vectors[name][method] = _extract_vector(
            model, parts[name][0], method, options | {"template": form}, place
        )
    reports: dict[str, dict[str, VectorReport]] = {name: {} for name in parts}
    for name, method in progress_bar(pairs, "evaluating", progress=progress):
        baseline = next(iter(reports[name].values()), None)
        reports[name][method] = _evaluate_vector(
            model, vectors, name, method, parts[name], baseline, seed, place
        )

    settings = options | {"model": model_name(model), "methods": list(methods), "items": items}
    study = MethodStudy(vectors, reports, settings)
    if folder is not None:
        study.save(folder)
    return study


def load_tasks(
    tasks: Sequence[str | Task] | None, *, methods: Sequence[str] = tuple(METHODS)
) -> list[Task]:
    """Load tasks by name, by default the whole catalogue; checks names before any work."""
    for method in methods:
        if method not in METHODS:
            raise unknown("method", method, METHODS)
    names = Task.names() if tasks is None else tasks
    chosen = [task if isinstance(task, Task) else Task.load(task) for task in names]
    if len({task.kind for task in chosen}) < 2:
        raise TvlensError("the wrong-task control needs tasks of at least two kinds")
    return chosen


def _parts(task: Task, items: int, seed: int) -> tuple[Task, Task, Task]:
    train, validation, test = task.split(seed=seed)
    validation, test = (part.subset(range(min(items, len(part)))) for part in (validation, test))
    return train, validation, test


def _file(place: Path | None, task: str, method: str, suffix: str) -> Path | None:
    """Return the path of the cache entry of a task's vector or report by a method."""
    return place and place / file_name(task) / f"{file_name(method)}{suffix}"


def _extract_vector(
    model: Any, train: Task, method: str, options: dict, place: Path | None
) -> TaskVector:
    return cached(
        _file(place, train.name, method, ".safetensors"),
        {"model": model, "task": train, "method": method, **options},
        lambda: extract(model, train, method=method, **options),
        load=TaskVector.load,
    )


def _evaluate_vector(
    model: Any,
    vectors: dict[str, dict[str, TaskVector]],
    name: str,
    method: str,
    parts: tuple[Task, Task, Task],
    baseline: VectorReport | None,
    seed: int,
    place: Path | None,
) -> VectorReport:
    """Evaluate one task's vector; wrong tasks are others of the study, of another kind."""
    vector, (_, validation, test) = vectors[name][method], parts
    others = [by[method] for by in vectors.values() if by[method].meta["kind"] != parts[0].kind]
    wrong = others[:_WRONG]
    options = dict(validation=validation, test=test, wrong=wrong, seed=seed)
    return cached(
        _file(place, name, method, ".json"),
        {"model": model, "vector": vector, **options},
        lambda: evaluate(model, vector, baseline=baseline, **options),
        load=VectorReport.load,
    )
