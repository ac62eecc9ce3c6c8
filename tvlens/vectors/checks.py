"""Validation of the arguments of `extract` and `evaluate`, before any work."""

from collections.abc import Sequence
from typing import Any

from ..errors import TvlensError
from ..integers import as_integer
from ..sites import COMPONENTS, component
from ..tasks import Task, Template
from .vector import TaskVector


def check_task(task: Any, *, name: str) -> None:
    """Raise TvlensError unless this is a task."""
    if not isinstance(task, Task):
        hint = f"Task.load({task!r})" if isinstance(task, str) else "Task(name, pairs)"
        raise TvlensError(f"{name} must be a Task, not {type(task).__name__}: give tvlens.{hint}")


def read_template(template: Any) -> Template:
    """Convert a name or a text to a template.

    Raises:
        TvlensError: no such template, or no text.
    """
    if not isinstance(template, str | Template):
        raise TvlensError(f"a template is a name or a text with {{x}} and {{y}}, not {template!r}")
    return Template.of(template)


def check_vector(vector: Any, *, name: str) -> None:
    """Raise TvlensError unless this is a task vector."""
    if not isinstance(vector, TaskVector):
        raise TvlensError(
            f"{name} must be a TaskVector, as tvlens.extract returns, not {type(vector).__name__}"
        )


def vector_site(site: Any) -> str:
    """Return the component that a vector is read from at every layer.

    Raises:
        TvlensError: no such component, one with a layer, or one that is not as wide as the model.
    """
    name = component(site)
    candidates = [c for c, (_, axes) in COMPONENTS.items() if axes == ("pos", "d_model")]
    if name not in candidates:
        raise TvlensError(
            f"{name} is not one vector of the model's width: choose from {', '.join(candidates)}"
        )
    return name


def check_counts(**counts: Any) -> dict[str, int]:
    """Check shots and seed (0 or more), contexts and batch size (1 or more).

    Raises:
        TvlensError: no integers, or too small ones.
    """
    smallest = {"shots": 0, "seed": 0}
    return {
        name: as_integer(value, name=name, minimum=smallest.get(name, 1))
        for name, value in counts.items()
    }


def as_vector_list(wrong: Any, model: Any) -> list[TaskVector] | None:
    """Convert the vectors of other tasks to a list; None without vectors.

    Raises:
        TvlensError: something else, or a vector that does not fit the model.
    """
    if wrong is None:
        return None
    vectors = [wrong] if not isinstance(wrong, Sequence) else list(wrong)
    for vector in vectors:
        check_vector(vector, name="wrong")
        vector.check(model, other_model=True)
    return vectors
