"""Where vectors come from: examples in words, in pictures, an instruction, and their means."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...file_names import file_name
from ...models import processor_or_tokenizer
from ...tasks import Prompt, Task, Template, build, shuffled_labels
from ...vectors import TaskVector, extract
from ..cache import cached

# Sources whose layer is chosen; the others are written where texts' vectors are.
CHOSEN = ("text", "image", "instruction", "ensemble")


@dataclass(frozen=True)
class Draws:
    """How vectors are extracted.

    Attributes:
        shots: demonstrations a context.
        sets, contexts: a vector is the mean of so many sets of so many contexts each.
        template, seed: as in `extract`.
    """

    shots: int
    sets: int
    contexts: int
    template: str
    seed: int


def vectors_of(
    model: Any,
    train: Task,
    draws: Draws,
    *,
    language_model: Any = None,
    folder: Path | None = None,
) -> dict[str, TaskVector]:
    """A task's vectors by source, and the vectors of single sets as "text 0", "image 0", ...

    "ensemble" is the mean of examples and instruction, "one set" the first set of words,
    "shuffled" comes from words with others' labels, "language model" from another model's words.
    """
    form = Template.restore(draws.template)
    options = {"shots": draws.shots, "contexts": draws.contexts, "template": form}

    def made(
        source: str, number: int = 0, task: Task = train, origin: Any = model, **more: Any
    ) -> TaskVector:
        asked = options | {"seed": 100 * draws.seed + number} | more
        name = f"{file_name(task.name)}-{source}-{asked['seed']}.safetensors"
        return cached(
            None if folder is None else folder / "vectors" / name,
            {"model": origin, "task": task, **asked},
            lambda: extract(origin, task, **asked),
            load=TaskVector.load,
        )

    def mean(source: str, **more: Any) -> TaskVector:
        return TaskVector.average([made(source, i, **more) for i in range(draws.sets)])

    found = {
        f"{modality} {i}": made(modality, i, modality=modality)
        for modality in ("text", "image")
        for i in range(draws.sets)
    }
    for modality in ("text", "image"):
        sets = [found[f"{modality} {i}"] for i in range(draws.sets)]
        found[modality] = TaskVector.average(sets)
    found["one set"] = found["text 0"]
    found["shuffled"] = mean("shuffled", task=_mislabelled(train, draws.seed))
    if train.instruction:
        found["instruction"] = made("instruction", method="instruction")
        found["ensemble"] = TaskVector.average([found["text"], found["instruction"]])
    if language_model is not None:
        found["language model"] = mean("language-model", origin=language_model)
    return found


def few_shot(
    model: Any,
    draws: Draws,
    train: Task,
    test: Task,
    *,
    shown: str,
    asked: str,
    shuffle: bool = False,
) -> list[Prompt]:
    """Every test item behind demonstrations of a modality, drawn for it from `train`."""
    form = Template.restore(draws.template)
    examples = _mislabelled(train, draws.seed) if shuffle else train
    prompts = []
    for i, pair in enumerate(test):
        drawn = np.random.default_rng([draws.seed, i]).choice(len(train), draws.shots, False)
        before = [examples.shown(examples.pairs[j], shown) for j in drawn]
        prompts.append(build(processor_or_tokenizer(model), form, before, *test.shown(pair, asked)))
    return prompts


def _mislabelled(train: Task, seed: int) -> Task:
    """The same inputs with others' labels, none with its right one.

    Raises:
        TvlensError: a single label.
    """
    order = np.random.default_rng(seed).permutation(len(train))
    giver = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    pairs = tuple((x, train.pairs[giver[i]][1]) for i, (x, _) in enumerate(train))
    if any(a == b for a, b in zip(pairs, train, strict=True)):
        labels = [y for _, y in train]
        pairs = tuple(shuffled_labels(train.pairs, labels=labels, seed=seed))
    return replace(train, pairs=pairs)


def others(
    vectors: Mapping[str, Mapping[str, TaskVector]], name: str, source: str
) -> list[TaskVector]:
    """Vectors of the same source of up to four other tasks, of other kinds where there are any."""
    kind = vectors[name][source].meta["kind"]
    rest = [v[source] for n, v in vectors.items() if n != name and source in v]
    foreign = [v for v in rest if v.meta["kind"] != kind]
    return (foreign or rest)[:4]
