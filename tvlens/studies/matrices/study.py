"""Does a linear map stand in for finetuning? Task matrices on many datasets, each beside a probe.

The third study, after "Task Matrices: Linear Maps for Cross-Model Finetuning Transfer" (arXiv
2512.14880). Unlike there, layer, penalty and rank are chosen on a validation part, and the probe
reads the same layer as the matrix.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tqdm.auto import tqdm

from ...errors import TvlensError, unknown
from ...file_names import file_name
from ...files import check_folder
from ...folder_lock import one_writer
from ...labelled import HUB_DATASETS, LabelledDataset
from ...matrices.evaluation import SELECTIONS, Selection
from ...matrices.report import MATRIX
from ...matrices.sharing import Sharing
from ...models.readouts import ReadoutName
from ...training.lora import check_lora
from ...viz import Page
from ..report import StudyReport
from .case import Case, study
from .claims import PROBE, Claim, claims
from .rows import numbers, row
from .sharing import shared_by_base, shared_numbers
from .twins import Source

if TYPE_CHECKING:
    import pandas

# The base that a twin is finetuned from where none is given.
BASES = {"text": "minilm-l6", "image": "dinov2-small-56"}


class Preset(NamedTuple):
    """How much is done: sets, rows of the training part, epochs of finetuning, seeds of curves."""

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
        cases: by dataset.
        sharing: one matrix for all datasets of a base model, by base model; for bases of two
            datasets or more.
        settings: what made them.
    """

    cases: dict[str, Case]
    sharing: dict[str, Sharing]
    settings: dict

    def __repr__(self) -> str:
        wins = [case.report.difference(MATRIX, PROBE).verdict for case in self.cases.values()]
        counted = ", ".join(f"{kind} {wins.count(kind)}" for kind in ("wins", "ties", "loses"))
        return f"MatrixStudy({len(wins)} datasets; against the same-layer probe: {counted})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per dataset: sizes, layer, accuracies, share of the gap, lead over the probe."""
        import pandas as pd

        rows = [row(case) for case in self.cases.values()]
        return pd.DataFrame(rows).astype({"share_of_gap": float})

    def claims(self) -> list[Claim]:  # type: ignore[override]
        """What the paper claims, beside what was found here."""
        return claims(list(self.cases.values()))

    def page(self) -> Page:
        """The report page."""
        from .page import page

        return page(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        return {
            "settings": self.settings,
            "claims": [claim._asdict() for claim in self.claims()],
            "datasets": {name: numbers(case) for name, case in self.cases.items()},
            "sharing": {base: shared_numbers(found) for base, found in self.sharing.items()},
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
    progress: bool = True,
) -> MatrixStudy:
    """Fit, choose, test and compare the task matrices of several datasets.

    Args:
        base: model, zoo name, folder or hub id; by default one for texts and one for pictures.
        tuned: its finetuned twin: model, name or folder, or one for each dataset by name. By
            default a twin is finetuned on each dataset, and kept in the folder.
        data: `LabelledDataset.names()` or datasets of your own; by default those of the preset.
        preset: "quick" (three small sets of texts, 250 training rows each) or "full".
        readout: "first", "mean" or "last", for twins that are given; by default what the twin's
            folder says, or "mean" for texts without a classifier and "first" otherwise.
        selection: "validation"; or "oracle", which chooses on the test part, as the paper does.
        seed: of splits and draws, and of the first finetuning.
        seeds: how often each twin is finetuned, on the same parts; intervals are then over
            examples and finetunings.
        lora: finetune adapters of this rank too, with the same examples and epochs; needs peft.
        folder: where finished datasets are kept, so that an interrupted run goes on from there,
            and where page and JSON are written.

    Raises:
        TvlensError: unknown names, models that are no twins, a base model without a name to
            finetune it by, several seeds of a twin that is given, or peft missing.
    """
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    if selection not in SELECTIONS:
        raise unknown("selection", selection, SELECTIONS)
    chosen = PRESETS[preset]
    sets = _sets(data, chosen)
    _check(base, tuned, sets, seeds, lora)
    folder = Path(folder)
    check_folder(folder)
    sources = {
        name: Source(
            one,
            base or BASES[one.kind],
            _of(tuned, name),
            readout,
            limit=chosen.limit,
            seed=seed,
            training=dict(epochs=chosen.epochs, batch_size=16),
            folder=folder / "twins",
            progress=progress,
        )
        for name, one in sets.items()
    }
    asked = {"preset": preset, "selection": selection, "seeds": seeds, "lora": lora}
    draws = [seed + s for s in chosen.seeds]
    cases, members = {}, {}
    for name, source in tqdm(sources.items(), "datasets", disable=not progress):
        key = source.key | asked | {"draws": draws}
        cases[name] = Case.kept(folder / file_name(name), name, key)
        if cases[name] is None:
            twins = [source.twins(k) for k in range(seeds)]
            adapters = [source.adapted(lora, k) for k in range(seeds)] if lora else []
            options = dict(selection=selection, draws=draws, adapters=adapters, **_READING)
            cases[name], members[name] = study(twins, name, source.parts, **options)
            facts = dict(base=key["base"], tuned=key["tuned"] or "finetuned here", lora=lora)
            cases[name].facts.update(facts)
            cases[name].save(folder / file_name(name), key)
    settings = asked | {"seed": seed, "limit": chosen.limit, "epochs": chosen.epochs}
    settings["versions"] = next(iter(cases.values())).facts["versions"]
    sharing = shared_by_base(cases, sources, members, folder=folder, seed=seed, **_READING)
    found = MatrixStudy(cases, sharing, settings)
    found.save(folder)
    return found


# How states are read.
_READING = {"batch_size": 32, "progress": False}


def _check(
    base: Any, tuned: Any, sets: Mapping[str, LabelledDataset], seeds: int, lora: int | None
) -> None:
    """Raise TvlensError where it is not said what to compare."""
    if any(isinstance(model, str) and not model.strip() for model in (base, tuned)):
        raise TvlensError("the name of a model is empty: give a zoo name, a hub id or a folder")
    if seeds < 1:
        raise TvlensError(f"seeds must be at least 1, not {seeds}")
    if seeds > 1 and tuned is not None:
        raise TvlensError("several seeds are several finetunings: leave the tuned model out")
    check_lora(lora)
    if (tuned is None or lora) and base is not None and not isinstance(base, str | os.PathLike):
        raise TvlensError("to finetune a base model, give its name or folder in place of itself")
    for name in tuned if isinstance(tuned, Mapping) else ():
        if name not in sets:
            raise unknown("dataset of a tuned model", name, sets)


def _sets(data: Any, preset: Preset) -> dict[str, LabelledDataset]:
    """The sets by name."""
    if data is None:
        data = preset.data or LabelledDataset.names()
    listed = [data] if isinstance(data, str | LabelledDataset) else list(data)
    if not listed:
        raise TvlensError("no dataset to study")
    sets = [one if isinstance(one, LabelledDataset) else _load(one) for one in listed]
    return {one.name: one for one in sets}


def _load(name: str) -> LabelledDataset:
    """A packed set, or one that `datasets` reads: a preset of it, a hub id, or a folder."""
    elsewhere = name in HUB_DATASETS or "/" in name or Path(name).is_dir()
    return LabelledDataset.from_dataset(name) if elsewhere else LabelledDataset.load(name)


def _of(tuned: Any, name: str) -> Any:
    return tuned.get(name) if isinstance(tuned, Mapping) else tuned
