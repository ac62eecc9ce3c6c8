"""`Claim`: something the paper says, tested in one trained model."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .cell import Cell


@dataclass(frozen=True)
class Claim:
    """One claim in one cell.

    Attributes:
        claim: what is said.
        family, minor, seed: the cell where it was tested.
        value: the number that decides.
        interval: 95% bootstrap interval of it; None where it has none.
        null: what a control or chance gives, and
        control: which one that is.
        threshold: what the value is held against, in words.
        holds: whether the value passes.
    """

    claim: str
    family: str
    minor: int | str
    seed: int
    value: float
    interval: tuple[float, float] | None
    null: float | None
    control: str
    threshold: str
    holds: bool

    @property
    def model(self) -> str:
        """Family and number of minor tasks, in words."""
        return f"{self.family}, {minors(self.minor)}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def tested(
    told: str,
    cell: Cell,
    value: float,
    *,
    above: float | None = None,
    below: float | None = None,
    words: str | None = None,
    **others: Any,
) -> Claim:
    """A claim that holds where the value is on its side of a threshold."""
    if below is not None:
        holds, said = value < below, f"below {below:g}"
    else:
        holds, said = value > above, f"above {above:g}"
    place = cell.family, cell.minor, cell.seed
    return Claim(told, *place, value, threshold=words or said, holds=holds, **others)


def minors(k: int | str) -> str:
    """An exponent as a number of minor tasks, in words."""
    return "no minors" if k == "none" else f"{2**k} minor{'s' if k else ''}"


def verdicts(told: Sequence[Claim]) -> list[dict[str, Any]]:
    """One row per claim and kind of model: value, interval, null, and in how many seeds it holds.

    Of several seeds the row gives the medians, and the range over seeds in place of the interval.
    """
    groups: dict[tuple[str, str], list[Claim]] = {}
    for one in told:
        groups.setdefault((one.claim, one.model), []).append(one)
    return [_verdict(group) for group in groups.values()]


def _verdict(group: list[Claim]) -> dict[str, Any]:
    first, values = group[0], [one.value for one in group]
    several = len(group) > 1
    low, high = (min(values), max(values)) if several else first.interval or (None, None)
    nulls = [one.null for one in group if one.null is not None]
    held = sum(one.holds for one in group)
    return {
        "claim": first.claim,
        "model": first.model,
        "value": float(np.median(values)),
        "low": low,
        "high": high,
        "threshold": first.threshold,
        "null": float(np.median(nulls)) if nulls else None,
        "control": first.control,
        "holds": f"{held} of {len(group)}" if several else "yes" if held else "no",
    }
