"""`evaluate`: choose the layer on one part, and score the vector and its controls on another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ..deprecation import warn_renamed
from ..errors import TvlensError
from ..integers import as_integer
from ..models import processor_or_tokenizer
from ..models.forward import check_runnable
from ..stats import share_interval
from ..tasks import Modality, Pair, Prompt, Shown, Task, Template, build, shuffled_labels
from ..tasks.task import normalize
from .checks import as_vector_list, check_task, check_vector, read_template
from .conditions import (
    build_zero_shot,
    draw_random_like,
    find_shared_first_token,
    score_constant_answer,
)
from .extraction import METHODS, extract
from .report import Condition, VectorReport
from .scoring import Row, layer_sweep, score, score_writes
from .vector import Mode, TaskVector, read_mode

# Number of random directions in the random control.
_RANDOM_DRAWS = 5

# The order in which reports show their conditions.
_CONDITIONS = ("zero_shot", "vector", "few_shot", "random", "wrong_task")
_CONDITIONS += ("shuffled_labels", "most_common")
_WITHOUT_VECTOR = ("zero_shot", "few_shot", "shuffled_labels", "most_common")


def evaluate(
    model: Any,
    vector: TaskVector,
    *,
    validation: Task | None = None,
    test: Task,
    wrong: TaskVector | Sequence[TaskVector] | None = None,
    template: str | Template | None = None,
    mode: Mode | None = None,
    baseline: VectorReport | None = None,
    modality: Modality | None = None,
    demonstrations: Task | None = None,
    seed: int = 0,
    batch_tokens: int = 512,
    progress: bool | None = None,
    select: Task | None = None,
) -> VectorReport:
    """Apply the vector to zero-shot prompts: choose the layer on `validation`, score on `test`.

    Args:
        model: the model the vector comes from.
        validation: items on which the layer is chosen (highest first-token accuracy; ties go to the
            higher full-answer accuracy, then to the earlier layer).
        test: items scored once, at that layer.
        wrong: vectors of other tasks; by default two catalogue tasks of other kinds, extracted
            the same way.
        template: as in `extract`; the vector's own by default.
        mode: "replace", "add" or "add_preserving_norm"; by default that of the vector's method.
        baseline: a report of another vector of the same examples on the same test items, whose
            conditions without a vector are taken over instead of being run again.
        modality: modality of the queries, "text" or "image"; by default as in extraction.
        demonstrations: the task with the images of the vector's own examples; needed where these
            were shown as images, for the few-shot conditions.
        seed: seed of demonstrations and random vectors.
        batch_tokens: tokens per forward.
        progress: whether to show a progress bar; by default on a terminal.
        select: deprecated name of `validation`.

    Cost: a layer sweep of the validation items (see `layer_sweep`), the last tokens of about
    10 x test short prompts from the chosen layer up, and 2 x test few-shot prompts.

    Raises:
        TvlensError: parts that overlap or are empty, a vector of another model, a baseline on
            other items, or examples with a single label, which leave nothing to shuffle.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> task = tv.Task.load("singular-plural").subset(range(30))
        >>> train, validation, test = task.split(seed=0)
        >>> vector = tv.extract(model, train, shots=2, contexts=4)
        >>> report = tv.evaluate(model, vector, validation=validation, test=test)
        >>> 0 <= report.interval[0] <= report.accuracy <= report.interval[1] <= 1
        True
        >>> sorted(report.controls)
        ['most_common', 'random', 'shuffled_labels', 'wrong_task']
    """
    check_vector(vector, name="vector")
    vector.check(model)
    check_runnable(model)
    if select is not None:
        warn_renamed("evaluate(select=)", "evaluate(validation=)")
        validation = select if validation is None else validation
    for name, part in {"validation": validation, "test": test}.items():
        check_task(part, name=name)
    wrong = as_vector_list(wrong, model)
    if baseline is not None and not isinstance(baseline, VectorReport):
        raise TvlensError(f"baseline must be a VectorReport, not {type(baseline).__name__}")
    _check_disjoint(vector, validation, test)
    _check_labels(vector)
    evaluation = _Evaluation(
        model,
        vector,
        template=read_template(template or Template.restore(vector.meta.get("template", "qa"))),
        mode=read_mode(mode or vector.mode),
        modality=modality or vector.meta.get("query", "text"),
        demonstrations=_build_demonstrations(vector, demonstrations),
        seed=as_integer(seed, name="seed", minimum=0),
        batch_tokens=as_integer(batch_tokens, name="batch_tokens", minimum=1),
        progress=progress,
    )
    return evaluation.report(validation, test, wrong, baseline)


@dataclass(frozen=True, kw_only=True)
class _Evaluation:
    """A vector with the settings of its evaluation.

    Attributes:
        modality: modality of the queries.
        demonstrations: the vector's examples, as shown in few-shot prompts.
    """

    model: Any = field(kw_only=False)
    vector: TaskVector = field(kw_only=False)
    template: Template
    mode: Mode
    modality: Modality
    demonstrations: Sequence[Shown]
    seed: int
    batch_tokens: int
    progress: bool | None

    def report(
        self,
        validation: Task,
        test: Task,
        wrong: Sequence[TaskVector] | None,
        baseline: VectorReport | None,
    ) -> VectorReport:
        """Choose the layer on the validation part, and score all conditions on the test part."""
        sweep = self.sweep_layers(validation)
        by_layer = sweep.mean(axis=0)
        layer = max(range(len(by_layer)), key=lambda l: (by_layer[l, 0], by_layer[l, 1], -l))
        wrong = _extract_wrong_vectors(self.model, self.vector, wrong, self.seed)
        settings = self.settings(validation, test, wrong)
        reused = _select_reused_conditions(baseline, settings)
        correct = self.score_vectors(layer, test, wrong)
        if not reused:
            correct |= self.score_baselines(test)
        conditions = {name: _summarize_condition(name, correct[name]) for name in correct} | reused
        intervals = [share_interval(column) for column in sweep[:, :, 0].T]
        return VectorReport(
            task=self.vector.name,
            layer=layer,
            by_layer=torch.tensor(by_layer[:, 0]),
            by_layer_interval=torch.tensor(intervals, dtype=torch.float64),
            conditions={name: conditions[name] for name in _CONDITIONS if name in conditions},
            meta=settings,
            shared_first_token=find_shared_first_token(
                processor_or_tokenizer(self.model), self.queries(test)
            ),
        )

    def queries(self, task: Task) -> list[Prompt]:
        """Build the zero-shot prompt of every item."""
        return build_zero_shot(self.model, self.template, task, self.modality)

    def sweep_layers(self, task: Task) -> Float[np.ndarray, "item layer first_full"]:
        """Score the answers with the vector applied at each layer."""
        options = dict(mode=self.mode, progress=self.progress)
        sweep = layer_sweep(self.model, self.vector, self.queries(task), **options)
        return sweep.double().numpy()

    def score_vectors(
        self, layer: int, test: Task, wrong: Sequence[TaskVector]
    ) -> dict[str, Float[np.ndarray, "item vector first_full"]]:
        """Score the vector, random vectors and vectors of other tasks."""
        vector = self.vector.values[layer]
        rng = np.random.default_rng(self.seed)
        vectors = {
            "vector": [vector],
            "random": draw_random_like(vector, rng, count=_RANDOM_DRAWS),
            "wrong_task": [other.values[layer] for other in wrong],
        }
        writes = [(layer, value) for values in vectors.values() for value in values]
        options = dict(mode=self.mode, progress=self.progress)
        correct = score_writes(self.model, self.vector.site, writes, self.queries(test), **options)
        ends = np.cumsum([len(values) for values in vectors.values()])
        parts = np.split(correct.double().numpy(), ends[:-1], axis=1)
        return dict(zip(vectors, parts, strict=True))

    def score_baselines(self, test: Task) -> dict[str, Float[np.ndarray, "item 1 first_full"]]:
        """Score the conditions without a vector: zero-shot, few-shot, shuffled labels, constant."""
        queries = self.queries(test)
        prompts = {"zero_shot": queries}
        if self.vector.examples:
            prompts |= self._few_shot(test)
        correct = {name: self._score(rows)[:, None] for name, rows in prompts.items()}
        if self.vector.examples:
            reader = processor_or_tokenizer(self.model)
            constant = score_constant_answer(reader, self.template, self.vector.examples, queries)
            correct["most_common"] = constant[:, None]
        return correct

    def settings(self, validation: Task, test: Task, wrong: Sequence[TaskVector]) -> dict:
        """Build the settings that a report records."""
        return {
            "vector": self.vector.meta,
            "site": self.vector.site,
            "template": self.template.demonstration,
            "mode": self.mode,
            "seed": self.seed,
            "validation": [list(pair) for pair in validation],
            "test": [list(pair) for pair in test],
            "wrong_tasks": [other.name for other in wrong],
            "random_draws": _RANDOM_DRAWS,
            "modality": self.modality,
        }

    def _score(self, prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompt first_full"]:
        rows = [Row(prompt) for prompt in prompts]
        options = dict(batch_tokens=self.batch_tokens, progress=self.progress)
        scores = score(self.model, rows, **options)
        return torch.stack([scores.first, scores.full], dim=-1).double().numpy()

    def _few_shot(self, test: Task) -> dict[str, list[Prompt]]:
        """Build few-shot prompts of the vector's examples, with right and with shuffled labels."""
        examples = self.demonstrations
        shots = min(self.vector.meta.get("shots", 6), len(examples))
        labels = [y for _, y in examples]
        reader = processor_or_tokenizer(self.model)
        few, shuffled = [], []
        for i, pair in enumerate(test):
            x, y = test.shown(pair, self.modality)
            rng = np.random.default_rng([self.seed, i])
            chosen = [examples[j] for j in rng.choice(len(examples), shots, replace=False)]
            few.append(build(reader, self.template, chosen, x, y))
            mislabelled = shuffled_labels(chosen, labels=labels, seed=self.seed + i)
            shuffled.append(build(reader, self.template, mislabelled, x, y))
        return {"few_shot": few, "shuffled_labels": shuffled}


def _select_reused_conditions(
    baseline: VectorReport | None, settings: dict
) -> dict[str, Condition]:
    """Select the conditions of another report that do not depend on its vector."""
    if baseline is None:
        return {}
    for key in ("test", "template", "seed"):
        if baseline.meta.get(key) != settings[key]:
            raise TvlensError(f"the baseline report has another {key}")
    keys = ("examples", "shots")
    if any(baseline.meta["vector"].get(k) != settings["vector"].get(k) for k in keys):
        raise TvlensError("the baseline report shows other demonstrations")
    return {n: c for n, c in baseline.conditions.items() if n in _WITHOUT_VECTOR}


def _build_demonstrations(vector: TaskVector, task: Task | None) -> list[Shown]:
    """Convert the vector's examples to demonstrations, with inputs as in extraction."""
    if vector.meta.get("modality", "text") == "text":
        return list(vector.examples)
    if task is None:
        raise TvlensError(
            "the vector's examples were shown as images: give demonstrations=, the task it was "
            "extracted from"
        )
    return [task.shown(pair, "image") for pair in vector.examples]


def _extract_wrong_vectors(
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


def _summarize_condition(name: str, right: np.ndarray) -> Condition:
    """Summarize [item, repeat, first/full]; intervals are over items."""
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


def _check_disjoint(vector: TaskVector, validation: Task, test: Task) -> None:
    parts = {
        "the vector's examples": {x for x, _ in vector.examples},
        "validation": {x for x, _ in validation},
        "test": {x for x, _ in test},
    }
    names = list(parts)
    tasks: tuple[Iterable[Pair], ...] = (vector.examples, validation, test)
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
            f"all examples of {vector.name or 'the vector'} have the label {min(labels)!r}: the "
            "task equals a constant, and labels cannot be shuffled; give examples of two labels"
        )
