"""One seed of the study: extract on one part, choose layers on the next, test on the last."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from ...file_names import file_name
from ...tasks import Task
from ...vectors import TaskVector
from ..cache import cached, load_tensors, save_tensors
from .conditions import CONDITIONS, MODALITIES, Outcome, outcomes, sweeps
from .sources import Draws, vectors_of

Parts = dict[str, tuple[Task, Task, Task]]
Vectors = dict[str, dict[str, TaskVector]]


class Seeded(NamedTuple):
    """What one seed gives, for all tasks."""

    draws: Draws
    parts: Parts
    vectors: Vectors
    swept: dict[str, dict[str, Float[Tensor, "item layer"]]]
    layers: dict[str, int]
    outcomes: dict[str, dict[str, dict[str, Outcome]]]


def seeded(
    model: Any,
    tasks: Sequence[Task],
    draws: Draws,
    *,
    most: tuple[int, int],
    language_model: Any = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Seeded:
    """Everything one seed needs a model for; what is in the folder already is read.

    Args:
        most: the most items of the selection and of the test part.
    """
    parts = {task.name: _parts(task, most, draws.seed) for task in tasks}
    where = None if folder is None else folder / f"seed-{draws.seed}"

    def bar(what: str) -> Any:
        return tqdm(parts.items(), f"{what}, seed {draws.seed}", disable=not progress)

    vectors, swept, found = {}, {}, {}
    for name, (train, _, _) in bar("extracting"):
        options = {"language_model": language_model, "folder": where}
        vectors[name] = vectors_of(model, train, draws, **options)
    for name, (_, select, _) in bar("choosing layers"):
        own = {"model": model, "vectors": vectors[name], "select": select, "draws": draws}
        swept[name] = cached(
            where and where / f"{file_name(name)}-layers.safetensors",
            own,
            lambda n=name, part=select: sweeps(model, vectors[n], part, draws.template),
            load=load_tensors,
            save=save_tensors,
        )
    layers = _best(swept)
    for name, part in bar("testing"):
        own = {"model": model, "name": name, "vectors": vectors, "parts": part}
        own |= {"layers": sorted(layers.items()), "draws": draws}
        flat = cached(
            where and where / f"{file_name(name)}-outcomes.safetensors",
            own,
            lambda n=name, p=part: {
                f"{asked}/{condition}": outcome
                for asked, some in outcomes(model, n, vectors, p, layers, draws).items()
                for condition, outcome in some.items()
            },
            load=load_tensors,
            save=save_tensors,
        )
        found[name] = {asked: _under(flat, asked) for asked in MODALITIES}
    return Seeded(draws, parts, vectors, swept, layers, found)


def _under(flat: Mapping[str, Outcome], asked: str) -> dict[str, Outcome]:
    """One modality's conditions, in their own order, which a file does not keep."""
    named = {condition: f"{asked}/{condition}" for condition in CONDITIONS}
    return {condition: flat[name] for condition, name in named.items() if name in flat}


def _parts(task: Task, most: tuple[int, int], seed: int) -> tuple[Task, Task, Task]:
    """Disjoint parts to extract from, to choose on and to test on, not larger than asked."""
    train, *others = task.split(seed=seed)
    select, test = (
        part.subset(range(min(count, len(part)))) for part, count in zip(others, most, strict=True)
    )
    return train, select, test


def _best(swept: Mapping[str, Mapping[str, Float[Tensor, "item layer"]]]) -> dict[str, int]:
    """One layer per way from source to query: the best mean over tasks; the earliest of equals."""
    ways = dict.fromkeys(way for sweep in swept.values() for way in sweep)
    return {
        way: int(sum(s[way].mean(0) for s in swept.values() if way in s).argmax()) for way in ways
    }
