"""The study of activation patching on a task or on pairs of texts."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import viz
from ..errors import TvlensError
from ..files import check_folder
from ..folder_lock import one_writer
from ..integers import as_integers, is_integer
from ..patching import PatchResult, log_probability, logit_difference, patch, probability
from ..patching.grid import Choice
from ..patching.metrics import Metric, one_token
from ..sites import Site, SiteName, parse_site
from ..tasks import Task, Template, build, contexts, plain, shuffled_labels
from ..vectors.extraction import provenance
from .claims import VERDICT_RULE, Claim, claims_table
from .report import StudyReport, build_page, settings_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Pairs:
    """Prompts to patch between.

    Attributes:
        clean, corrupted: token ids of the prompts patched from and into.
        metric: the metric.
        measure: description of the metric.
        settings: settings of the prompts, as JSON.
    """

    clean: list[list[int]]
    corrupted: list[list[int]]
    metric: Metric
    measure: str
    settings: dict


@dataclass(frozen=True)
class PatchStudy(StudyReport):
    """A sweep of patches.

    Attributes:
        result: effect of every patch.
        pairs: the prompts.
        settings: all that is needed to run the study again.
    """

    result: PatchResult
    pairs: Pairs
    settings: dict

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per patch: coordinates, effect, interval, p-value."""
        return self.result.to_dataframe()

    @property
    def claims(self) -> list[Claim]:
        """Claim that the largest of all effects differs from zero."""
        (top,) = self.result.top(1).to_dict(orient="records")
        return [
            Claim(
                id="largest-effect",
                statement="The largest effect differs from zero (not corrected for selection).",
                value=top["effect"],
                interval=None if math.isnan(top["low"]) else (top["low"], top["high"]),
                side="above" if top["effect"] >= 0 else "below",
                nulls={"no effect": 0.0},
                where={"site": str(self.result.site)} | {k: top[k] for k in self.result.axes},
            )
        ]

    def numbers(self) -> dict[str, Any]:
        """Coordinates, effect, interval and p-value of every patch, as plain data."""
        frame = self.to_dataframe()
        # JSON has no NaN, which is the interval of a single prompt.
        rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
        return {"patches": rows}

    def save(self, folder: str | os.PathLike) -> Path:
        """Write the values, `report.json` and `index.html` into a folder; returns the page."""
        self.result.save(Path(folder) / "patches.safetensors")
        return super().save(folder)


@build_page.register(PatchStudy)
def patching_page(study: PatchStudy) -> viz.Page:
    """Build the page: the map of effects, and the largest of them."""
    sections = [
        viz.Section("Where it matters", _MAP, [study.result.figure()]),
        viz.Section("The largest effects", _TABLE, [viz.table(_top_rows(study.result))]),
        viz.Section("Claims", VERDICT_RULE, [claims_table(study.claims)]),
    ]
    title = f"Patching {study.result.site} in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_MAP = (
    "One activation of the clean run is put into the corrupted run, and the model goes on from "
    "there, exactly. The effect is how much the metric moves, averaged over prompts."
)
_TABLE = (
    "Brackets are 95% t intervals over prompts; p-values are sign-flip permutation tests, "
    "not corrected for the number of patches."
)


def from_task(
    model: Any,
    task: Task,
    *,
    template: str | Template = "qa",
    shots: int = 6,
    count: int = 10,
    seed: int = 0,
) -> Pairs:
    """Build few-shot prompts of a task, corrupted by shuffled labels of the demonstrations."""
    template = Template.of(template)
    clean, corrupted, answers, outputs = [], [], [], set()
    labels = [y for _, y in task]
    draws = contexts(task, shots=shots, count=count, seed=seed)
    for i, (demonstrations, query) in enumerate(draws):
        prompt = build(model.tokenizer, template, demonstrations, *query)
        mixed = shuffled_labels(demonstrations, labels=labels, seed=i)
        clean.append(list(prompt.tokens))
        corrupted.append(list(build(model.tokenizer, template, mixed, *query).tokens))
        answers.append(prompt.answer[0])
        outputs.add(query[1])
    if len(outputs) > 1 and len(set(answers)) == 1:
        raise TvlensError(
            f"all {len(outputs)} different answers begin with the same token "
            f"{model.tokenizer.decode(answers[:1])!r}, which does not depend on the task: give "
            "another template, such as one with a line end before {y}, or more prompts"
        )
    settings = {"task": task.name, "template": template.demonstration, "shots": shots}
    return Pairs(
        clean,
        corrupted,
        probability(answers),
        "the probability of the answer's first token, from prompts with right labels into the "
        "same prompts with shuffled ones",
        settings | {"count": count, "seed": seed},
    )


def from_texts(
    model: Any,
    clean: Sequence[str],
    corrupted: Sequence[str],
    *,
    right: str,
    wrong: str | None = None,
) -> Pairs:
    """Build pairs from texts and the tokens that should follow.

    Args:
        wrong: measure the logit difference to this token; by default the log-probability of
            `right`.
    """
    token = one_token(model.tokenizer, right)
    if wrong is None:
        metric, measure = log_probability(token), f"the log-probability of {right!r}"
    else:
        metric = logit_difference(token, one_token(model.tokenizer, wrong))
        measure = f"the logit of {right!r} less that of {wrong!r}"
    sides = [[plain(model.tokenizer, text) for text in side] for side in (clean, corrupted)]
    settings = {"clean": list(clean), "corrupted": list(corrupted), "right": right, "wrong": wrong}
    clean_prompts, corrupted_prompts = sides
    return Pairs(clean_prompts, corrupted_prompts, metric, measure, settings)


@one_writer
def run(
    model: Any,
    pairs: Pairs,
    *,
    site: SiteName | str | Site = "z",
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Choice = -1,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> PatchStudy:
    """Patch exactly over layers, heads and positions; arguments as in `patch`."""
    choice = dict(layers=layers, heads=heads, positions=positions)
    if folder is not None:
        check_folder(folder)
    result = patch(
        model,
        pairs.clean,
        pairs.corrupted,
        site=site,
        metric=pairs.metric,
        seed=seed,
        progress=progress,
        **choice,
    )
    settings = provenance(model) | {"site": _site_name(site)} | pairs.settings
    settings |= {name: _as_plain(value, name) for name, value in choice.items()}
    study = PatchStudy(result, pairs, settings)
    if folder is not None:
        study.save(folder)
    return study


def _as_plain(choice: Choice, name: str) -> str | int | list[int] | None:
    """Convert layers, heads or positions to JSON values."""
    if choice is None or isinstance(choice, str):
        return choice
    numbers = as_integers(choice, name=name)
    return numbers[0] if is_integer(choice) else numbers


def _site_name(site: str | Site) -> str:
    """Return the name of a site in results, with its layer if it has one."""
    name, layer = parse_site(site)
    return name if layer is None else f"{name}.{layer}"


def _top_rows(result: PatchResult, k: int = 12) -> list[dict[str, object]]:
    rows = []
    for row in result.top(k).to_dict(orient="records"):
        where = {axis: row[axis] for axis in result.axes}
        columns = {"effect": row["effect"], "95%": _format_interval(row)}
        rows.append(where | columns | {"p": row["p_value"]})
    return rows


def _format_interval(row: Mapping[str, Any]) -> str:
    """Format the interval in brackets; a single prompt has none."""
    if math.isnan(row["low"]):
        return "[one prompt: no interval]"
    return f"[{row['low']:.3f}, {row['high']:.3f}]"


def _summary(study: PatchStudy) -> list[str]:
    result = study.result
    first = result.top(1).to_dict(orient="records")[0]
    where = ", ".join(f"{axis} {first[axis]}" for axis in result.axes) or "the one patch"
    base, clean = float(result.baseline.mean()), float(result.clean.mean())
    lines = [
        f"Question: which {result.site} changes {study.pairs.measure}?",
        f"Result: {where} changes it most, by {first['effect']:.3f} {_format_interval(first)}; "
        f"it is {base:.3f} in the corrupted and {clean:.3f} in the clean run.",
    ]
    count = result.values.shape[-1]
    lines.append(
        f"Basis: {result.effect.numel()} patches, each equal to a full forward pass, on "
        f"{count} prompt{'s' * (count > 1)}. "
    )
    if count < 6:
        lines[-1] += "With so few prompts, intervals and p-values say little."
    return lines
