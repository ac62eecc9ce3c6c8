"""`extract`: compute a task vector from the examples of a task."""

import importlib.metadata
from typing import Any, Literal

from ..errors import unknown
from ..models.families import weight_dtype
from ..models.forward import check_runnable
from ..models.loading import is_processed, model_name
from ..sites import SiteName
from ..tasks import Modality, Task, Template
from .checks import check_counts, check_task, read_template, vector_site
from .function_vectors import function
from .methods import ExtractionContext, Method, difference, in_context, instruction, state
from .vector import TaskVector

# Methods by name; `extract` also accepts any function of an `ExtractionContext`.
MethodName = Literal["state", "function", "difference", "in-context", "instruction"]
METHODS: dict[str, Method] = {
    "state": state,
    "function": function,
    "difference": difference,
    "in-context": in_context,
    "instruction": instruction,
}


def extract(
    model: Any,
    task: Task,
    *,
    method: MethodName | Method = "state",
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    site: SiteName | str = "resid_post",
    modality: Modality = "text",
    query: Modality | None = None,
    seed: int = 0,
    batch_size: int = 16,
    progress: bool | None = None,
) -> TaskVector:
    """Extract a task's vector from few-shot contexts.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        task: the examples to draw from; use the first part of `task.split()`.
        method: "state" (Hendel et al.), "function" (Todd et al.), "difference", "in-context" (Liu
            et al.), "instruction", or a function such as `functools.partial(function, heads=20)`.
        template: "qa", "arrow", "colon" or a text with {x} and {y}.
        shots: demonstrations per context; each context's query is a dummy, not among them.
        contexts: number of contexts that are averaged.
        site: the component to read, at every layer.
        modality: modality of the demonstrations: "text", or "image" (of `Task.images`).
        query: modality of the dummy queries; by default that of the demonstrations.
        seed: seed of the draw of contexts.
        batch_size: contexts per forward. Cost: contexts / batch_size forwards; "function" also
            patches every head.

    Raises:
        TvlensError: unknown method, template or site; too few examples; too long a prompt.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> train, *_ = tv.Task.load("singular-plural").split(seed=0)
        >>> vector = tv.extract(model, train, shots=2, contexts=4)
        >>> vector.values.shape == (model.cfg.n_layers, model.cfg.d_model)
        True
    """
    check_runnable(model)
    check_task(task, name="task")
    if not callable(method) and method not in METHODS:
        raise unknown("method", method, METHODS)
    counts = check_counts(shots=shots, contexts=contexts, seed=seed, batch_size=batch_size)
    shots, contexts, seed, batch_size = counts.values()
    template = read_template(template)
    context = ExtractionContext.draw(
        model,
        task,
        template,
        shots=shots,
        count=contexts,
        site=vector_site(site),
        modality=modality,
        query=query or modality,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    values, metadata = (METHODS[method] if isinstance(method, str) else method)(context)
    meta = provenance(model, task) | {
        "method": method if isinstance(method, str) else _method_name(method),
        "template": template.demonstration,
        "shots": shots,
        "contexts": contexts,
        "modality": modality,
        "query": query or modality,
        "seed": seed,
        "prompts": [prompt.text for prompt in context.prompts()],
    }
    return TaskVector(values.float(), context.site, meta | metadata)


def _method_name(method: Method) -> str:
    """Return the name of a method given as a function."""
    return getattr(getattr(method, "func", method), "__name__", "custom")


def provenance(model: Any, task: Task | None = None) -> dict:
    """Record model, weights, task and versions of a result, as JSON."""
    packages = ("tvlens", "torch", "transformer-lens", "transformers")
    return {
        "model": model_name(model),
        "revision": getattr(model.cfg, "tvlens_revision", None),
        "processed": is_processed(model),
        "dtype": str(weight_dtype(model)).removeprefix("torch."),
        "versions": {name: _version(name) for name in packages},
    } | ({} if task is None else _task_metadata(task))


def _task_metadata(task: Task) -> dict:
    return {
        "task": task.name,
        "kind": task.kind,
        "examples": [list(pair) for pair in task.pairs],
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
