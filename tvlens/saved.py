"""Read and write safetensors and JSON files with checksums."""

import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import xxhash
from torch import Tensor

from .errors import TvlensError
from .files import NotWrittenError, atomic_write, one_line, temporary_folder

T = TypeVar("T")

# Key of the checksum: in the header's JSON, or in the header if that contains no JSON.
_CHECKSUM = "checksum"
_CHECKSUM_KEY = "tvlens.checksum"
_CHECKSUM_FORM = re.compile("[0-9a-f]{32}")


def write_tensors(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], *, kind: str = "", metadata: Any = None
) -> None:
    """Write a safetensors file with a checksum of its content, atomically.

    Args:
        path: path of the file.
        tensors: by name.
        kind: key of the header that names the type of content; if empty, the header holds only the
            checksum.
        metadata: mapping saved under this key, as JSON.

    Raises:
        NotWrittenError: the folder cannot be written to, or the disk is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = json.loads(json.dumps(metadata)) if kind else None
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    checksum = content_checksum(contiguous, plain)
    # One key only: safetensors writes several in any order, which would change the file's bytes.
    header = {_CHECKSUM_KEY: checksum}
    if kind:
        header = {kind: json.dumps(plain | {_CHECKSUM: checksum})}
    with atomic_write(path) as temporary, temporary_folder(path) as folder:
        try:
            target = folder / temporary.name
            save_file(contiguous, target, metadata=header)
            # safetensors gives the file to its owner alone.
            shutil.copymode(temporary, target)
            os.replace(target, temporary)
        except SafetensorError as error:
            raise NotWrittenError(f"cannot write {path}: {one_line(error)}") from error


def read_tensors(
    path: str | os.PathLike, *, kind: str | Sequence[str], what: str, needs: Collection[str] = ()
) -> tuple[dict[str, Tensor], Any]:
    """Read a file that `write_tensors` wrote: its tensors and the metadata of its header.

    Files of earlier versions have no checksum and are not checked.

    Args:
        path: path of the file.
        kind: key of the header, or several that are accepted; empty for a file without metadata.
        what: expected content, for error messages.
        needs: names required among the tensors or the metadata.

    Raises:
        TvlensError: no such file, it is damaged, or it holds something else.
    """
    from safetensors import safe_open

    with reading(path, what):
        with safe_open(path, framework="pt") as file:
            metadata, checksum = _parse_header(file.metadata() or {}, kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if checksum is not None and checksum != content_checksum(tensors, metadata):
            raise TvlensError("it is damaged: its content is not what was written")
        for name in needs:
            if name not in tensors and name not in (metadata or {}):
                raise TvlensError(f"no {name!r} in it")
    return tensors, metadata


def read_entry(entry: Path, load: Callable[[Path], T]) -> T | None:
    """Load an entry of a cache; None if it is missing or damaged.

    A damaged entry is reported in one line on standard error.
    """
    if not entry.exists():
        return None
    try:
        return load(entry)
    except TvlensError as error:
        print(f"tvlens: {error}; it is computed again", file=sys.stderr)
        return None


def content_checksum(tensors: Mapping[str, Tensor], metadata: Any) -> str:
    """Digest of the names, dtypes, shapes and bytes of tensors, and of their metadata as JSON."""
    digest = xxhash.xxh3_128(json.dumps(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: str | os.PathLike, what: str) -> Iterator[None]:
    """Convert errors of reading a file to a one-line `TvlensError` that names the file.

    Args:
        path: path of the file.
        what: expected content, for the message.
    """
    from safetensors import SafetensorError

    read_errors = (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError)
    try:
        yield
    except (*read_errors, RuntimeError) as error:  # RecursionError is a RuntimeError
        reason = f"no key {one_line(error)}" if isinstance(error, KeyError) else one_line(error)
        if isinstance(error, FileNotFoundError) or not os.path.exists(path):
            reason = "there is no such file"
        elif isinstance(error, SafetensorError) and _starts_as_json(path):
            reason = "it is JSON, as tvlens before 0.2 wrote it"
        raise TvlensError(f"{path} holds no {what} ({reason})") from error


def _starts_as_json(path: str | os.PathLike) -> bool:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(1) == b"{"
    return False


def check_checksum(plain: Any) -> Any:
    """Verify and remove the checksum of JSON data; data without one are returned as they are.

    Raises:
        TvlensError: the data do not match their checksum, or are no object.
    """
    if not isinstance(plain, dict):
        raise TvlensError(f"its JSON is a {type(plain).__name__}, not an object")
    # The checksum is the last key; a damaged file may have another name for it.
    name = next(reversed(plain), None)
    if name != _CHECKSUM and not _CHECKSUM_FORM.fullmatch(str(plain.get(name))):
        return plain
    if plain.pop(name) != content_checksum({}, plain):
        raise TvlensError("it is damaged: its content is not what was written")
    return plain


def with_checksum(plain: Any) -> dict[str, Any]:
    """Convert a mapping to JSON data and add their checksum."""
    content: dict[str, Any] = json.loads(json.dumps(plain))
    return content | {_CHECKSUM: content_checksum({}, content)}


def _parse_header(header: dict[str, str], kind: str | Sequence[str]) -> tuple[Any, str | None]:
    """The metadata under a key of the header, and the checksum."""
    accepted = (kind,) if isinstance(kind, str) else kind
    kinds = [key for key in header if key.startswith("tvlens") and key != _CHECKSUM_KEY]
    if not kind and not kinds:
        return None, header.get(_CHECKSUM_KEY)
    matching = [key for key in accepted if key in header]
    if not matching:
        others = ", ".join(key.removeprefix("tvlens.") for key in kinds)
        raise TvlensError(f"it holds {others}" if others else "its header is not by tvlens")
    metadata = json.loads(header[matching[0]])
    if isinstance(metadata, list):  # of an earlier version
        return metadata, None
    if not isinstance(metadata, dict):
        raise TvlensError(f"its header is a {type(metadata).__name__}, not a JSON object")
    return metadata, metadata.pop(_CHECKSUM, None)


def tvlens_version() -> str:
    """Version of the installed tvlens; "unknown" if it is imported without being installed."""
    try:
        return importlib.metadata.version("tvlens")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
