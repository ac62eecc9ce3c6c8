"""Twins for the study of task matrices: a base model and what finetuning made of it."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ...errors import TvlensError
from ...file_names import file_name
from ...labelled import LabelledDataset
from ...matrices.curves import subset
from ...matrices.examples import Head
from ...matrices.twins import check_twins
from ...models import family, head, load, model_name
from ...models.digest import text_digest
from ...models.loading import folder_of
from ...training import finetune, load_finetuned
from ...training.examples import digest
from ..cache import code_digest, content_key, folder_digest

Parts = tuple[LabelledDataset, LabelledDataset, LabelledDataset]


@dataclass(frozen=True)
class Twins:
    """A base model and its finetuned twin.

    Attributes:
        base, tuned: models with named hook points.
        readout: which state both are read by.
        head: from the tuned model's last states to logits; None for a twin without a classifier,
            which then decides by a ridge probe on its own last states.
    """

    base: Any
    tuned: Any
    readout: str
    head: Head | None


@dataclass(frozen=True)
class Source:
    """Where the twins of one dataset come from: finetuned here and kept, or given.

    Attributes:
        data: the whole set.
        base, tuned: models, names or folders; without a tuned one it is finetuned here.
        readout: for a twin that is given.
        limit: rows of the training part, at most.
        seed: of the split, and of the first finetuning.
        training: epochs and batch_size of finetuning.
        folder: where finetuned twins are kept.
    """

    data: LabelledDataset
    base: Any
    tuned: Any
    readout: str | None
    limit: int | None
    seed: int
    training: dict
    folder: Path
    progress: bool

    @cached_property
    def key(self) -> dict:
        """What another run has to match to be the same, as JSON."""
        named = {"base": _named(self.base), "tuned": _named(self.tuned), "readout": self.readout}
        plain = {"rows": digest(self.data), "limit": self.limit, "seed": self.seed}
        content = {"base": _content(self.base), "tuned": _content(self.tuned)}
        return plain | named | self.training | {"content": content, "code": code_digest()}

    @cached_property
    def parts(self) -> Parts:
        """To finetune and fit to, to choose by, to test on."""
        return capped(self.data, self.limit, self.seed)

    def twins(self, number: int = 0) -> Twins:
        """The twins of one finetuning, counted from 0."""
        if self.tuned is not None:
            return given_twins(self.base, self.tuned, self.readout, self.data)
        return self._made(number)

    def adapted(self, rank: int, number: int = 0) -> Twins:
        """The base and what adapters of this rank made of it, with as many epochs and examples."""
        return self._made(number, lora=rank)

    def _made(self, number: int, **more: Any) -> Twins:
        options = self.training | more
        return made_twins(
            self.base,
            self.parts,
            folder=self.folder,
            seed=self.seed + number,
            progress=self.progress,
            **options,
        )


def capped(data: LabelledDataset, limit: int | None, seed: int) -> Parts:
    """The three parts of a set, the first of at most `limit` rows and the others of half as many.

    Every class keeps its share.
    """
    parts = data.split(seed)
    if limit is None:
        return parts
    train, validation, test = (
        part if len(part) <= size else part.subset(subset(torch.tensor(part.labels), size).tolist())
        for part, size in zip(parts, (limit, limit // 2, limit // 2), strict=True)
    )
    return train, validation, test


def made_twins(
    base: str,
    parts: Sequence[LabelledDataset],
    *,
    folder: Path,
    seed: int,
    progress: bool,
    **training: Any,
) -> Twins:
    """A twin finetuned on these parts, in a folder where it is found again."""
    code = code_digest("training", "models", "labelled")
    key = json.dumps([base, _content(base), digest(*parts[:2]), seed, training, code])
    place = folder / f"{file_name(parts[0].name)}-{text_digest(key)[:12]}"
    tuned = finetune(
        base, parts[0], parts[1], folder=place, seed=seed, progress=progress, **training
    )
    return given_twins(load(base), tuned.model(), tuned.settings["readout"], parts[0])


def given_twins(base: Any, tuned: Any, readout: str | None, data: LabelledDataset) -> Twins:
    """Twins that are at hand already, as models, names or folders.

    Raises:
        TvlensError: models that are no twins, or a classifier of another number of classes.
    """
    if isinstance(tuned, str | os.PathLike) and readout is None:
        readout = _recorded(tuned)
    base, tuned = (load(m) if isinstance(m, str | os.PathLike) else m for m in (base, tuned))
    check_twins(base, tuned)
    decides = head(tuned) if family(tuned).is_classifier else None
    if decides is not None:
        classes = tuned.original_model.config.num_labels
        if classes != len(data.classes):
            raise TvlensError(
                f"the tuned model knows {classes} classes, {data.name} has {len(data.classes)}"
            )
    pooled = "mean" if data.kind == "text" and decides is None else "first"
    return Twins(base, tuned, readout or pooled, decides)


def _recorded(folder: str | os.PathLike) -> str | None:
    """The readout of a twin that `finetune` made."""
    try:
        return load_finetuned(folder).settings["readout"]
    except TvlensError:
        return None


def _content(model: Any) -> str | None:
    """A digest of a model, or of the files that it is loaded from."""
    if model is None:
        return None
    if not isinstance(model, str | os.PathLike):
        return content_key("model", model=model)
    place = folder_of(str(model))
    return folder_digest(place) if Path(place).is_dir() else content_key("model", model=load(place))


def _named(model: Any) -> str | None:
    if model is None:
        return None
    return str(model) if isinstance(model, str | os.PathLike) else model_name(model)
