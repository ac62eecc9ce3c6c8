"""Finished work in a folder: made once, and taken from there when the same is asked again.

What is kept carries a digest of everything that made it: weights, tokenizer, pairs, images,
template, settings and the code of this package. Other content is another digest, whatever the names
of model, task and file are. What was kept without a digest counts as not there.
"""

import contextlib
import dataclasses
import functools
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

from ..bayes import RetrievalCheck
from ..errors import TvlensError
from ..models.digest import tensor_digest, text_digest, weights_digest
from ..models.loading import is_processed, model_name
from ..saved import read_tensors, write_tensors
from ..tasks import Task
from ..vectors import TaskVector, VectorReport

Made = TypeVar("Made")

# Code that shows results and makes none: changes there leave what is kept as it is.
_SHOWING = ("viz", "cli", "show.py", "page.py", "panels.py", "vectors_page.py", "methods_page.py")


def content_key(what: str, **content: Any) -> str:
    """A digest of all that decides a result.

    Args:
        what: which result of which study it is.
        content: models, tasks, vectors, templates, settings, in any nesting. An object of a kind
            that nothing is known about gives another digest every time: it is never taken for
            another one.
    """
    described = {"what": what, "code": code_digest(), "content": _describe(content)}
    return text_digest(json.dumps(described, sort_keys=True))


@functools.cache
def code_digest(*folders: str) -> str:
    """A digest of the source files and tasks of this package, or of some folders of it.

    Files that only show results are left out.
    """
    root = Path(__file__).parent.parent
    parts = []
    for folder in folders or (".",):
        for path in sorted((root / folder).rglob("*")):
            file = path.relative_to(root)
            decides = file.suffix in (".py", ".csv", ".json", ".parquet")
            if decides and not set(file.parts) & set(_SHOWING):
                parts.append(f"{file.as_posix()} {text_digest(path.read_bytes())}")
    return text_digest("\n".join(parts))


def folder_digest(folder: str | os.PathLike) -> str:
    """A digest of the names and bytes of a folder's files, such as a saved model's."""
    folder = Path(folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = (f"{path.relative_to(folder).as_posix()} {file_digest(path)}" for path in files)
    return text_digest("\n".join(lines))


def kept_report(
    file: Path | None, key: Callable[[], str], make: Callable[[], VectorReport]
) -> VectorReport:
    """The report in `file` if it was made from the same content, else a new one, saved.

    Args:
        file: None keeps nothing.
        key: gives the `content_key`; called only where there is a file.
    """
    return _kept_with_key(file, key, make, VectorReport, lambda report: report.meta)


def kept_check(
    file: Path | None, key: Callable[[], str], make: Callable[[], RetrievalCheck]
) -> RetrievalCheck:
    """The check in `file` if it was made from the same content, else a new one, saved."""
    return _kept_with_key(file, key, make, RetrievalCheck, lambda check: check.settings)


def kept_vector(
    file: Path | None, key: Callable[[], str], make: Callable[[], TaskVector]
) -> TaskVector:
    """The vector in `file` if it was extracted from the same content, else a new one, saved."""
    return _kept_with_key(file, key, make, TaskVector, lambda vector: vector.meta)


def kept_tensors(
    file: Path | None, key: Callable[[], str], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors in `file` if they were made from the same content, else new ones, saved."""
    if file is None:
        return make()
    content = key()
    tensors, _ = _kept(
        file,
        lambda path: read_tensors(path, kind="tvlens", what="outcomes"),
        lambda found: found[1] == {"key": content},
        lambda: (make(), {"key": content}),
        lambda made, to: write_tensors(to, made[0], kind="tvlens", about=made[1]),
    )
    return tensors


def _kept_with_key(
    file: Path | None,
    key: Callable[[], str],
    make: Callable[[], Made],
    kind: type[Made],
    about: Callable[[Made], dict[str, Any]],
) -> Made:
    """A result that carries its key among what it says `about` itself."""
    if file is None:
        return make()
    content = key()

    def marked() -> Made:
        made = make()
        about(made)["key"] = content
        return made

    return _kept(
        file,
        kind.load,  # type: ignore[attr-defined]
        lambda found: about(found).get("key") == content,
        marked,
        kind.save,  # type: ignore[attr-defined]
    )


def _kept(
    file: Path,
    load: Callable[[Path], Made],
    same: Callable[[Made], bool],
    make: Callable[[], Made],
    save: Callable[[Made, Path], None],
) -> Made:
    """What `file` holds, if that is the same as would be made; else what is made, saved there."""
    if file.is_file():
        # Another version's file, or a broken one, is no reason to stop.
        with contextlib.suppress(TvlensError):
            if same(found := load(file)):
                return found
    made = make()
    save(made, file)
    return made


def _describe(value: Any) -> Any:
    """Any content as JSON: what is large as a digest. The order of a mapping counts."""
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
    """A model as it computes: its weights, and how it reads texts and images."""
    return {
        "model": model_name(model),
        "weights": weights_digest(model),
        "processed": is_processed(model),
        "tokenizer": _tokenizer(getattr(model, "tokenizer", None)),
        "images": _image_processor(getattr(model, "processor", None)),
    }


def _vector(vector: TaskVector) -> dict[str, Any]:
    meta = {k: v for k, v in vector.meta.items() if k != "key"}
    return {"values": tensor_digest(vector.values), "site": vector.site, "meta": _describe(meta)}


def _task(task: Task) -> dict[str, Any]:
    plain = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
    images = {x: _image(source) for x, source in task.images.items()}
    return {k: _describe(v) for k, v in (plain | {"images": images}).items()}


def _image(source: Any) -> str:
    """A digest of a picture: of the file's bytes where it comes as one, else of its pixels."""
    if isinstance(source, str | os.PathLike):
        return file_digest(Path(source))
    if isinstance(source, bytes):
        return text_digest(source)
    pixels = np.ascontiguousarray(np.asarray(source))
    return text_digest(f"{pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes())


def file_digest(path: Path) -> str:
    """A digest of a file's bytes, read once while size and time of change stay the same."""
    state = path.stat()
    return _file_digest_once(str(path.resolve()), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_digest_once(path: str, size: int, changed: int) -> str:
    found = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while part := file.read(1 << 24):
            found.update(part)
    return found.hexdigest()


_tokenizers: "weakref.WeakKeyDictionary[Any, tuple[int, str]]" = weakref.WeakKeyDictionary()


def _tokenizer(tokenizer: Any) -> Any:
    """A digest of a tokenizer's vocabulary and rules; how it pads and cuts is set by each call."""
    if tokenizer is None:
        return None
    size = len(tokenizer)
    if (kept := _tokenizers.get(tokenizer)) and kept[0] == size:
        return kept[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else dict(tokenizer.get_vocab())
    rules = {k: v for k, v in rules.items() if k not in ("padding", "truncation")}
    names = ("bos_token_id", "cls_token_id", "eos_token_id")
    special = {name: getattr(tokenizer, name, None) for name in names}
    digest = text_digest(json.dumps([rules, special], sort_keys=True))
    _tokenizers[tokenizer] = size, digest
    return digest


def _image_processor(processor: Any) -> Any:
    """How pictures become pixel values and tokens."""
    images = getattr(processor, "image_processor", None)
    if images is None:
        return None
    settings = images.to_dict() if hasattr(images, "to_dict") else vars(images)
    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float | list | dict)}
    return [getattr(processor, "image_token", None), json.dumps(plain, sort_keys=True, default=str)]


def _function(value: Callable) -> Any:
    """A function by its code and what is bound to it; one without code is never the same."""
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
