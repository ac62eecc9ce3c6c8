"""`cached`: results in a folder, keyed by their content.

The key is a digest of weights, tokenizer, pairs, images, templates, settings and the code of this
package: different content has a different key, even if all names are the same.
"""

import dataclasses
import functools
import glob
import json
import os
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from torch import Tensor, nn

from ..files import remove
from ..models.digest import tensor_digest, text_digest, weights_digest
from ..models.loading import is_processed, model_name
from ..saved import read_entry, read_tensors, write_tensors
from ..tasks import Task
from ..vectors import TaskVector

T = TypeVar("T")

# Code that shows results and computes none: changes there leave every key as it is.
_DISPLAY_FOLDERS = {"viz", "cli"}
_DISPLAY_FILES = ("*show.py", "*page.py", "*figures.py")
_KEY_LENGTH = 16


def content_key(what: str, **content: Any) -> str:
    """Compute a digest of everything that determines a result.

    Args:
        what: name of the result and its study.
        content: models, tasks, vectors, templates, settings, in any nesting. An object of a kind
            that nothing is known about gives another digest every time: it is never taken for
            another one.
    """
    described = {"what": what, "code": code_digest(), "content": _describe(content)}
    return text_digest(json.dumps(described, sort_keys=True))


@functools.cache
def code_digest(*folders: str) -> str:
    """Compute a digest of the source files and tasks of this package, or of some folders.

    Files that only show results are left out.
    """
    root = Path(__file__).parent.parent
    parts = []
    for folder in folders or (".",):
        for path in sorted((root / folder).rglob("*")):
            file = path.relative_to(root)
            decides = file.suffix in (".py", ".csv", ".json", ".parquet")
            shows = _DISPLAY_FOLDERS & set(file.parts) or any(map(file.match, _DISPLAY_FILES))
            if decides and not shows:
                parts.append(f"{file.as_posix()} {text_digest(path.read_bytes())}")
    return text_digest("\n".join(parts))


def folder_digest(folder: str | os.PathLike) -> str:
    """Compute a digest of the names and bytes of a folder's files, such as a saved model's."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files)
    return text_digest("\n".join(lines))


def cached(
    path: Path | None,
    content: Mapping[str, Any],
    compute: Callable[[], T],
    *,
    load: Callable[[Path], T],
    save: Callable[[T, Path], Any] | None = None,
) -> T:
    """Load the cache entry of the same content, or compute and save it.

    Content that changes gives another entry, which takes the place of the one before it. A damaged
    entry is computed again, with one line on standard error.

    Args:
        path: name of the entry: a file or a folder, as `save` writes it. The key of the content is
            added in front of its suffix, see `entry_path`. None caches nothing.
        content: all that decides the result, as in `content_key`.
        compute: makes the result.
        load: reads an entry; raises `TvlensError` if it is damaged.
        save: writes a result to a file or a folder, atomically; by default the result's
            own method `save`.
    """
    if path is None:
        return compute()
    entry = entry_path(path, load, content)
    result = read_entry(entry, load)
    if result is None:
        result = compute()
        write_entry(entry, result, save)
    return result


def entry_path(path: Path, load: Callable[[Path], Any], content: Mapping[str, Any]) -> Path:
    """Return the path of a cache entry: `plural.json` becomes `plural-3f0a....json`."""
    key = content_key(getattr(load, "__qualname__", ""), **content)
    return path.with_name(f"{path.stem}-{key[:_KEY_LENGTH]}{path.suffix}")


def write_entry(entry: Path, result: Any, save: Callable[[Any, Path], Any] | None = None) -> None:
    """Save a cache entry, and remove entries of other content."""
    if save is None:
        result.save(entry)
    else:
        save(result, entry)
    name = entry.stem[:-_KEY_LENGTH]
    for other in entry.parent.glob(f"{glob.escape(name)}{'[0-9a-f]' * _KEY_LENGTH}{entry.suffix}"):
        if other != entry:
            remove(other)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load tensors that `save_tensors` wrote.

    Raises:
        TvlensError: no such file, or it is damaged.
    """
    return read_tensors(path, kind="tvlens", what="tensors")[0]


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name, atomically."""
    write_tensors(path, tensors, kind="tvlens", metadata={})


def _describe(value: Any) -> Any:
    """Convert content to JSON, with digests of large values; the order of a mapping counts."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return [[_describe(k), _describe(v)] for k, v in value.items()]
    if isinstance(value, list | tuple | range):
        return [_describe(one) for one in value]
    for kind, describe in _KINDS.items():
        if isinstance(value, kind):
            return describe(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return [type(value).__name__, {f.name: _describe(getattr(value, f.name)) for f in fields}]
    if hasattr(value, "hook_dict") and isinstance(value, nn.Module):
        return _model(value)
    if callable(value):
        return _function(value)
    return uuid.uuid4().hex


def _model(model: Any) -> dict[str, Any]:
    """Describe a model by its weights, tokenizer and image processor."""
    return {
        "model": model_name(model),
        "weights": weights_digest(model),
        "processed": is_processed(model),
        "tokenizer": _tokenizer(getattr(model, "tokenizer", None)),
        "images": _image_processor(getattr(model, "processor", None)),
    }


def _vector(vector: TaskVector) -> dict[str, Any]:
    meta = _describe(vector.meta)
    return {"values": tensor_digest(vector.values), "site": vector.site, "meta": meta}


def _task(task: Task) -> dict[str, Any]:
    plain = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    images = {x: _image(source) for x, source in task.images.items()}
    return {k: _describe(v) for k, v in (plain | {"images": images}).items()}


def _image(source: Any) -> str:
    """Compute a digest of an image: of its file's bytes, or of its pixels."""
    if isinstance(source, str | os.PathLike):
        return file_digest(Path(source))
    if isinstance(source, bytes):
        return text_digest(source)
    pixels = np.ascontiguousarray(np.asarray(source))
    return text_digest(f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes())


def file_digest(path: Path) -> str:
    """Compute a digest of a file's bytes, cached by its size and modification time."""
    state = path.stat()
    return _file_digest_once(str(path.resolve()), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_digest_once(path: str, size: int, changed: int) -> str:
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            digest.update(part)
    return digest.hexdigest()


_tokenizers: "weakref.WeakKeyDictionary[Any, tuple[int, str]]" = weakref.WeakKeyDictionary()


def _tokenizer(tokenizer: Any) -> Any:
    """Compute a digest of a tokenizer's vocabulary and rules, without padding and truncation."""
    if tokenizer is None:
        return None
    size = len(tokenizer)
    if (entry := _tokenizers.get(tokenizer)) and entry[0] == size:
        return entry[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else dict(tokenizer.get_vocab())
    rules = {k: v for k, v in rules.items() if k not in ("padding", "truncation")}
    names = ("bos_token_id", "cls_token_id", "eos_token_id")
    special = {name: getattr(tokenizer, name, None) for name in names}
    digest = text_digest(json.dumps([rules, special], sort_keys=True))
    _tokenizers[tokenizer] = size, digest
    return digest


def _image_processor(processor: Any) -> Any:
    """Describe the conversion of images to pixel values and tokens."""
    images = getattr(processor, "image_processor", None)
    if images is None:
        return None
    settings = images.to_dict() if hasattr(images, "to_dict") else vars(images)
    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | list | dict)}
    return [getattr(processor, "image_token", None), json.dumps(plain, sort_keys=True, default=str)]


def _function(value: Callable) -> Any:
    """Describe a function by its code and bound values; without code it is always different."""
    if isinstance(value, functools.partial):
        return [_function(value.func), _describe(value.args), _describe(value.keywords)]
    code = getattr(value, "__code__", None)
    if code is None:
        return uuid.uuid4().hex
    bound = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults = [value.__defaults__, value.__kwdefaults__]
    return [value.__qualname__, _code(code), _describe([bound, *defaults])]


def _code(code: types.CodeType) -> list:
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


_KINDS: dict[type, Callable[[Any], Any]] = {
    Task: _task,
    TaskVector: _vector,
    Tensor: tensor_digest,
    np.generic: lambda number: number.item(),
    np.ndarray: _image,
    os.PathLike: os.fspath,
    bytes: text_digest,
}
