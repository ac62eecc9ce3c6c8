"""The study of task matrices: a linear map instead of finetuning, on many datasets.

Reproduces "Task Matrices: Linear Maps for Cross-Model Finetuning Transfer" (arXiv 2512.14880).
Unlike the paper, layer, penalty and rank are chosen on a validation part, and the probe reads the
same layer as the matrix.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...errors import TvlensError, unknown
from ...file_names import file_name
from ...files import check_folder
from ...folder_lock import one_writer
from ...labelled import HUB_DATASETS, LabelledDataset
from ...matrices import SharingReport, SharingTask
from ...matrices.evaluation import SELECTIONS, Selection
from ...matrices.report import MATRIX
from ...models.readouts import ReadoutName
from ...progress import progress_bar
from ...training.encoder import check_lora
from ..cache import cached
from ..claims import Claim
from ..report import StudyReport
from .claims import dataset_claims
from .dataset import DatasetResult, analyze_dataset
from .model_pair import PairSource
from .sharing import share_by_base
from .tables import PROBE, dataset_numbers, dataset_row, sharing_numbers

if TYPE_CHECKING:
    import pandas

# The base model that is finetuned by default, by kind of dataset.
BASES = {"text": "minilm-l6", "image": "dinov2-small-56"}


class Preset(NamedTuple):
    """Size of the study.

    Attributes:
        data: datasets; None for all packaged ones.
        limit: maximal number of training rows.
        epochs: epochs of finetuning.
        seeds: seeds of the random subsets of the learning curves.
    """

    data: tuple[str, ...] | None
    limit: int | None
    epochs: int
    seeds: tuple[int, ...]


PresetName = Literal["quick", "full"]
PRESETS: dict[PresetName, Preset] = {
    "quick": Preset(("emoji-words", "chat-topic", "color-name"), 250, 4, (0,)),
    "full": Preset(None, None, 4, (0, 1, 2)),
}


@dataclass(frozen=True)
class MatrixStudy(StudyReport):
    """Task matrices on several datasets.

    Attributes:
        datasets: results by dataset.
        sharing: one matrix for all datasets of a base model, by base model; for bases of two
            datasets or more.
        settings: settings and versions.
    """

    datasets: dict[str, DatasetResult]
    sharing: dict[str, SharingReport]
    settings: dict

    def __repr__(self) -> str:
        results = self.datasets.values()
        verdicts = [result.report.difference(MATRIX, PROBE).verdict for result in results]
        counts = ", ".join(f"{kind} {verdicts.count(kind)}" for kind in ("wins", "ties", "loses"))
        return f"MatrixStudy({len(verdicts)} datasets; against the same-layer probe: {counts})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per dataset: sizes, layer, accuracies, recovered gap, difference to the probe."""
        import pandas as pd

        rows = [dataset_row(result) for result in self.datasets.values()]
        return pd.DataFrame(rows).astype({"gap_recovered": float})

    @property
    def claims(self) -> list[Claim]:
        """The claims of the paper, tested on each dataset."""
        return [claim for result in self.datasets.values() for claim in dataset_claims(result)]

    def numbers(self) -> dict[str, Any]:
        """All numbers, as plain data."""
        return {
            "datasets": {name: dataset_numbers(r) for name, r in self.datasets.items()},
            "sharing": {base: sharing_numbers(r) for base, r in self.sharing.items()},
        }


@one_writer
def run(
    base: Any = None,
    tuned: Any = None,
    data: str | LabelledDataset | Sequence[str | LabelledDataset] | None = None,
    *,
    preset: PresetName = "quick",
    readout: ReadoutName | None = None,
    selection: Selection = "validation",
    seed: int = 0,
    seeds: int = 1,
    lora: int | None = None,
    folder: str | os.PathLike = "out/matrices",
    progress: bool | None = None,
) -> MatrixStudy:
    """Fit and evaluate the task matrices of several datasets.

    Args:
        base: model, zoo name, folder or hub id; by default one for texts and one for images.
        tuned: its finetuned version: model, name or folder, or one for each dataset by name. By
            default the base is finetuned on each dataset, and the result is saved in the folder.
        data: `LabelledDataset.names()` or datasets of your own; by default those of the preset.
        preset: "quick" (three small text datasets, 250 training rows each) or "full".
        readout: "first", "mean" or "last", if `tuned` is given; by default that of its folder, or
            "mean" for texts without a classifier and "first" otherwise.
        selection: "validation"; or "oracle", which chooses on the test part, as the paper does.
        seed: seed of splits and random subsets, and of the first finetuning.
        seeds: number of finetunings on the same parts; intervals then include their variation.
        lora: finetune adapters of this rank too, with the same examples and epochs; needs peft.
        folder: where results are cached, so that an interrupted run resumes, and where page and
            JSON are written.
        progress: whether to show progress bars; by default on a terminal.

    Raises:
        TvlensError: unknown names, models that read different inputs, a base model without a name
            to finetune it by, several seeds of a finetuned model that is given, or peft missing.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if selection not in SELECTIONS:
        raise unknown("selection", selection, SELECTIONS)
    size = PRESETS[preset]
    datasets = _load_datasets(data, size)
    _check_models(base, tuned, datasets, seeds, lora)
    folder = Path(folder)
    check_folder(folder)
    sources = {
        name: PairSource(
            dataset,
            base or BASES[dataset.kind],
            tuned.get(name) if isinstance(tuned, Mapping) else tuned,
            readout,
            limit=size.limit,
            seed=seed,
            training=dict(epochs=size.epochs, batch_size=16),
            folder=folder / "finetuned",
            progress=progress,
        )
        for name, dataset in datasets.items()
    }
    options = {"preset": preset, "selection": selection, "seeds": seeds, "lora": lora}
    curve_seeds = [seed + s for s in size.seeds]
    results: dict[str, DatasetResult] = {}
    tasks: dict[str, SharingTask] = {}
    for name, source in progress_bar(sources.items(), "datasets", progress=progress):

        def analyze(name: str = name, source: PairSource = source) -> DatasetResult:
            result, tasks[name] = _analyze_source(source, seeds, lora, selection, curve_seeds)
            return result

        results[name] = cached(
            folder / f"{file_name(name)}.safetensors",
            source.content | options | {"curve_seeds": curve_seeds},
            analyze,
            load=DatasetResult.load,
        )
    settings = options | {"seed": seed, "limit": size.limit, "epochs": size.epochs}
    settings["versions"] = next(iter(results.values())).facts["versions"]
    sharing = share_by_base(results, sources, tasks, folder=folder, seed=seed)
    study = MatrixStudy(results, sharing, settings)
    study.save(folder)
    return study


def _analyze_source(
    source: PairSource,
    seeds: int,
    lora: int | None,
    selection: Selection,
    curve_seeds: Sequence[int],
) -> tuple[DatasetResult, SharingTask]:
    """Load or finetune the model pairs of a dataset, and compute all results of their matrices."""
    pairs = [source.load_pair(k) for k in range(seeds)]
    adapters = [source.load_pair(k, lora=lora) for k in range(seeds)] if lora else []
    result, task = analyze_dataset(
        pairs, source.parts, adapters=adapters, selection=selection, seeds=curve_seeds
    )
    models = {k: source.content[k] for k in ("base", "tuned")}
    result.facts.update(models, tuned=models["tuned"] or "finetuned here", lora=lora)
    return result, task


def _check_models(
    base: Any, tuned: Any, datasets: Mapping[str, LabelledDataset], seeds: int, lora: int | None
) -> None:
    """Raise TvlensError unless the model pairs are well-defined."""
    if any(isinstance(model, str) and not model.strip() for model in (base, tuned)):
        raise TvlensError("the name of a model is empty: give a zoo name, a hub id or a folder")
    if seeds < 1:
        raise TvlensError(f"seeds must be at least 1, not {seeds}")
    if seeds > 1 and tuned is not None:
        raise TvlensError("several seeds need several finetuned models: omit the finetuned model")
    check_lora(lora)
    if (tuned is None or lora) and base is not None and not isinstance(base, str | os.PathLike):
        raise TvlensError(
            "to finetune a base model, give its name or folder in place of the model object"
        )
    for name in tuned if isinstance(tuned, Mapping) else ():
        if name not in datasets:
            raise unknown("dataset of a finetuned model", name, datasets)


def _load_datasets(data: Any, preset: Preset) -> dict[str, LabelledDataset]:
    """Load the datasets by name."""
    if data is None:
        data = preset.data or LabelledDataset.names()
    entries = [data] if isinstance(data, str | LabelledDataset) else list(data)
    if not entries:
        raise TvlensError("no dataset to study")
    datasets = [e if isinstance(e, LabelledDataset) else _load_dataset(e) for e in entries]
    return {dataset.name: dataset for dataset in datasets}


def _load_dataset(name: str) -> LabelledDataset:
    """Load a packaged dataset, or a hub dataset or folder by `datasets`."""
    is_external = name in HUB_DATASETS or "/" in name or Path(name).is_dir()
    return LabelledDataset.from_dataset(name) if is_external else LabelledDataset.load(name)
