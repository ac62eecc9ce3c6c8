"""Finished work in a folder: made once, and taken from there when a run goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import TvlensError
from ..saved import read_tensors, write_tensors
from ..vectors import TaskVector, VectorReport


def kept_report(
    file: Path | None, key: dict[str, Any], make: Callable[[], VectorReport]
) -> VectorReport:
    """The report in `file` if it was made with the same settings `key`, else a new one, saved."""
    key = json.loads(json.dumps(key))
    if file is not None and file.is_file():
        report = VectorReport.load(file)
        if report.meta.get("key") == key:
            return report
    report = make()
    report.meta["key"] = key
    if file is not None:
        report.save(file)
    return report


def kept_vector(
    file: Path | None, key: dict[str, Any], make: Callable[[], TaskVector]
) -> TaskVector:
    """The vector in `file` if it was extracted with the settings `key`, else a new one, saved."""
    key = json.loads(json.dumps(key))
    if file is not None and file.is_file():
        try:
            vector = TaskVector.load(file)
        except TvlensError:
            vector = None  # another version's file is no reason to stop
        if vector is not None and all(vector.meta.get(k) == v for k, v in key.items()):
            return vector
    vector = make()
    if file is not None:
        vector.save(file)
    return vector


def kept_tensors(
    file: Path | None, key: dict[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors in `file` if they were made with the settings `key`, else new ones, saved."""
    key = json.loads(json.dumps(key))
    if file is not None and file.is_file():
        try:
            tensors, about = read_tensors(file, kind="tvlens", what="outcomes")
        except TvlensError:
            tensors, about = {}, None  # another version's file is no reason to stop
        if about == key:
            return tensors
    tensors = make()
    if file is not None:
        write_tensors(file, tensors, kind="tvlens", about=key)
    return tensors
