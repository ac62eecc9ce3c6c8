"""`Task`: named input-output pairs, their sources and their splits."""

import csv
import io
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..deprecation import warn_renamed
from ..errors import TvlensError, unknown
from ..files import write
from .image import MODALITIES, Image, Modality, Source

_CATALOGUE = resources.files("tvlens.tasks") / "catalogue"


@dataclass(frozen=True)
class Task:
    """A task given by examples.

    Attributes:
        name: name in results.
        pairs: (input, output) strings, as a tuple; inputs are unique.
        description: one plain phrase.
        instruction: the task as a request ("The plural of the word:"), where there is one.
        kind: category of the task ("countries", "word form", ...).
        images: input -> its image, if it has one: a file, pixels `uint8 [height, width, 3]` or a
            PIL image. Every input is a text, an image, or both.
        texts: whether inputs can be shown as texts; if not, they only name their images.

    Example:
        >>> task = tv.Task("plural", [("cat", "cats"), ("dog", "dogs")])
        >>> len(task), task.pairs[0]
        (2, ('cat', 'cats'))
        >>> len(tv.Task.load("singular-plural")) > 100
        True
    """

    name: str
    pairs: Sequence
    description: str = ""
    instruction: str = ""
    kind: str = ""
    images: Mapping[str, Source] = field(default_factory=dict, compare=False, repr=False)
    texts: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TvlensError(f"the name of a task is a text, not {self.name!r}")
        if any("\ud800" <= letter <= "\udfff" for letter in self.name):
            raise TvlensError(f"the name of a task, {self.name!r}, contains a lone surrogate")
        object.__setattr__(self, "pairs", tuple(_check_pairs(self.name, self.pairs)))
        _check_images(self)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.pairs)

    def __repr__(self) -> str:
        pairs = ", ".join(f"{x} -> {y}" for x, y in self.pairs[:3])
        return f"Task({self.name!r}, {len(self)} pairs: {pairs}, ...)"

    @staticmethod
    def names() -> list[str]:
        """List the tasks of the catalogue."""
        return sorted(_index())

    @classmethod
    def load(cls, name: str) -> "Task":
        """Load a task of the catalogue by name, or a `.json` or `.csv` file by path.

        Raises:
            TvlensError: no such task; names the nearest ones.
        """
        index = _index()
        if name in index:
            metadata = index[name]
            text = (_CATALOGUE / f"{name}.csv").read_text(encoding="utf-8")
            pairs = [(row["input"], row["output"]) for row in csv.DictReader(io.StringIO(text))]
            fields = {k: metadata[k] for k in ("description", "instruction", "kind")}
            return cls(name, tuple(pairs), **fields)
        if Path(name).suffix == ".csv":
            return cls.from_csv(name)
        if Path(name).suffix == ".json":
            return cls.from_json(name)
        raise unknown("task", name, index, hint="`tvlens tasks` lists them; or give a file")

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike,
        *,
        input: str = "input",
        output: str = "output",
        image: str = "",
        name: str = "",
    ) -> "Task":
        """Read a CSV file with a header.

        `input` and `output` name its columns, and `image` one of image files, which may be empty
        and are relative to the CSV file.
        """
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                reader = csv.DictReader(file)
                columns = reader.fieldnames or []
                _check_columns(path, columns, input, output, *[image] * bool(image))
                rows = [(row[input], row[output], row.get(image)) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise TvlensError(f"{path} is no task: {error}") from error
        pairs = tuple((x, y) for x, y, _ in rows)
        files = {x.strip(): Path(path).parent / file for x, _, file in rows if file}
        return cls(name or Path(path).stem, pairs, images=files)

    @classmethod
    def from_json(cls, path: str | os.PathLike, *, name: str = "") -> "Task":
        """Read a JSON file.

        It holds a list of [input, output] or {"input", "output"}, an object from input to output,
        or {"name", "pairs", "description", "instruction"} as `to_json` writes.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except RecursionError as error:
            raise TvlensError(f"{path} is no task: its lists are nested too deeply") from error
        except (OSError, ValueError) as error:
            raise TvlensError(f"{path} is no task: {error}") from error
        fields = {}
        if isinstance(data, dict) and isinstance(data.get("pairs"), list):
            fields = _json_fields(path, data)
            name = name or data.get("name", "")
            data = data["pairs"]
        return cls(name or Path(path).stem, tuple(_json_pairs(path, data)), **fields)

    @classmethod
    def from_dataset(cls, dataset: Any, *, input: str, output: str, name: str = "") -> "Task":
        """Read two columns of a `datasets` dataset: an object, a local file or a hub id.

        A column of class labels gives the labels' names. A dataset with several splits gives its
        "train" split; choose another by passing the split itself.
        """
        title = name or str(dataset if isinstance(dataset, str | os.PathLike) else "dataset")
        if isinstance(dataset, str | os.PathLike):
            dataset = _read_dataset(str(dataset))
        if isinstance(dataset, dict):
            dataset = dataset.get("train", next(iter(dataset.values())))
        _check_columns(title, dataset.column_names, input, output)
        outputs, feature = dataset[output], dataset.features[output]
        if hasattr(feature, "int2str"):
            outputs = [feature.int2str(label) for label in outputs]
        pairs = zip(dataset[input], outputs, strict=True)
        return cls(Path(title).stem, tuple((str(x), str(y)) for x, y in pairs))

    def to_json(self, path: str | os.PathLike) -> None:
        """Write the task as JSON that `from_json` reads back.

        Raises:
            TvlensError: images other than files.
        """
        plain = {k: v for k, v in vars(self).items() if k not in ("images", "texts")}
        if self.images:
            memory = [x for x, i in self.images.items() if not isinstance(i, str | os.PathLike)]
            if memory:
                raise TvlensError(f"the image of {memory[0]!r} is no file: JSON cannot hold it")
            files = {x: os.fspath(image) for x, image in self.images.items()}
            plain |= {"images": files, "texts": self.texts}
        write(path, json.dumps(plain, ensure_ascii=False, indent=1))

    @property
    def modalities(self) -> tuple[str, ...]:
        """Modalities in which all inputs can be shown: "text", "image" or both."""
        with_image = all(x in self.images for x, _ in self.pairs)
        return ("text",) * self.texts + ("image",) * with_image

    def shown(self, pair: tuple[str, str], modality: Modality) -> tuple[str | Image, str]:
        """Return a pair with its input as shown in a prompt: the text, or its image.

        Raises:
            TvlensError: the input has no image, or is no text.
        """
        x, y = pair
        if modality not in MODALITIES:
            raise unknown("modality", modality, MODALITIES)
        if modality == "image" and x not in self.images:
            raise TvlensError(f"{self.name}: {x!r} has no image; give Task(..., images=...)")
        if modality == "text" and not self.texts:
            raise TvlensError(f"{self.name}: {x!r} is only the name of an image, not a text")
        return (Image(x, self.images[x]) if modality == "image" else x), y

    def with_images(self, images: Mapping[str, Source]) -> "Task":
        """Select the pairs whose inputs have an image, and add it.

        Raises:
            TvlensError: none has.
        """
        pairs = tuple(pair for pair in self.pairs if pair[0] in images)
        if not pairs:
            raise TvlensError(f"{self.name}: none of its inputs has an image here")
        return replace(self, pairs=pairs, images={x: images[x] for x, _ in pairs})

    def split(
        self,
        *,
        seed: int = 0,
        extract: float = 0.35,
        validation: float = 0.2,
        select: float | None = None,
    ) -> tuple["Task", "Task", "Task"]:
        """Split into disjoint parts for extraction, validation and test.

        Pairs whose inputs are the same up to case, white space and Unicode form ("Cat" and "cat")
        land in one part, which makes it larger or smaller by them.

        Args:
            seed: the same seed gives the same parts.
            extract, validation: shares of the pairs; the rest is the test part.
            select: deprecated name of `validation`.

        Raises:
            TvlensError: a part would be empty.
        """
        if select is not None:
            warn_renamed("split(select=)", "split(validation=)")
            validation = select
        groups: dict[str, list[int]] = {}
        for i, (x, _) in enumerate(self.pairs):
            groups.setdefault(normalize(x), []).append(i)
        order = np.random.default_rng(seed).permutation(len(groups))
        shuffled = [list(groups.values())[i] for i in order]
        # A cut inside a group moves to its beginning.
        before = np.cumsum([len(group) for group in shuffled])
        cuts = round(extract * len(self)), round((extract + validation) * len(self))
        first, second = np.searchsorted(before, cuts, side="right")
        parts = [
            [i for group in some for i in group]
            for some in (shuffled[:first], shuffled[first:second], shuffled[second:])
        ]
        if any(len(part) == 0 for part in parts):
            sizes = "/".join(str(len(part)) for part in parts)
            raise TvlensError(
                f"{self.name} has {len(self)} pairs: extract/validation/test would be {sizes}, "
                "and none may be empty"
            )
        subsets = [self.subset(part) for part in parts]
        return subsets[0], subsets[1], subsets[2]

    def subset(self, indices: Iterable[int]) -> "Task":
        """Select pairs by index, in this order."""
        pairs = tuple(self.pairs[int(i)] for i in indices)
        images = {x: self.images[x] for x, _ in pairs if x in self.images}
        return replace(self, pairs=pairs, images=images)


def normalize(text: str) -> str:
    """Normalize case, white space and Unicode form of a text."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _index() -> dict[str, dict]:
    index: dict[str, dict] = json.loads((_CATALOGUE / "catalogue.json").read_text(encoding="utf-8"))
    return index


def _check_pairs(name: str, pairs: Sequence) -> list[tuple[str, str]]:
    """Check that pairs are non-empty strings with each input once."""
    checked: dict[str, str] = {}
    for i, pair in enumerate(pairs):
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise TvlensError(f"{name}: pair {i} is {pair!r}, not (input, output) strings")
        x, y = (part.strip() for part in pair)
        if not x or not y:
            raise TvlensError(f"{name}: pair {i} {pair!r} has an empty side")
        if x in checked:
            also = f"{checked[x]!r} and {y!r}" if checked[x] != y else "the same output twice"
            raise TvlensError(f"{name}: input {x!r} occurs more than once, with {also}")
        checked[x] = y
    if not checked:
        raise TvlensError(f"{name}: a task needs at least one pair")
    return list(checked.items())


def _check_images(task: Task) -> None:
    """Check that images belong to inputs and that their files exist."""
    inputs = {x for x, _ in task.pairs}
    for x, image in task.images.items():
        if x not in inputs:
            raise TvlensError(f"{task.name}: there is an image of {x!r}, but no such input")
        if isinstance(image, str | os.PathLike) and not Path(image).is_file():
            raise TvlensError(f"{task.name}: the image of {x!r} is missing: no file {image}")
    if not task.texts and (without := sorted(inputs - set(task.images))):
        raise TvlensError(f"{task.name}: {without[0]!r} is no text and has no image")


def _check_columns(source: object, columns: Sequence[str], *required: str) -> None:
    for column in required:
        if column not in columns:
            raise TvlensError(f"{source} has no column {column!r}; it has {', '.join(columns)}")


def _json_fields(path: object, data: dict) -> dict[str, Any]:
    """Read the fields of a task in a JSON file other than its pairs; null counts as missing."""
    fields = {k: data[k] for k in ("description", "instruction", "kind") if data.get(k) is not None}
    fields |= {k: data[k] for k in ("images", "texts") if data.get(k) is not None}
    for key, value in fields.items():
        kind, words = {"images": (dict, "an object"), "texts": (bool, "true or false")}.get(
            key, (str, "a text")
        )
        if not isinstance(value, kind):
            raise TvlensError(f"{path} is no task: {key} is {value!r:.60}, not {words}")
    for x, image in fields.get("images", {}).items():
        if not isinstance(image, str):
            raise TvlensError(f"{path} is no task: the image of {x!r} is {image!r:.60}, not a file")
    return fields


def _json_pairs(path: object, data: object) -> list[tuple]:
    if isinstance(data, dict):
        return list(data.items())
    if not isinstance(data, list):
        raise TvlensError(f"{path} is no task: it holds neither a list nor an object of pairs")
    pairs = []
    for row in data:
        if isinstance(row, dict) and {"input", "output"} <= set(row):
            row = (row["input"], row["output"])
        if not isinstance(row, list | tuple):
            raise TvlensError(f"{path} is no task: {row!r} is no pair")
        pairs.append(tuple(row))
    return pairs


def _read_dataset(name: str) -> Any:
    import datasets

    readers = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
    try:
        if Path(name).is_dir():
            return datasets.load_from_disk(name)
        if Path(name).is_file():
            return datasets.load_dataset(readers.get(Path(name).suffix, "text"), data_files=name)
        return datasets.load_dataset(name)
    except (OSError, ValueError, ConnectionError) as error:
        raise TvlensError(f"cannot read the dataset {name!r}: {error}") from error
