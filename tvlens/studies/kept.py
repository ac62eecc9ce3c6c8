"""Finished work in a folder: made once, and taken from there when a run goes on."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ..bayes import RetrievalCheck
from ..errors import TvlensError
from ..saved import read_tensors, write_tensors
from ..vectors import TaskVector, VectorReport

Made = TypeVar("Made")


def kept_report(
    file: Path | None, key: dict[str, Any], make: Callable[[], VectorReport]
) -> VectorReport:
    """The report in `file` if it was made with the same settings `key`, else a new one, saved."""
    return _kept_with_key(file, key, make, VectorReport, lambda report: report.meta)


def kept_check(
    file: Path | None, key: dict[str, Any], make: Callable[[], RetrievalCheck]
) -> RetrievalCheck:
    """The check in `file` if it was made with the same settings `key`, else a new one, saved."""
    return _kept_with_key(file, key, make, RetrievalCheck, lambda check: check.settings)


def kept_vector(
    file: Path | None, key: dict[str, Any], make: Callable[[], TaskVector]
) -> TaskVector:
    """The vector in `file` if it was extracted with the settings `key`, else a new one, saved."""
    wanted = json.loads(json.dumps(key)).items()

    def same(vector: TaskVector) -> bool:
        return all(vector.meta.get(name) == value for name, value in wanted)

    return _kept(file, TaskVector.load, same, make, TaskVector.save)


def kept_tensors(
    file: Path | None, key: dict[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors in `file` if they were made with the settings `key`, else new ones, saved."""
    key = json.loads(json.dumps(key))
    tensors, _ = _kept(
        file,
        lambda path: read_tensors(path, kind="tvlens", what="outcomes"),
        lambda found: found[1] == key,
        lambda: (make(), key),
        lambda made, to: write_tensors(to, made[0], kind="tvlens", about=key),
    )
    return tensors


def _kept_with_key(
    file: Path | None,
    key: dict[str, Any],
    make: Callable[[], Made],
    kind: type[Made],
    about: Callable[[Made], dict[str, Any]],
) -> Made:
    """A result that carries the settings it was made with, among what it says `about` itself."""
    key = json.loads(json.dumps(key))

    def marked() -> Made:
        made = make()
        about(made)["key"] = key
        return made

    return _kept(file, kind.load, lambda found: about(found).get("key") == key, marked, kind.save)  # type: ignore[attr-defined]


def _kept(
    file: Path | None,
    load: Callable[[Path], Made],
    same: Callable[[Made], bool],
    make: Callable[[], Made],
    save: Callable[[Made, Path], None],
) -> Made:
    """What `file` holds, if that is the same as would be made; else what is made, saved there."""
    if file is not None and file.is_file():
        # Another version's file, or a broken one, is no reason to stop.
        with contextlib.suppress(TvlensError):
            if same(found := load(file)):
                return found
    made = make()
    if file is not None:
        save(made, file)
    return made
