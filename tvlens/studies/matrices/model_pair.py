"""Pairs of a base model and its finetuned version, from the user or finetuned here."""

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
from ...matrices.curves import stratified_subset
from ...matrices.examples import Head
from ...matrices.reading import check_pair
from ...models import classifier_head, family, load, model_name
from ...models.digest import text_digest
from ...models.loading import folder_of
from ...training import finetune, load_finetuned
from ...training.examples import digest_rows
from ..cache import code_digest, content_key, folder_digest

Parts = tuple[LabelledDataset, LabelledDataset, LabelledDataset]


@dataclass(frozen=True)
class ModelPair:
    """A base model and its finetuned version.

    Attributes:
        base, tuned: models with named hook points.
        readout: state of both models that represents an input.
        head: from the finetuned model's last states to logits; None for a model without a
            classifier, whose last states are then classified by a ridge probe.
    """

    base: Any
    tuned: Any
    readout: str
    head: Head | None


@dataclass(frozen=True)
class PairSource:
    """Source of the model pairs of one dataset.

    Attributes:
        data: the whole dataset.
        base, tuned: models, names or folders; if `tuned` is None, the base is finetuned.
        readout: readout of `tuned`; None for the default.
        limit: maximal number of training rows.
        seed: seed of the split, and of the first finetuning.
        training: epochs and batch_size of finetuning.
        folder: folder of finetuned models.
        progress: whether finetuning shows a progress bar.
    """

    data: LabelledDataset
    base: Any
    tuned: Any
    readout: str | None
    limit: int | None
    seed: int
    training: dict
    folder: Path
    progress: bool | None

    @cached_property
    def content(self) -> dict:
        """Everything that determines the model pairs, as JSON."""
        names = {
            "base": _display_name(self.base),
            "tuned": _display_name(self.tuned),
            "readout": self.readout,
        }
        plain = {"rows": digest_rows(self.data), "limit": self.limit, "seed": self.seed}
        weights = {"base": _digest_model(self.base), "tuned": _digest_model(self.tuned)}
        return plain | names | self.training | {"weights": weights}

    @cached_property
    def parts(self) -> Parts:
        """Split into training, validation and test part."""
        return limit_parts(self.data, self.limit, self.seed)

    def load_pair(self, index: int = 0, *, lora: int | None = None) -> ModelPair:
        """Load the model pair of one finetuning.

        Args:
            index: index of the finetuning, from 0.
            lora: rank of adapters to finetune instead of the weights.
        """
        if self.tuned is not None and lora is None:
            return load_pair(self.base, self.tuned, self.readout, self.data)
        options = self.training if lora is None else self.training | {"lora": lora}
        return finetune_pair(
            self.base,
            self.parts,
            folder=self.folder,
            seed=self.seed + index,
            progress=self.progress,
            **options,
        )


def limit_parts(data: LabelledDataset, limit: int | None, seed: int) -> Parts:
    """Split a dataset; at most `limit` training rows, and half as many in the other parts.

    The parts are stratified by class.
    """
    parts = data.split(seed)
    if limit is None:
        return parts
    train, validation, test = (
        part
        if len(part) <= size
        else part.subset(stratified_subset(torch.tensor(part.labels), size).tolist())
        for part, size in zip(parts, (limit, limit // 2, limit // 2), strict=True)
    )
    return train, validation, test


def finetune_pair(
    base: str,
    parts: Sequence[LabelledDataset],
    *,
    folder: Path,
    seed: int,
    progress: bool | None,
    **training: Any,
) -> ModelPair:
    """Finetune a base model on these parts, or load it from the folder."""
    code = code_digest("training", "models", "labelled")
    key = json.dumps([base, _digest_model(base), digest_rows(*parts[:2]), seed, training, code])
    run_folder = folder / f"{file_name(parts[0].name)}-{text_digest(key)[:12]}"
    tuned = finetune(
        base, parts[0], parts[1], folder=run_folder, seed=seed, progress=progress, **training
    )
    return load_pair(load(base), tuned.model(), tuned.settings["readout"], parts[0])


def load_pair(base: Any, tuned: Any, readout: str | None, data: LabelledDataset) -> ModelPair:
    """Load a pair of models from names or folders.

    Raises:
        TvlensError: models that read different inputs, or a classifier of another number of
            classes.
    """
    if isinstance(tuned, str | os.PathLike) and readout is None:
        readout = _read_saved_readout(tuned)
    base, tuned = (load(m) if isinstance(m, str | os.PathLike) else m for m in (base, tuned))
    check_pair(base, tuned)
    head = classifier_head(tuned) if family(tuned).is_classifier else None
    if head is not None:
        classes = tuned.original_model.config.num_labels
        if classes != len(data.classes):
            raise TvlensError(
                f"the finetuned model has {classes} classes, {data.name} has {len(data.classes)}"
            )
    default = "mean" if data.kind == "text" and head is None else "first"
    return ModelPair(base, tuned, readout or default, head)


def _read_saved_readout(folder: str | os.PathLike) -> str | None:
    """Read the readout of a model that `finetune` saved."""
    try:
        readout: str = load_finetuned(folder).settings["readout"]
        return readout
    except TvlensError:
        return None


def _digest_model(model: Any) -> str | None:
    """Compute a digest of a model, or of the files that it is loaded from."""
    if model is None:
        return None
    if not isinstance(model, str | os.PathLike):
        return content_key("model", model=model)
    folder = folder_of(str(model))
    return (
        folder_digest(folder) if Path(folder).is_dir() else content_key("model", model=load(folder))
    )


def _display_name(model: Any) -> str | None:
    if model is None:
        return None
    return str(model) if isinstance(model, str | os.PathLike) else model_name(model)
