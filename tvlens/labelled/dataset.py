"""`LabelledDataset`: inputs with one class each, their sources and their splits."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ..errors import TvlensError, unknown
from ..tasks.task import normalize

if TYPE_CHECKING:
    import pandas

_FOLDER = resources.files("tvlens.labelled")

Kind = Literal["text", "image"]
KINDS = get_args(Kind)


class HubDataset(NamedTuple):
    """A dataset on the Hugging Face hub, and the names of its columns."""

    source: str
    input: str
    label: str
    config: str | None = None
    second: str | None = None


# The eight vision datasets of task arithmetic (Ilharco et al. 2023) and of task matrices.
VISION = {
    "cars": HubDataset("tanganke/stanford_cars", "image", "label"),
    "dtd": HubDataset("tanganke/dtd", "image", "label"),
    "eurosat": HubDataset("tanganke/eurosat", "image", "label"),
    "gtsrb": HubDataset("tanganke/gtsrb", "image", "label"),
    "mnist": HubDataset("ylecun/mnist", "image", "label"),
    "resisc45": HubDataset("tanganke/resisc45", "image", "label"),
    "sun397": HubDataset("tanganke/sun397", "image", "label"),
    "svhn": HubDataset("ufldl-stanford/svhn", "image", "label", "cropped_digits"),
}

# GLUE (Wang et al. 2019) without its regression task. Both texts of a pair are read.
GLUE = {
    "cola": HubDataset("nyu-mll/glue", "sentence", "label", "cola"),
    "mnli": HubDataset("nyu-mll/glue", "premise", "label", "mnli", "hypothesis"),
    "mrpc": HubDataset("nyu-mll/glue", "sentence1", "label", "mrpc", "sentence2"),
    "qnli": HubDataset("nyu-mll/glue", "question", "label", "qnli", "sentence"),
    "qqp": HubDataset("nyu-mll/glue", "question1", "label", "qqp", "question2"),
    "rte": HubDataset("nyu-mll/glue", "sentence1", "label", "rte", "sentence2"),
    "sst2": HubDataset("nyu-mll/glue", "sentence", "label", "sst2"),
    "wnli": HubDataset("nyu-mll/glue", "sentence1", "label", "wnli", "sentence2"),
}

HUB_DATASETS = VISION | GLUE


@dataclass(frozen=True)
class LabelledDataset:
    """A classification dataset of texts, or of images as uint8 arrays `[height, width, 3]`.

    Attributes:
        name: name used in results.
        inputs: one text or image per row.
        labels: class of each row, as an index into `classes`.
        classes: names of the classes, in order.
        groups: rows of one group (two drawings of one object, forms of one word) are never
            divided by a split; by default rows with the same input form a group, where texts are
            compared up to case, white space and Unicode form.
        kind: "text" or "image".
        metadata: description, source and licence, where known.

    Example:
        >>> data = tv.LabelledDataset("t", ["one", "cat", "two"], [0, 1, 0], ["number", "animal"])
        >>> data
        LabelledDataset('t': 3 texts, 2 classes)
    """

    name: str
    inputs: Sequence
    labels: Sequence[int]
    classes: Sequence[str]
    groups: Sequence[str] = ()
    kind: Kind = "text"
    metadata: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_field = functools.partial(object.__setattr__, self)
        set_field("inputs", tuple(self.inputs))
        set_field("labels", tuple(int(label) for label in self.labels))
        set_field("classes", tuple(self.classes))
        set_field("groups", tuple(self.groups) or _group_equal_inputs(self.inputs))
        _check_dataset(self)

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        classes = f"{len(self.classes)} classes"
        return f"LabelledDataset({self.name!r}: {len(self)} {self.kind}s, {classes})"

    @staticmethod
    def names(kind: Kind | None = None) -> list[str]:
        """Names of the packaged datasets, of one kind ("text" or "image") or of both."""
        if kind not in (None, *KINDS):
            raise unknown("kind", kind, KINDS)
        return [name for name, entry in _load_metadata().items() if kind in (None, entry["kind"])]

    @classmethod
    def load(cls, name: str) -> "LabelledDataset":
        """Load a packaged dataset by name.

        Raises:
            TvlensError: unknown name; the error suggests the nearest ones.

        Example:
            >>> len(tv.LabelledDataset.load("digits").classes)
            10
        """
        metadata = _load_metadata()
        if name not in metadata:
            hint = "from_dataset reads any other by its hub name"
            raise unknown("labelled dataset", name, metadata, hint=hint)
        entry = metadata[name]
        columns = _load_packaged_rows(name).to_dict()
        inputs = columns["text"]
        if entry["kind"] == "image":
            pairs = zip(columns["image"], columns["side"], strict=True)
            inputs = [np.frombuffer(raw, np.uint8).reshape(side, side, 3) for raw, side in pairs]
        labels = [entry["classes"].index(label) for label in columns["label"]]
        origin = {k: entry[k] for k in ("description", "source", "licence")}
        return cls(name, inputs, labels, entry["classes"], columns["group"], entry["kind"], origin)

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
    ) -> "LabelledDataset":
        """Read two columns of a `datasets` dataset.

        Args:
            dataset: a dataset object, a name in `HUB_DATASETS` (the eight vision datasets of the
                paper and GLUE), a hub id, or a folder.
            input: column of texts or images; known for `HUB_DATASETS`.
            label: column of class labels, integers or names; known for `HUB_DATASETS`.
            second: column of a second text, which is appended to the first one.
            split: split to read of a dataset with several.
            limit: maximal number of rows; the first ones are read.

        Raises:
            TvlensError: unknown dataset, split or column, or a row without a label.
        """
        title = name or (str(dataset) if isinstance(dataset, str) else "dataset")
        if isinstance(dataset, str):
            entry = HUB_DATASETS.get(dataset)
            if entry is not None:
                input, label = input or entry.input, label or entry.label
                second = second or entry.second
            dataset = _download(dataset, entry)
        if isinstance(dataset, dict):
            if split not in dataset:
                raise unknown(f"split of {title}", split, dataset)
            dataset = dataset[split]
        for role, column in (("input", input), ("label", label), ("second", second)):
            if column is None and role == "second":
                continue
            if column not in dataset.column_names:
                raise unknown(f"{role} column of {title}", str(column), dataset.column_names)
        if limit is not None:
            dataset = dataset.select(range(min(limit, len(dataset))))
        return _from_columns(title, dataset, input, label, second)

    def split(
        self, seed: int = 0, *, train: float = 0.6, validation: float = 0.2
    ) -> tuple["LabelledDataset", "LabelledDataset", "LabelledDataset"]:
        """Split into disjoint training, validation and test parts.

        The split is stratified by class, and no group is in two parts. Two datasets with the same
        groups and labels (the emoji of two artists) are split alike by the same seed.

        Args:
            seed: the same seed gives the same parts.
            train, validation: shares of the groups; the rest is the test part.

        Raises:
            TvlensError: shares that leave no rows for a part, or a part that would be empty.
        """
        if train <= 0 or validation <= 0 or train + validation >= 1:
            raise TvlensError(f"shares {train} and {validation} leave nothing for some part")
        part_of = _assign_groups(self, np.random.default_rng(seed), train, validation)
        parts = [[i for i, g in enumerate(self.groups) if part_of[g] == k] for k in range(3)]
        if not all(parts):
            sizes = "/".join(str(len(part)) for part in parts)
            raise TvlensError(
                f"{self.name} has {len(self)} rows: train/validation/test would be {sizes}"
            )
        first, second, third = (self.subset(part) for part in parts)
        return first, second, third

    def subset(self, indices: Iterable[int]) -> "LabelledDataset":
        """Select rows by index, in this order; the classes stay the same."""
        rows = [int(i) for i in indices]
        columns = {k: [getattr(self, k)[i] for i in rows] for k in ("inputs", "labels", "groups")}
        return replace(self, **columns)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per input: input, name of the label, group."""
        import pandas as pd

        names = [self.classes[label] for label in self.labels]
        return pd.DataFrame({"input": self.inputs, "label": names, "group": self.groups})


def _group_equal_inputs(inputs: Sequence) -> tuple[str, ...]:
    """Assign a group to every input, the same to equal inputs.

    Texts are equal up to case, white space and Unicode form, images by their pixels.
    """
    first: dict[Any, int] = {}
    keys = (
        normalize(entry)
        if isinstance(entry, str)
        else (getattr(entry, "shape", None), _hash_pixels(entry))
        for entry in inputs
    )
    return tuple(str(first.setdefault(key, i)) for i, key in enumerate(keys))


def _hash_pixels(image: Any) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()


@functools.cache
def _load_metadata() -> dict[str, dict]:
    metadata: dict[str, dict] = json.loads((_FOLDER / "metadata.json").read_text(encoding="utf-8"))
    return metadata


def _load_packaged_rows(name: str) -> Any:
    """Read the rows of a packaged dataset into memory, without the cache of `datasets`."""
    import datasets
    import pyarrow.parquet as pq

    with (_FOLDER / "labelled.parquet").open("rb") as file:
        return datasets.Dataset(pq.read_table(file, filters=[("dataset", "==", name)]))


def _download(name: str, entry: HubDataset | None) -> Any:
    import datasets

    source, config = (entry.source, entry.config) if entry else (name, None)
    try:
        if Path(source).is_dir() and not entry:
            return datasets.load_from_disk(source)
        return datasets.load_dataset(source, config)
    except (OSError, ValueError, ConnectionError) as error:
        packaged = ", ".join(_load_metadata())
        message = f"cannot read {name!r} ({error}); packaged datasets: {packaged}"
        raise TvlensError(message) from error


def _from_columns(
    title: str, dataset: Any, input: str, label: str, second: str | None
) -> LabelledDataset:
    labels, feature = list(dataset[label]), dataset.features[label]
    if hasattr(feature, "names"):
        classes = list(feature.names)
    else:
        classes = sorted(set(labels))
        labels = [classes.index(name) for name in labels]
    inputs = list(dataset[input])
    if inputs and not isinstance(inputs[0], str):
        images = [_to_array(title, image) for image in inputs]
        return LabelledDataset(title, images, labels, [str(c) for c in classes], kind="image")
    if second is not None:
        inputs = [f"{a} {b}" for a, b in zip(inputs, dataset[second], strict=True)]
    return LabelledDataset(title, inputs, labels, [str(c) for c in classes])


def _to_array(title: str, image: Any) -> np.ndarray:
    """Convert a PIL image or an array to uint8 `[height, width, 3]`."""
    if hasattr(image, "convert"):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise TvlensError(f"{title}: a row is {type(image).__name__}, neither text nor image")
    return np.repeat(array[..., None], 3, axis=-1) if array.ndim == 2 else array


def _assign_groups(
    dataset: LabelledDataset, rng: np.random.Generator, train: float, validation: float
) -> dict[str, int]:
    """Assign groups to parts; the class of a group is that of its first row."""
    by_class: dict[int, list[str]] = {}
    assigned: set[str] = set()
    for group, label in sorted(zip(dataset.groups, dataset.labels, strict=True)):
        if group not in assigned:
            assigned.add(group)
            by_class.setdefault(label, []).append(group)
    part_of = {}
    for label in sorted(by_class):
        groups = by_class[label]
        first = round(train * len(groups))
        second = round((train + validation) * len(groups))
        for rank, i in enumerate(rng.permutation(len(groups))):
            part_of[groups[i]] = int(rank >= first) + int(rank >= second)
    return part_of


def _check_dataset(dataset: LabelledDataset) -> None:
    name, rows = dataset.name, len(dataset.inputs)
    if not rows:
        raise TvlensError(f"{name} has no rows")
    if len(dataset.labels) != rows or len(dataset.groups) != rows:
        raise TvlensError(
            f"{name} has {rows} inputs, {len(dataset.labels)} labels and "
            f"{len(dataset.groups)} groups"
        )
    if len(dataset.classes) < 2 or len(set(dataset.classes)) < len(dataset.classes):
        raise TvlensError(f"{name} needs two classes or more, each once")
    for row, label in enumerate(dataset.labels):
        if not 0 <= label < len(dataset.classes):
            raise TvlensError(
                f"{name}: row {row} has label {label}, but classes are 0 to "
                f"{len(dataset.classes) - 1}"
            )
    for row, text in enumerate(dataset.inputs):
        if dataset.kind == "text" and (not isinstance(text, str) or not text.strip()):
            raise TvlensError(f"{name}: row {row} is {text!r}, not a text")
