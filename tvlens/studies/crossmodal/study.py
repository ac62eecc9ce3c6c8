"""`run`: test whether task vectors transfer between text and image queries in one model."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...errors import TvlensError, unknown
from ...files import check_folder
from ...folder_lock import one_writer
from ...models import model_name, processor_or_tokenizer
from ...patching import PatchResult
from ...tasks import Task, Template
from ...vectors.extraction import provenance
from ...vectors.logit_lens import Phases
from ...vlm.image_pack import HELD_OUT_ARTIST
from ..claims import Claim
from ..report import StudyReport
from .analyses import (
    Conflict,
    PromptAlignment,
    VectorGeometry,
    align_prompt,
    compare_vectors,
    compute_phases,
    find_conflicts,
    patch_heads,
    render_thumbnails,
)
from .claims import make_claims
from .conditions import (
    MODALITIES,
    ConditionResult,
    ExtractionConfig,
    TaskResult,
    summarize_outcomes,
)
from .image_tasks import ALL_TASKS, SIX_TASKS, load_image_tasks
from .seed_run import SeedRun, mean_by_layer, run_seed

if TYPE_CHECKING:
    import pandas


class Preset(NamedTuple):
    """The size of a study.

    Attributes:
        tasks: default tasks.
        seeds: number of seeds.
        validation_items: most items of a task's validation part.
        test_items: most items of a task's test part.
        sets: number of sets of contexts whose vectors are averaged.
        contexts: contexts per set.
    """

    tasks: tuple[str, ...]
    seeds: int
    validation_items: int
    test_items: int
    sets: int
    contexts: int


PresetName = Literal["quick", "six", "full"]
PRESETS: dict[PresetName, Preset] = {
    "quick": Preset(SIX_TASKS[:3], 1, 6, 16, 2, 4),
    "six": Preset(SIX_TASKS, 1, 16, 40, 3, 4),
    "full": Preset(ALL_TASKS, 3, 20, 60, 4, 5),
}


@dataclass(frozen=True)
class CrossModalStudy(StudyReport):
    """Transfer of task vectors between text and images in one model.

    Attributes:
        tasks: results by task.
        layers: where vectors are written, by "source to query": the best mean over tasks on the
            validation parts; of the first seed.
        conflicts: demonstrations of one task against the vector of another.
        geometry: geometry of all vectors; None for one task.
        phases: by modality of demonstrations and query.
        heads: patching of every head's output, from few-shot texts into a bare image query.
        alignment: a few-shot prompt with images and a text vector.
        thumbnails: by task, inputs and the PNG files of their images.
        settings: everything that is needed to run the study again.
    """

    tasks: dict[str, TaskResult]
    layers: dict[str, int]
    conflicts: list[Conflict]
    geometry: VectorGeometry | None
    phases: dict[str, Phases]
    heads: PatchResult
    alignment: PromptAlignment
    thumbnails: dict[str, list[tuple[str, bytes]]]
    settings: dict

    def __repr__(self) -> str:
        solved = sum(task.is_solved_with_text for task in self.tasks.values())
        verdicts = [claim.verdict for claim in self.claims]
        return (
            f"CrossModalStudy({len(self.tasks)} tasks, {solved} of them solved with text; "
            f"{verdicts.count('holds')} of {len(verdicts)} claims hold)"
        )

    @property
    def claims(self) -> list[Claim]:
        """The paper's claims with this model's numbers."""
        return make_claims(self.tasks.values(), self.geometry, self.phases, self.conflicts)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per task, query and condition: accuracies, and the first-token interval."""
        import pandas as pd

        return pd.DataFrame(
            {"task": name, "is_solved_with_text": task.is_solved_with_text}
            | {"query": query, "condition": condition}
            | result.accuracies
            | {"low": result.interval[0], "high": result.interval[1], "count": result.count}
            for name, task in self.tasks.items()
            for query, conditions in task.conditions.items()
            for condition, result in conditions.items()
        )

    def numbers(self) -> dict[str, Any]:
        """All numbers except the vectors, as plain data."""
        return {
            "layers": self.layers,
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
            "conflicts": [conflict._asdict() for conflict in self.conflicts],
            "geometry": None if self.geometry is None else self.geometry.to_dict(),
            "phases": {
                modality: dict(zip(result.groups, result.mean.tolist(), strict=True))
                for modality, result in self.phases.items()
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
    artist: str = HELD_OUT_ARTIST,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> CrossModalStudy:
    """Extract vectors from text and image prompts, and write each into queries of the other.

    Args:
        model: a vision-language model that `load` gives, such as "tiny-vlm".
        tasks: names, or tasks with or without images; by default those of the preset.
        preset: "quick" (three tasks), "six" (the paper's six, as far as their inputs can be
            drawn), "full" (nine tasks, three seeds), or a `Preset`.
        language_model: the language model behind `model`, whose vectors are transferred too.
        template: as in `extract`.
        shots: as in `extract`.
        artist: artist of the packaged images; by default the one absent from training.
        seed: seed of splits, draws and intervals; further seeds of the preset follow it.
        folder: where vectors and outcomes are cached, so that an interrupted run continues, and
            where the page and the JSON are written.
        progress: whether to show progress bars; by default on a terminal.

    Raises:
        TvlensError: a model that reads no images, unknown names, or too small tasks.
    """
    if isinstance(preset, str) and preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if not hasattr(processor_or_tokenizer(model), "image_processor"):
        raise TvlensError(
            f"{model_name(model)} reads text alone: give a vision-language model, such as tiny-vlm"
        )
    size = PRESETS[preset] if isinstance(preset, str) else preset
    loaded = load_image_tasks(tasks or size.tasks, artist=artist)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        check_folder(folder)
    config = ExtractionConfig(
        shots, size.sets, size.contexts, Template.of(template).demonstration, seed
    )
    runs = [
        run_seed(
            model,
            loaded,
            replace(config, seed=seed + k),
            max_items=(size.validation_items, size.test_items),
            language_model=language_model,
            folder=folder,
            progress=progress,
        )
        for k in range(size.seeds)
    ]
    settings = {
        **asdict(config),
        "preset": preset if isinstance(preset, str) else preset._asdict(),
        "seeds": size.seeds,
        "tasks": [task.name for task in loaded],
        "artist": artist,
        "language_model": None if language_model is None else model_name(language_model),
        **provenance(model),
    }
    study = _analyze(model, loaded, runs, settings)
    if folder is not None:
        study.save(folder)
    return study


def _analyze(
    model: Any, tasks: Sequence[Task], runs: Sequence[SeedRun], settings: dict[str, Any]
) -> CrossModalStudy:
    """Summarize all seeds by task, and run the further analyses on the first seed."""
    first = runs[0]
    results = {
        task.name: TaskResult(
            task.name,
            _summarize_conditions(task.name, runs),
            mean_by_layer([run.sweeps[task.name] for run in runs]),
            tuple(len(part) for part in first.splits[task.name]),
        )
        for task in tasks
    }
    layer, config = first.layers["text to image"], first.config
    return CrossModalStudy(
        tasks=results,
        layers=first.layers,
        conflicts=find_conflicts(model, first),
        geometry=compare_vectors(first.vectors, layer, sets=config.sets, seed=config.seed),
        phases={modality: compute_phases(model, first, modality) for modality in MODALITIES},
        heads=patch_heads(model, first, results),
        alignment=align_prompt(model, first),
        thumbnails={task.name: render_thumbnails(task) for task in tasks},
        settings=settings,
    )


def _summarize_conditions(
    task: str, runs: Sequence[SeedRun]
) -> dict[str, dict[str, ConditionResult]]:
    items = [[x for x, _ in run.splits[task].test] for run in runs]
    outcomes = [run.outcomes[task] for run in runs]
    return {
        query: {
            condition: summarize_outcomes(items, [one[query][condition] for one in outcomes])
            for condition in outcomes[0][query]
        }
        for query in MODALITIES
    }
