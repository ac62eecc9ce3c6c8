"""Does a task move from words to pictures? Every condition of the paper, on one model."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor

from ...errors import TvlensError, unknown
from ...files import check_folder
from ...folder_lock import one_writer
from ...models import model_name, processor_or_tokenizer
from ...patching import PatchResult
from ...tasks import Prompt, Task, Template
from ...vectors.extraction import provenance
from ...vectors.logit_lens import Phases
from ...viz import Page
from ..report import StudyReport
from .claims import Claim, claims
from .conditions import MODALITIES
from .conflicts import Conflict, conflicts
from .image_tasks import ALL, SIX, pictured
from .readings import gallery_of, heads_of, phases_of, reading_of
from .result import Share, TaskResult, mean_by_layer, summarised
from .seeded import Seeded, seeded
from .shape import Shape, shape
from .sources import Draws

if TYPE_CHECKING:
    import pandas


class Preset(NamedTuple):
    """How much is done.

    Attributes:
        tasks: asked where none are given.
        seeds: how many.
        selected, tested: the most items of the selection and of the test part.
        sets, contexts: a vector is the mean of so many sets of so many contexts each.
    """

    tasks: tuple[str, ...]
    seeds: int
    selected: int
    tested: int
    sets: int
    contexts: int


PresetName = Literal["quick", "six", "full"]
PRESETS: dict[PresetName, Preset] = {
    "quick": Preset(SIX[:3], 1, 6, 16, 2, 4),
    "six": Preset(SIX, 1, 16, 40, 3, 4),
    "full": Preset(ALL, 3, 20, 60, 4, 5),
}


@dataclass(frozen=True)
class CrossModalStudy(StudyReport):
    """One model's tasks in words and pictures.

    Attributes:
        tasks: results by task.
        layers: where vectors are written, by "source to query": best on the selection parts, the
            mean over tasks; of the first seed.
        conflicts: what prompts ask against what vectors carry.
        shape: all vectors together; None for a single task.
        phases: by modality of the demonstrations and the query.
        heads: patching of every head's output, from few-shot words into a bare picture.
        prompt: a few-shot prompt with pictures; `words` are its tokens as texts.
        alignment: cosine of each token's state with the words' vector, both less the mean state.
        gallery: by task, inputs and their pictures' PNG files.
        settings: everything needed to run it again.
    """

    tasks: dict[str, TaskResult]
    layers: dict[str, int]
    conflicts: list[Conflict]
    shape: Shape | None
    phases: dict[str, Phases]
    heads: PatchResult
    prompt: Prompt
    words: list[str]
    alignment: Float[Tensor, " pos"]
    gallery: dict[str, list[tuple[str, bytes]]]
    settings: dict

    def __repr__(self) -> str:
        able = [t.name for t in self.tasks.values() if t.able]
        verdicts = [claim.verdict for claim in self.claims()]
        return (
            f"CrossModalStudy({len(self.tasks)} tasks, {len(able)} of them done in words; "
            f"{verdicts.count('holds')} of {len(verdicts)} claims hold)"
        )

    def claims(self) -> list[Claim]:  # type: ignore[override]
        """What the paper claims, beside what was found here."""
        return claims(self)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per task, query and condition: accuracies with intervals."""
        import pandas as pd

        return pd.DataFrame(
            {"task": name, "able": task.able, "query": asked, "condition": condition}
            | {measure: share.value[measure] for measure in share.value}
            | {"low": share.low["first"], "high": share.high["first"], "n": share.count}
            for name, task in self.tasks.items()
            for asked, shares in task.shares.items()
            for condition, share in shares.items()
        )

    def page(self) -> Page:
        """The report page."""
        from .page import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        return {
            "settings": self.settings,
            "claims": [claim._asdict() for claim in self.claims()],
            "layers": self.layers,
            "tasks": {name: task.to_json() for name, task in self.tasks.items()},
            "conflicts": [conflict._asdict() for conflict in self.conflicts],
            "shape": None if self.shape is None else self.shape.to_json(),
            "phases": {
                name: dict(zip(found.groups, found.mean.tolist(), strict=True))
                for name, found in self.phases.items()
            },
            "heads": self.heads.effect.tolist(),
        }


@one_writer
def run(
    model: Any,
    tasks: Sequence[str | Task] | None = None,
    *,
    preset: PresetName | Preset = "quick",
    language_model: Any = None,
    template: str | Template = "qa",
    shots: int = 5,
    artist: str | None = None,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool = True,
) -> CrossModalStudy:
    """Extract vectors from words and pictures, and write each into queries of the other.

    Args:
        model: a vision-language model that `load` gives, such as "tiny-vlm".
        tasks: names, or tasks with or without pictures; by default those of the preset.
        preset: "quick" (three tasks), "six" (the paper's, in the form that pictured things
            allow), "full" (nine tasks, three seeds), or one of your own.
        language_model: the plain language model behind it, whose vectors are moved in as well.
        template, shots: as in `extract`.
        artist: whose drawings of the pack are shown; by default the one that no training saw.
        seed: of splits, draws and intervals; further seeds of the preset follow it.
        folder: where vectors and outcomes are kept, so that an interrupted run goes on from
            there, and where the page and the JSON are written.

    Raises:
        TvlensError: a model that reads no images, unknown names, too small tasks.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if not hasattr(processor_or_tokenizer(model), "image_processor"):
        raise TvlensError(
            f"{model_name(model)} reads text alone: give a vision-language model, such as tiny-vlm"
        )
    chosen = PRESETS[preset] if isinstance(preset, str) else preset
    shown = pictured(tasks or chosen.tasks, **({"artist": artist} if artist else {}))
    folder = None if folder is None else Path(folder)
    if folder is not None:
        check_folder(folder)
    form = Template.of(template).demonstration
    options = {"language_model": language_model, "folder": folder, "progress": progress}
    options["most"] = (chosen.selected, chosen.tested)
    runs = [
        seeded(model, shown, Draws(shots, chosen.sets, chosen.contexts, form, s), **options)
        for s in range(seed, seed + chosen.seeds)
    ]
    first = runs[0]
    results = {
        task.name: TaskResult(
            task.name,
            _shares(task.name, runs),
            mean_by_layer([one.swept[task.name] for one in runs]),
            tuple(len(part) for part in first.parts[task.name]),
        )
        for task in shown
    }
    study = CrossModalStudy(
        results,
        first.layers,
        conflicts(model, first.parts, first.vectors, first.layers["text to image"], first.draws),
        shape(first.vectors, first.layers["text to image"], sets=chosen.sets, seed=seed),
        {name: phases_of(model, first, name) for name in MODALITIES},
        heads_of(model, first, results),
        *reading_of(model, first),
        {task.name: gallery_of(task) for task in shown},
        settings=asdict(first.draws)
        | {
            "preset": preset if isinstance(preset, str) else preset._asdict(),
            "seeds": chosen.seeds,
            "tasks": [task.name for task in shown],
        }
        | {"artist": artist or "the held-out one", "model": model_name(model)}
        | {"language model": None if language_model is None else model_name(language_model)}
        | {k: v for k, v in provenance(model).items() if k != "model"},
    )
    if folder is not None:
        study.save(folder)
    return study


def _shares(name: str, runs: Sequence[Seeded]) -> dict[str, dict[str, Share]]:
    items = [[x for x, _ in one.parts[name][2]] for one in runs]
    found = [one.outcomes[name] for one in runs]
    return {
        asked: {
            condition: summarised(items, [one[asked][condition] for one in found])
            for condition in found[0][asked]
        }
        for asked in MODALITIES
    }
