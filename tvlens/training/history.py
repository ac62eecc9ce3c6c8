"""Settings and history of a training run, as one JSON file that a resumed run reads."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import TvlensError
from ..field_checks import check_value
from ..files import one_line
from ..saved import check_checksum, with_checksum
from . import checkpoint

History = list[dict[str, float]]


def dump_history(settings: Mapping[str, Any], history: History) -> str:
    """Convert settings and history to JSON with a checksum."""
    return json.dumps(with_checksum({"settings": settings, "history": history}), indent=1)


def load_history(path: Path, kind: str) -> tuple[dict, History]:
    """Load settings and history that `dump_history` wrote.

    Args:
        path: the file.
        kind: expected content of its folder, for the error message.

    Raises:
        TvlensError: the folder does not hold this, or the file is damaged.
    """
    try:
        content = check_checksum(json.loads(path.read_text()))
        check_value("settings", content["settings"], dict, {})
        check_value("history", content["history"], list[dict], {})
        return content["settings"], content["history"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TvlensError(f"{path.parent} holds no {kind} ({one_line(error)})") from error


def resume_history(path: Path, settings: dict, load: Callable[[Path], Any]) -> History:
    """Load the history of an interrupted run of these settings; empty if there is none.

    Args:
        path: the history's file.
        settings: settings of the run.
        load: opens the folder of a run.

    Raises:
        TvlensError: a run of other settings is in the folder.
    """
    if not path.exists():
        return []
    run = load(path.parent)
    check_same_settings(path.parent, run.settings, settings)
    checkpoint.remove_leftovers(path.parent)
    history: History = run.history
    return history


def check_finite(record: Mapping[str, float], *, cure: str) -> None:
    """Raise TvlensError if a number of an epoch's record is not finite."""
    for name, value in record.items():
        if not math.isfinite(value):
            raise TvlensError(f"{name} is {value} in epoch {record['epoch']}: {cure} may help")


def check_same_settings(folder: str | os.PathLike, saved: dict, settings: dict) -> None:
    """Raise TvlensError if a folder holds a run of other settings; names the differences."""
    if differences := _list_differences(saved, settings):
        listing = "; ".join(differences)
        raise TvlensError(f"{folder} holds another run: {listing}. Give another folder")


def _list_differences(saved: dict, settings: dict, prefix: str = "") -> list[str]:
    """List the differences of two settings by full name ("config.layers: 2 there, 3 here")."""
    differences = []
    for key in dict.fromkeys([*saved, *settings]):
        old, new = saved.get(key), settings.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            differences += _list_differences(old, new, f"{prefix}{key}.")
        elif old != new:
            differences.append(f"{prefix}{key}: {old} there, {new} here")
    return differences
