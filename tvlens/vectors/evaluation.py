"""`evaluate`: choose the layer on one part, score on another, beside every control."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import TvlensError
from ..integers import as_integer
from ..models import processor_or_tokenizer
from ..models.forward import check_runnable
from ..stats import share_interval
from ..tasks import Modality, Pair, Prompt, Shown, Task, Template, build, shuffled_labels
from ..tasks.task import normalize
from .checks import check_mode, check_task, check_vector, read_template, wrong_vectors
from .conditions import constant_answer, random_like, shared_first_token, zero_shot
from .extraction import METHODS, extract
from .report import Condition, VectorReport
from .scoring import Row, score
from .sweep import layer_sweep, score_writes
from .vector import Mode, TaskVector

# How many random directions stand behind the random control.
_RANDOM_DRAWS = 5

# The order in which reports show their conditions.
_CONDITIONS = ("zero_shot", "vector", "few_shot", "random", "wrong_task")
_CONDITIONS += ("shuffled_labels", "most_common")
_WITHOUT_VECTOR = ("zero_shot", "few_shot", "shuffled_labels", "most_common")


def evaluate(
    model: Any,
    vector: TaskVector,
    *,
    select: Task,
    test: Task,
    wrong: TaskVector | Sequence[TaskVector] | None = None,
    template: str | Template | None = None,
    mode: Mode | None = None,
    baseline: VectorReport | None = None,
    modality: Modality | None = None,
    demonstrations: Task | None = None,
    seed: int = 0,
    batch_tokens: int = 2048,
    progress: bool = False,
) -> VectorReport:
    """Write the vector into zero-shot prompts: layer chosen on `select`, scored on `test`.

    Args:
        model: the model the vector comes from.
        select: items on which the layer is chosen (highest first-token accuracy; ties go to the
            higher full-answer accuracy, then to the earlier layer).
        test: items scored once, at that layer.
        wrong: vectors of other tasks; by default two catalogue tasks of other kinds, extracted
            the same way.
        template: as in `extract`; the vector's own by default.
        mode: "replace", "add" or "turn"; by default as the vector's method does.
        baseline: a report of another vector of the same examples on the same test items, whose
            conditions without a vector are taken over instead of being run again.
        modality: how queries show their inputs: "text" or "image"; as in extraction by default.
        demonstrations: the task with the images of the vector's own examples; needed where these
            were shown as images, for the few-shot conditions.
        seed: of demonstrations and random vectors.
        batch_tokens: tokens per forward.

    Cost: a layer sweep of the selection items (see `layer_sweep`), the last tokens of about
    10 x test short prompts from the chosen layer up, and 2 x test few-shot prompts.

    Raises:
        TvlensError: parts that overlap or are empty, a vector of another model, a baseline on
            other items, or examples with a single label, which leave nothing to shuffle.
    """
    check_vector(vector, name="vector")
    vector.check(model)
    check_runnable(model)
    for name, part in {"select": select, "test": test}.items():
        check_task(part, name=name)
    seed = as_integer(seed, name="seed", minimum=0)
    batch_tokens = as_integer(batch_tokens, name="batch_tokens", minimum=1)
    wrong = wrong_vectors(wrong, model)
    if baseline is not None and not isinstance(baseline, VectorReport):
        raise TvlensError(f"baseline must be a VectorReport, not {type(baseline).__name__}")
    _check_disjoint(vector, select, test)
    _check_labels(vector)
    made = Template.restore(vector.meta.get("template", "qa"))
    template = read_template(template) if template else made
    mode = mode or vector.mode
    check_mode(mode)

    def right(prompts: Sequence[Prompt]) -> np.ndarray:
        rows = [Row(prompt) for prompt in prompts]
        found = score(model, rows, batch_tokens=batch_tokens, progress=progress)
        return torch.stack([found.first, found.full], dim=-1).double().numpy()

    def right_under(prompts: Sequence[Prompt], writes: Sequence[tuple[int, Tensor]]) -> np.ndarray:
        found = score_writes(model, vector.site, writes, prompts, mode=mode, progress=progress)
        return found.double().numpy()

    asked = modality or vector.meta.get("query", "text")
    shots = _shots(vector, demonstrations)
    queries = zero_shot(model, template, select, asked)
    sweep = layer_sweep(model, vector, queries, mode=mode, progress=progress).double().numpy()
    means = sweep.mean(axis=0)
    layer = max(range(len(means)), key=lambda l: (means[l, 0], means[l, 1], -l))
    wrong = _wrong_vectors(model, vector, wrong, seed)
    settings = _settings(vector, select, test, wrong, template, mode, seed) | {"modality": asked}
    known = _taken_over(baseline, settings)
    outcomes = _outcomes(
        right, right_under, model, vector, layer, template, test, wrong, seed, known, asked, shots
    )
    found = {name: _condition(name, outcomes[name]) for name in outcomes} | known
    intervals = [share_interval(column) for column in sweep[:, :, 0].T]
    return VectorReport(
        task=vector.name,
        layer=layer,
        by_layer=torch.tensor(means[:, 0]),
        by_layer_interval=torch.tensor(intervals, dtype=torch.float64),
        conditions={name: found[name] for name in _CONDITIONS if name in found},
        meta=settings,
        shared_first_token=shared_first_token(
            processor_or_tokenizer(model), zero_shot(model, template, test, asked)
        ),
    )


def _outcomes(
    right: Callable,
    right_under: Callable,
    model: Any,
    vector: TaskVector,
    layer: int,
    template: Template,
    test: Task,
    wrong: Sequence[TaskVector],
    seed: int,
    known: dict[str, Condition],
    asked: str,
    shots: Sequence[Shown],
) -> dict[str, np.ndarray]:
    """Right or wrong under every condition not yet known, `[item, repeat, first/full]`."""
    queries = zero_shot(model, template, test, asked)
    written = {
        "vector": [vector.values[layer]],
        "random": random_like(
            vector.values[layer], np.random.default_rng(seed), count=_RANDOM_DRAWS
        ),
        "wrong_task": [other.values[layer] for other in wrong],
    }
    writes = [(layer, value) for values in written.values() for value in values]
    ends = np.cumsum([len(values) for values in written.values()])
    by_name = np.split(right_under(queries, writes), ends[:-1], axis=1)
    outcomes = dict(zip(written, by_name, strict=True))
    if known:
        return outcomes
    outcomes["zero_shot"] = right(queries)[:, None]
    if vector.examples:
        for name, prompts in _few_shot(model, template, vector, test, seed, asked, shots).items():
            outcomes[name] = right(prompts)[:, None]
        constant = constant_answer(
            processor_or_tokenizer(model), template, vector.examples, queries
        )
        outcomes["most_common"] = constant[:, None]
    return outcomes


def _taken_over(baseline: VectorReport | None, settings: dict) -> dict[str, Condition]:
    """The conditions of another report that no vector takes part in."""
    if baseline is None:
        return {}
    for key in ("test", "template", "seed"):
        if baseline.meta.get(key) != settings[key]:
            raise TvlensError(f"the baseline report has another {key}")
    shown = ("examples", "shots")
    if any(baseline.meta["vector"].get(k) != settings["vector"].get(k) for k in shown):
        raise TvlensError("the baseline report shows other demonstrations")
    return {n: c for n, c in baseline.conditions.items() if n in _WITHOUT_VECTOR}


def _shots(vector: TaskVector, task: Task | None) -> list[Shown]:
    """The vector's examples as demonstrations, shown as in extraction."""
    if vector.meta.get("modality", "text") == "text":
        return list(vector.examples)
    if task is None:
        raise TvlensError(
            "the vector's examples were shown as images: give demonstrations=, the task it was "
            "extracted from"
        )
    return [task.shown(pair, "image") for pair in vector.examples]


def _few_shot(
    model: Any,
    template: Template,
    vector: TaskVector,
    test: Task,
    seed: int,
    asked: str,
    examples: Sequence[Shown],
) -> dict[str, list[Prompt]]:
    """Prompts with demonstrations from the vector's own examples, labels right and shuffled."""
    shots = min(vector.meta.get("shots", 6), len(examples))
    labels = [y for _, y in examples]
    few, shuffled = [], []
    for i, pair in enumerate(test):
        x, y = test.shown(pair, asked)
        drawn = np.random.default_rng([seed, i]).choice(len(examples), shots, replace=False)
        shown = [examples[j] for j in drawn]
        few.append(build(processor_or_tokenizer(model), template, shown, x, y))
        mixed = shuffled_labels(shown, labels=labels, seed=seed + i)
        shuffled.append(build(processor_or_tokenizer(model), template, mixed, x, y))
    return {"few_shot": few, "shuffled_labels": shuffled}


def _wrong_vectors(
    model: Any, vector: TaskVector, wrong: TaskVector | Sequence[TaskVector] | None, seed: int
) -> list[TaskVector]:
    if isinstance(wrong, TaskVector):
        return [wrong]
    if wrong:
        return list(wrong)
    options = {
        k: vector.meta[k] for k in ("method", "template", "shots", "contexts") if k in vector.meta
    }
    # A sum or a difference was not extracted by a method: its controls are plain states.
    if options.get("method") not in METHODS:
        options["method"] = "state"
    others = [
        Task.load(name) for name in ("country-capital", "antonym", "lower-upper", "animal-class")
    ]
    others = [t for t in others if t.kind != vector.meta.get("kind") and t.name != vector.name]
    return [
        extract(model, task.split(seed=seed)[0], site=vector.site, seed=seed, **options)
        for task in others[:2]
    ]


def _condition(name: str, right: np.ndarray) -> Condition:
    """Summarise [item, repeat, first/full]; items are what varies independently."""
    per_item = right.mean(axis=1)
    first, full = per_item[:, 0], per_item[:, 1]
    return Condition(
        name,
        float(first.mean()),
        share_interval(first),
        float(full.mean()),
        share_interval(full),
        int(right.shape[0] * right.shape[1]),
    )


def _check_disjoint(vector: TaskVector, select: Task, test: Task) -> None:
    parts = {
        "the vector's examples": {x for x, _ in vector.examples},
        "select": {x for x, _ in select},
        "test": {x for x, _ in test},
    }
    names = list(parts)
    tasks: tuple[Iterable[Pair], ...] = (vector.examples, select, test)
    alike = {
        name: {(normalize(x), normalize(y)): x for x, y in pairs}
        for name, pairs in zip(names, tasks, strict=True)
    }
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            shared = parts[one] & parts[other]
            # "Cat" to "cats" is the pair "cat" to "cats" again.
            shared |= {alike[other][pair] for pair in alike[one].keys() & alike[other].keys()}
            if shared:
                raise TvlensError(
                    f"{one} and {other} share {len(shared)} inputs, such as {min(shared)!r}: "
                    "use the three parts of task.split()"
                )


def _check_labels(vector: TaskVector) -> None:
    labels = {y for _, y in vector.examples}
    if len(labels) == 1 and vector.meta.get("shots", 6):
        raise TvlensError(
            f"all examples of {vector.name or 'the vector'} have the label {min(labels)!r}: there "
            "is no task to tell from a constant, and labels cannot be shuffled; give two labels"
        )


def _settings(
    vector: TaskVector,
    select: Task,
    test: Task,
    wrong: Sequence[TaskVector],
    template: Template,
    mode: Mode,
    seed: int,
) -> dict:
    return {
        "vector": vector.meta,
        "site": vector.site,
        "template": template.demonstration,
        "mode": mode,
        "seed": seed,
        "select": [list(pair) for pair in select],
        "test": [list(pair) for pair in test],
        "wrong_tasks": [other.name for other in wrong],
        "random_draws": _RANDOM_DRAWS,
    }
