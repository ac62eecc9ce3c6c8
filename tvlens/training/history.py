"""The epochs that a folder keeps as JSON beside a training's settings, to go on behind them."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import TvlensError
from ..field_checks import check_value
from ..files import one_line
from ..saved import check_checksum, with_checksum
from . import checkpoint
from .run import check_same

History = list[dict[str, float]]


def told(settings: Mapping[str, Any], history: History) -> str:
    """What stands beside the weights, as JSON."""
    return json.dumps(with_checksum({"settings": settings, "history": history}), indent=1)


def read_told(path: Path, what: str) -> tuple[dict, History]:
    """Settings and history that `told` wrote.

    Raises:
        TvlensError: the file's folder holds no `what`.
    """
    try:
        about = check_checksum(json.loads(path.read_text()))
        check_value("settings", about["settings"], dict, {})
        check_value("history", about["history"], list[dict], {})
        return about["settings"], about["history"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TvlensError(f"{path.parent} holds no {what} ({one_line(error)})") from error


def so_far(path: Path, settings: dict, load: Callable[[Path], Any]) -> History:
    """The epochs that a run of these settings has behind it, where it was interrupted.

    Raises:
        TvlensError: a run of other settings.
    """
    if not path.exists():
        return []
    there = load(path.parent)
    check_same(path.parent, there.settings, settings)
    checkpoint.remove_leftovers(path.parent)
    return there.history


def check_finite(record: Mapping[str, float], *, cure: str) -> None:
    """Raise TvlensError where a number of an epoch's record is not finite."""
    for name, value in record.items():
        if not math.isfinite(value):
            raise TvlensError(f"{name} is {value} in epoch {record['epoch']}: {cure} may help")
