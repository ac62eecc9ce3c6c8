"""`Labelled`: inputs with one class each, where they come from, and how they are split."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..errors import TvlensError, unknown
from ..tasks.task import normalize
from .presets import PRESETS

if TYPE_CHECKING:
    import pandas

_HOME = resources.files("tvlens.labelled")

Kind = Literal["text", "picture"]
KINDS = get_args(Kind)


@dataclass(frozen=True)
class Labelled:
    """A classification set: texts, or pictures as uint8 arrays `[height, width, 3]`.

    Attributes:
        name: what results call it.
        inputs: texts or pictures, one a row.
        labels: class of each row, as an index into `classes`.
        classes: names of the classes, in order.
        groups: rows of one group (two drawings of one thing, forms of one word) never part in a
            split; by default rows with the same input are one, texts up to case, white space and
            Unicode form.
        kind: "text" or "picture".
        about: description, source and licence, where known.
    """

    name: str
    inputs: Sequence
    labels: Sequence[int]
    classes: Sequence[str]
    groups: Sequence[str] = ()
    kind: Kind = "text"
    about: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field = functools.partial(object.__setattr__, self)
        set_field("inputs", tuple(self.inputs))
        set_field("labels", tuple(int(label) for label in self.labels))
        set_field("classes", tuple(self.classes))
        set_field("groups", tuple(self.groups) or _alike(self.inputs))
        _check(self)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        return f"Labelled({self.name!r}: {len(self)} {self.kind}s, {len(self.classes)} classes)"

    @staticmethod
    def names(kind: Kind | None = None) -> list[str]:
        """The packed sets; of one kind ("text" or "picture") if asked."""
        if kind not in (None, *KINDS):
            raise unknown("kind", kind, KINDS)
        return [name for name, about in _about().items() if kind in (None, about["kind"])]

    @classmethod
    def load(cls, name: str) -> "Labelled":
        """A packed set by name.

        Raises:
            TvlensError: no such set; names the nearest ones.
        """
        known = _about()
        if name not in known:
            raise unknown(
                "labelled set", name, known, hint="from_dataset reads any other by its hub name"
            )
        about = known[name]
        columns = _packed(name).to_dict()
        inputs = columns["text"]
        if about["kind"] == "picture":
            pairs = zip(columns["picture"], columns["side"], strict=True)
            inputs = [np.frombuffer(raw, np.uint8).reshape(side, side, 3) for raw, side in pairs]
        labels = [about["classes"].index(label) for label in columns["label"]]
        facts = {k: about[k] for k in ("description", "source", "licence")}
        return cls(name, inputs, labels, about["classes"], columns["group"], about["kind"], facts)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        *,
        input: str | None = None,
        label: str | None = None,
        second: str | None = None,
        split: str = "train",
        name: str = "",
        limit: int | None = None,
    ) -> "Labelled":
        """Two columns of a `datasets` dataset: an object, a preset's name, a hub id, or a folder.

        Args:
            dataset: presets are the eight vision sets of the paper and GLUE (`PRESETS`).
            input: column of texts or pictures; a preset knows it.
            label: column of class labels, whole numbers or names; a preset knows it.
            second: column of a second text, which is put behind the first one.
            split: which split of a dataset that has several.
            limit: at most so many rows, the first ones.

        Raises:
            TvlensError: no such dataset, split or column; a row without a label.
        """
        title = name or (str(dataset) if isinstance(dataset, str) else "dataset")
        if isinstance(dataset, str):
            preset = PRESETS.get(dataset)
            if preset is not None:
                input, label = input or preset.input, label or preset.label
                second = second or preset.second
            dataset = _read(dataset, preset)
        if isinstance(dataset, dict):
            if split not in dataset:
                raise unknown(f"split of {title}", split, dataset)
            dataset = dataset[split]
        for wanted, column in (("input", input), ("label", label), ("second", second)):
            if column is None and wanted == "second":
                continue
            if column not in dataset.column_names:
                raise unknown(f"{wanted} column of {title}", str(column), dataset.column_names)
        if limit is not None:
            dataset = dataset.select(range(min(limit, len(dataset))))
        return _of_columns(title, dataset, input, label, second)

    def split(
        self, seed: int = 0, *, train: float = 0.6, validation: float = 0.2
    ) -> tuple["Labelled", "Labelled", "Labelled"]:
        """Three disjoint parts: to train on, to choose by, and to test on once.

        Every class is split by the same shares, and no group is in two parts. Two sets with the
        same groups and labels (the emoji of two artists) are split alike by the same seed.

        Args:
            seed: the same seed gives the same parts.
            train, validation: shares of the groups; the rest is the test part.

        Raises:
            TvlensError: shares that leave nothing, or a part that would be empty.
        """
        if train <= 0 or validation <= 0 or train + validation >= 1:
            raise TvlensError(f"shares {train} and {validation} leave nothing for some part")
        part_of = _parts(self, np.random.default_rng(seed), train, validation)
        parts = [[i for i, g in enumerate(self.groups) if part_of[g] == k] for k in range(3)]
        if not all(parts):
            sizes = "/".join(str(len(part)) for part in parts)
            raise TvlensError(
                f"{self.name} has {len(self)} rows: train/validation/test would be {sizes}"
            )
        first, second, third = (self.subset(part) for part in parts)
        return first, second, third

    def subset(self, indices: Iterable[int]) -> "Labelled":
        """The same set and classes with only the rows at these indices, in this order."""
        rows = [int(i) for i in indices]
        picked = {k: [getattr(self, k)[i] for i in rows] for k in ("inputs", "labels", "groups")}
        return replace(self, **picked)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per input: input, label's name, group."""
        import pandas as pd

        names = [self.classes[label] for label in self.labels]
        return pd.DataFrame({"input": self.inputs, "label": names, "group": self.groups})


def _alike(inputs: Sequence) -> tuple[str, ...]:
    """A group for every input, the same for inputs that are the same: texts up to case, white
    space and Unicode form, pictures by their pixels."""
    first: dict[Any, int] = {}
    keys = (
        normalize(one) if isinstance(one, str) else (getattr(one, "shape", None), _pixels(one))
        for one in inputs
    )
    return tuple(str(first.setdefault(key, i)) for i, key in enumerate(keys))


def _pixels(picture: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(picture).tobytes()).digest()


@functools.cache
def _about() -> dict[str, dict]:
    return json.loads((_HOME / "about.json").read_text(encoding="utf-8"))


def _packed(name: str) -> Any:
    """The rows of one packed set, in memory: `datasets` would else leave a copy in its cache."""
    import datasets
    import pyarrow.parquet as pq

    with (_HOME / "labelled.parquet").open("rb") as file:
        return datasets.Dataset(pq.read_table(file, filters=[("dataset", "==", name)]))


def _read(name: str, preset: Any) -> Any:
    import datasets

    source, config = (preset.source, preset.config) if preset else (name, None)
    try:
        if Path(source).is_dir() and not preset:
            return datasets.load_from_disk(source)
        return datasets.load_dataset(source, config)
    except (OSError, ValueError, ConnectionError) as error:
        known = ", ".join(_about())
        raise TvlensError(f"cannot read {name!r} ({error}); packed sets: {known}") from error


def _of_columns(title: str, dataset: Any, input: str, label: str, second: str | None) -> Labelled:
    labels, feature = list(dataset[label]), dataset.features[label]
    if hasattr(feature, "names"):
        classes = list(feature.names)
    else:
        classes = sorted(set(labels))
        labels = [classes.index(one) for one in labels]
    inputs = list(dataset[input])
    if inputs and not isinstance(inputs[0], str):
        pictures = [_picture(title, picture) for picture in inputs]
        return Labelled(title, pictures, labels, [str(c) for c in classes], kind="picture")
    if second is not None:
        inputs = [f"{a} {b}" for a, b in zip(inputs, dataset[second], strict=True)]
    return Labelled(title, inputs, labels, [str(c) for c in classes])


def _picture(title: str, picture: Any) -> np.ndarray:
    """A PIL picture or an array, as uint8 `[height, width, 3]`."""
    if hasattr(picture, "convert"):
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TvlensError(f"{title}: a row is {type(picture).__name__}, neither text nor picture")
    return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array


def _parts(
    labelled: Labelled, rng: np.random.Generator, train: float, validation: float
) -> dict[str, int]:
    """Group -> part. A group counts for the class of its first row."""
    by_class: dict[int, list[str]] = {}
    seen: set[str] = set()
    for group, label in sorted(zip(labelled.groups, labelled.labels, strict=True)):
        if group not in seen:
            seen.add(group)
            by_class.setdefault(label, []).append(group)
    part_of = {}
    for label in sorted(by_class):
        groups = by_class[label]
        first = round(train * len(groups))
        second = round((train + validation) * len(groups))
        for place, i in enumerate(rng.permutation(len(groups))):
            part_of[groups[i]] = int(place >= first) + int(place >= second)
    return part_of


def _check(labelled: Labelled) -> None:
    name, rows = labelled.name, len(labelled.inputs)
    if not rows:
        raise TvlensError(f"{name} has no rows")
    if len(labelled.labels) != rows or len(labelled.groups) != rows:
        raise TvlensError(
            f"{name} has {rows} inputs, {len(labelled.labels)} labels and "
            f"{len(labelled.groups)} groups"
        )
    if len(labelled.classes) < 2 or len(set(labelled.classes)) < len(labelled.classes):
        raise TvlensError(f"{name} needs two classes or more, each once")
    for row, label in enumerate(labelled.labels):
        if not 0 <= label < len(labelled.classes):
            raise TvlensError(
                f"{name}: row {row} has label {label}, but classes are 0 to "
                f"{len(labelled.classes) - 1}"
            )
    for row, one in enumerate(labelled.inputs):
        if labelled.kind == "text" and (not isinstance(one, str) or not one.strip()):
            raise TvlensError(f"{name}: row {row} is {one!r}, not a text")
