"""Results in files: tensors as safetensors, everything else as JSON in the header."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from torch import Tensor

from .errors import TvlensError
from .field_checks import check_fields
from .files import NotWrittenError, atomic_write, one_line

Result = TypeVar("Result", bound="Saved")
Made = TypeVar("Made")

# Where the checksum stands: in the header's JSON, or alone in the header of a file without one.
CHECKSUM = "checksum"
_CHECKSUM_KEY = "tvlens.checksum"
_CHECKSUM_FORM = re.compile("[0-9a-f]{32}")


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], *, kind: str = "", about: Any = None
) -> None:
    """Write a safetensors file with a checksum of all that it holds, whole or not at all.

    Args:
        kind: the header's key, which tells what the file holds; a checksum alone if empty.
        about: a mapping that stands there, as JSON.

    Raises:
        NotWrittenError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = json.loads(json.dumps(about)) if kind else None
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    checksum = content_checksum(whole, plain)
    # One key: safetensors writes several in any order, and the same content is to be the same file.
    header = {_CHECKSUM_KEY: checksum}
    if kind:
        header = {kind: json.dumps(plain | {CHECKSUM: checksum})}
    with atomic_write(path) as temporary:
        try:
            save_file(whole, temporary, metadata=header)
        except SafetensorError as error:
            raise NotWrittenError(f"cannot write {path}: {one_line(error)}") from error


def read_tensors(
    path: str | os.PathLike, *, kind: str | Sequence[str], what: str, needs: Collection[str] = ()
) -> tuple[dict[str, Tensor], Any]:
    """The tensors of a file that `write_tensors` wrote, and what its header says.

    Files of earlier versions have no checksum, and are read without one.

    Args:
        kind: the header's key, or several that are accepted; empty for a file without one.
        what: what the file should hold, in words.
        needs: names that must be among the tensors or in the header.

    Raises:
        TvlensError: no such file, it is damaged, or it holds something else.
    """
    from safetensors import safe_open

    with reading(path, what):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about, checksum = _read_header(metadata, kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if checksum is not None and checksum != content_checksum(tensors, about):
            raise TvlensError("it is damaged: its content is not what was written")
        for name in needs:
            if name not in tensors and name not in (about or {}):
                raise TvlensError(f"no {name!r} in it")
    return tensors, about


def read_entry(entry: Path, load: Callable[[Path], Made]) -> Made | None:
    """What an entry of a cache holds; None if it is missing or damaged.

    Damage is said in one line on standard error.
    """
    if not entry.exists():
        return None
    try:
        return load(entry)
    except TvlensError as error:
        print(f"tvlens: {error}; it is computed again", file=sys.stderr)
        return None


def content_checksum(tensors: Mapping[str, Tensor], about: Any) -> str:
    """A digest of tensors by name, dtype, shape and bytes, and of what goes with them as JSON."""
    found = xxhash.xxh3_128(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(memoryview(flat.view(torch.uint8).numpy()))
    return found.hexdigest()


@contextlib.contextmanager
def reading(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Say in one line, and with the file's name, what is wrong with a file that is read within.

    Args:
        what: what the file should hold, in words.
    """
    from safetensors import SafetensorError

    wrong = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError)
    try:
        yield
    except (*wrong, RuntimeError) as error:  # RecursionError is a RuntimeError
        reason = f"no key {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        if isinstance(error, FileNotFoundError) or not os.path.exists(path):
            reason = "there is no such file"
        elif isinstance(error, SafetensorError) and _begins_as_json(path):
            reason = "it is JSON, as tvlens before 0.2 wrote it"
        raise TvlensError(f"{path} holds no {what} ({reason})") from error


def _begins_as_json(path: str | os.PathLike) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(1) == b"{"
    return False


def check_checksum(plain: Any) -> Any:
    """JSON data without its checksum, which is compared where there is one.

    Raises:
        TvlensError: the data are not those that `with_checksum` got.
    """
    if not isinstance(plain, dict):
        raise TvlensError(f"its JSON is no object but a {type(plain).__name__}")
    # It stands last, and may have a damaged name.
    name = next(reversed(plain), None)
    if name != CHECKSUM and not _CHECKSUM_FORM.fullmatch(str(plain.get(name))):
        return plain
    if plain.pop(name) != content_checksum({}, plain):
        raise TvlensError("it is damaged: its content is not what was written")
    return plain


def with_checksum(plain: Any) -> dict[str, Any]:
    """A mapping as JSON data, with a checksum of them."""
    plain = json.loads(json.dumps(plain))
    return plain | {CHECKSUM: content_checksum({}, plain)}


def _read_header(metadata: dict[str, str], kind: str | Sequence[str]) -> tuple[Any, str | None]:
    """The header's JSON under a key, and the checksum."""
    accepted = (kind,) if isinstance(kind, str) else kind
    kinds = [key for key in metadata if key.startswith("tvlens") and key != _CHECKSUM_KEY]
    if not kind and not kinds:
        return None, metadata.get(_CHECKSUM_KEY)
    matching = [key for key in accepted if key in metadata]
    if not matching:
        others = [key.removeprefix("tvlens.") for key in kinds]
        held = f"it holds {', '.join(others)}" if others else "nothing of tvlens in its header"
        raise TvlensError(held)
    about = json.loads(metadata[matching[0]])
    if isinstance(about, list):  # of an earlier version
        return about, None
    if not isinstance(about, dict):
        raise TvlensError(f"its header is no JSON object but a {type(about).__name__}")
    return about, about.pop(CHECKSUM, None)


class Saved:
    """Gives a frozen dataclass `save` and `load`: tensors as safetensors, the rest as JSON."""

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file with all that is no tensor in its header. Atomic."""
        tensors, plain = split_tensors(self)
        write_tensors(path, tensors, kind=f"tvlens.{type(self).__name__}", about=plain)

    @classmethod
    def load(cls: type[Result], path: str | os.PathLike) -> Result:
        """Read what `save` wrote.

        Raises:
            TvlensError: no such file, it is damaged, or it holds something else.
        """
        name = cls.__name__
        tensors, header = read_tensors(path, kind=f"tvlens.{name}", what=name)
        with reading(path, name):
            return construct(cls, tensors, header)


def construct(cls: type[Made], values: Mapping[str, Any], plain: Any) -> Made:
    """A dataclass from the parts that a file holds.

    Args:
        values: fields as they are, such as tensors.
        plain: fields as JSON gives them.

    Raises:
        TvlensError: a field is missing, unknown, of another type or of another shape.
    """
    if not isinstance(plain, dict):
        raise TvlensError(f"its header is no JSON object but a {type(plain).__name__}")
    # JSON has no tuples; no result has a list.
    whole: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    whole |= values
    check_fields(cls, whole)
    return cls(**whole)


def split_tensors(result: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The fields of a dataclass that are tensors, and those that are not."""
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
    return tensors, {k: v for k, v in values.items() if k not in tensors}
