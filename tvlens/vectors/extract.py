"""`extract`: from a task's examples to its task vector."""

from collections.abc import Callable
from importlib import metadata
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..activations import collect
from ..errors import unknown
from ..models.load import is_processed, model_name
from ..tasks import Prompt, Task, Template, build, contexts
from .vector import TaskVector


def state(
    model: Any, prompts: list[Prompt], *, site: str, batch_size: int, progress: bool
) -> Float[Tensor, "layer d_model"]:
    """Mean state after every block at the query's delimiter, over contexts.

    Source: Hendel et al. 2023, "In-Context Learning Creates Task Vectors", section 3.
    """
    tokens = [prompt.tokens for prompt in prompts]
    found = collect(model, tokens, site, positions=-1, batch_size=batch_size, progress=progress)
    return found.stack(site)[:, :, 0].mean(dim=1)


METHODS: dict[str, Callable] = {"state": state}


def extract(
    model: Any,
    task: Task,
    *,
    method: str = "state",
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    site: str = "resid_post",
    seed: int = 0,
    batch_size: int = 16,
    progress: bool = False,
) -> TaskVector:
    """Extract a task's vector from few-shot contexts.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        task: the examples to draw from; use the first part of `task.split()`.
        method: "state".
        template: "qa", "arrow", "colon" or a text with {x} and {y}.
        shots: demonstrations per context; each context's query is a dummy, not among them.
        contexts: how many contexts are averaged.
        site: the component to read.
        seed: of the draw of contexts.
        batch_size: contexts per forward. Cost: contexts / batch_size forwards.

    Raises:
        TvlensError: unknown method, template or site; too few examples; too long a prompt.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    template = Template.of(template)
    prompts = _prompts(model, task, template, shots=shots, count=contexts, seed=seed)
    values = METHODS[method](model, prompts, site=site, batch_size=batch_size, progress=progress)
    meta = provenance(model, task) | {
        "method": method,
        "template": template.demonstration,
        "shots": shots,
        "contexts": contexts,
        "seed": seed,
        "prompts": [prompt.text for prompt in prompts],
    }
    return TaskVector(values.float(), site, meta)


def provenance(model: Any, task: Task) -> dict:
    """Which model, weights, task and versions a result was taken with, as JSON."""
    packages = ("tvlens", "torch", "transformer-lens", "transformers")
    return {
        "model": model_name(model),
        "revision": getattr(model.cfg, "tvlens_revision", None),
        "processed": is_processed(model),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "task": task.name,
        "kind": task.kind,
        "examples": [list(pair) for pair in task.pairs],
        "versions": {name: _version(name) for name in packages},
    }


def _prompts(
    model: Any, task: Task, template: Template, *, shots: int, count: int, seed: int
) -> list[Prompt]:
    drawn = contexts(task, shots=shots, count=count, seed=seed)
    tokenizer = getattr(model, "tokenizer", None)
    return [build(tokenizer, template, shown, query) for shown, (query, _) in drawn]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
