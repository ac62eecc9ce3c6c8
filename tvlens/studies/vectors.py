"""Where does a model keep its tasks? Task vectors of several tasks, one page, one JSON."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from .. import viz
from ..activations import collect
from ..errors import TvlensError
from ..file_names import file_name
from ..files import check_folder
from ..folder_lock import one_writer
from ..models.forward import check_causal
from ..models.loading import model_name
from ..tasks import Prompt, Task, Template, build, contexts
from ..vectors import TaskVector, VectorReport, evaluate, extract, top_tokens
from .kept import content_key, kept_report
from .reported import Reported

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class VectorStudy(Reported):
    """Vectors of several tasks in one model, and what each is good for.

    Attributes:
        vectors, reports: by task name.
        layer: the layer at which tasks are compared: the median of the chosen ones.
        cosines: between the tasks' vectors at that layer.
        states: residual states of single contexts at that layer, by task, `[context, d_model]`.
        written: by task, the tokens each layer's vector alone makes likely.
        prompt: a real few-shot prompt of the first task, for the pictures of tokens.
        alignment: cosine of each of its tokens' states with the first task's vector, both less
            the mean state of the prompt.
        heads: the heads that look most from its last token at its labels, (layer, head, share).
        patterns: their attention patterns, `[head, destination, source]`.
        settings: everything needed to run it again.
    """

    vectors: dict[str, TaskVector]
    reports: dict[str, VectorReport]
    layer: int
    cosines: Float[Tensor, "task task"]
    states: dict[str, Float[Tensor, "context d_model"]]
    written: dict[str, list[list[tuple[str, float]]]]
    prompt: list[str]
    alignment: Float[Tensor, " pos"]
    heads: list[tuple[int, int, float]]
    patterns: Float[Tensor, "head pos pos"]
    settings: dict

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per task and condition."""
        import pandas as pd

        return pd.concat([r.to_dataframe() for r in self.reports.values()], ignore_index=True)

    def page(self) -> viz.Page:
        """The report page."""
        from .vectors_page import page

        return page(self)

    def to_json(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        return {
            "settings": self.settings,
            "layer": self.layer,
            "tasks": {name: report.to_json() for name, report in self.reports.items()},
            "cosines": {"tasks": list(self.vectors), "values": self.cosines.tolist()},
            "written": self.written,
        }


@one_writer
def run(
    model: Any,
    tasks: Sequence[str | Task],
    *,
    method: str = "state",
    template: str | Template = "qa",
    shots: int = 6,
    contexts: int = 20,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> VectorStudy:
    """Extract, evaluate and compare the vectors of several tasks.

    Args:
        model: any causal model with a tokenizer that `load` gives.
        tasks: catalogue names, files, or tasks.
        folder: where finished tasks are kept, so that an interrupted run goes on from there, and
            where the page and the JSON are written.
        method, template, shots, contexts, seed: as in `extract`.

    Raises:
        TvlensError: unknown names, too small tasks, too long prompts.
    """
    check_causal(model)
    chosen = [task if isinstance(task, Task) else Task.load(task) for task in tasks]
    if not chosen:
        raise TvlensError("no task to study")
    options = {"method": method, "shots": shots, "contexts": contexts, "seed": seed}
    form = Template.of(template)
    options["template"] = form.demonstration
    parts = {task.name: task.split(seed=seed) for task in chosen}
    if len(parts) < len(chosen):
        raise TvlensError("two tasks have the same name")
    if folder is not None:
        check_folder(folder)

    vectors = {}
    for name, (train, _, _) in tqdm(parts.items(), "extracting", disable=not progress):
        vectors[name] = extract(model, train, **options | {"template": form})
    reports = {}
    for name, (_, select, test) in tqdm(parts.items(), "evaluating", disable=not progress):
        reports[name] = _evaluated(model, vectors, name, select, test, seed, folder)

    layer = int(torch.tensor([r.layer for r in reports.values()]).median())
    at_layer = torch.stack([v.values[layer] for v in vectors.values()])
    unit = torch.nn.functional.normalize(at_layer, dim=-1)
    states = {name: _states(model, vectors[name], part[0], layer) for name, part in parts.items()}
    first = next(iter(vectors.values()))
    study = VectorStudy(
        vectors,
        reports,
        layer,
        unit @ unit.T,
        states,
        {name: top_tokens(model, vector, k=6) for name, vector in vectors.items()},
        *_reading(model, first, parts[first.name], layer),
        settings=options
        | {"model": model_name(model), "tasks": list(parts)}
        | {k: first.meta[k] for k in ("processed", "dtype", "revision", "versions")},
    )
    if folder is not None:
        for name, vector in vectors.items():
            vector.save(Path(folder) / f"{file_name(name)}.safetensors")
        study.save(folder)
    return study


def _evaluated(
    model: Any,
    vectors: dict[str, TaskVector],
    name: str,
    select: Task,
    test: Task,
    seed: int,
    folder: str | os.PathLike | None,
) -> VectorReport:
    """The report of one task: from the folder, where it was made from the same content."""
    vector = vectors[name]
    wrong = [v for v in vectors.values() if v.meta["kind"] != vector.meta["kind"]][:4] or None
    file = None if folder is None else Path(folder) / f"{file_name(name)}.json"
    options = dict(select=select, test=test, wrong=wrong, seed=seed)

    def key() -> str:
        return content_key("report", model=model, vector=vector, **options)

    return kept_report(file, key, lambda: evaluate(model, vector, **options))


def _states(
    model: Any, vector: TaskVector, train: Task, layer: int
) -> Float[Tensor, "context d_model"]:
    """States of the single contexts whose mean the vector is."""
    prompts = [p.tokens for p in _prompts(model, vector, train, vector.meta["contexts"])]
    found = collect(model, prompts, vector.site, layers=layer, positions=-1, progress=False)
    return found.stack(vector.site)[0, :, 0]


def _prompts(model: Any, vector: TaskVector, train: Task, count: int) -> list[Prompt]:
    meta = vector.meta
    drawn = contexts(train, shots=meta["shots"], count=count, seed=meta["seed"])
    template = Template.restore(meta["template"])
    return [build(model.tokenizer, template, shown, query) for shown, (query, _) in drawn]


def _reading(
    model: Any, vector: TaskVector, parts: tuple[Task, Task, Task], layer: int, *, show: int = 8
) -> tuple[list[str], Tensor, list[tuple[int, int, float]], Tensor]:
    """One real prompt: its tokens, their alignment with the vector, and the heads that read it."""
    (prompt,) = _prompts(model, vector, parts[0], 1)
    found = collect(model, [prompt.tokens], ["resid_post", "pattern"], progress=False)
    resid = found.stack("resid_post")[layer, 0]
    centre = resid.mean(0, keepdim=True)
    toward = vector.values[layer][None].to(resid) - centre
    alignment = torch.cosine_similarity(resid - centre, toward, dim=-1)
    patterns = found.stack("pattern")[: layer + 1, 0]
    patterns = rearrange(patterns, "layer query head key -> layer head query key")
    on_labels = sum(patterns[:, :, -1, a:b].sum(-1) for a, b in prompt.labels)
    share, flat = on_labels.flatten().topk(min(show, on_labels.numel()))
    width = patterns.shape[1]
    heads = [(int(i) // width, int(i) % width, float(s)) for i, s in zip(flat, share, strict=True)]
    tokens = [model.tokenizer.decode([token]) for token in prompt.tokens]
    return tokens, alignment, heads, torch.stack([patterns[l, h] for l, h, _ in heads])
