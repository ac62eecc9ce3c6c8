"""`Claim`: a statement of a study with its value, nulls and verdict."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import viz
from ..errors import TvlensError
from ..field_checks import check_fields
from ..saved import check_checksum, reading

Verdict = Literal["holds", "misses", "undecided"]
VERDICT_RULE = (
    "A claim holds where the whole interval lies beyond its threshold and beyond every null, "
    "misses where none of it does, and is undecided otherwise, or without an interval."
)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A testable statement with its value, interval, nulls, threshold and verdict.

    Attributes:
        id: short name of the statement, the same in every run, such as `"retrieval-kl"`.
        statement: the claim as a sentence.
        value: the number that tests it.
        interval: 95% interval of `value`; None if unknown. A number without sampling error has an
            interval without width.
        side: on which side of threshold and nulls the statement puts the value.
        threshold: bound that was fixed beforehand; None if the nulls alone decide.
        nulls: the value under each control, or by chance, by name.
        where: the model, layer, task, seed ... of the test, by name.

    Raises:
        ValueError: neither a threshold nor a null, or an unknown side.

    Example:
        >>> from tvlens.studies.claims import Claim
        >>> claim = Claim(
        ...     id="vector-works",
        ...     statement="The task vector raises accuracy above every control.",
        ...     value=0.8,
        ...     interval=(0.7, 0.9),
        ...     nulls={"random": 0.1, "wrong_task": 0.2},
        ...     where={"task": "antonym", "layer": 7},
        ... )
        >>> claim.bound, claim.verdict
        (0.2, 'holds')
    """

    id: str
    statement: str
    value: float
    interval: tuple[float, float] | None
    side: Literal["above", "below"] = "above"
    threshold: float | None = None
    nulls: dict[str, float]
    where: dict[str, str | int]

    def __post_init__(self) -> None:
        if self.side not in ("above", "below"):
            raise ValueError(f"side is 'above' or 'below', not {self.side!r}")
        if self.threshold is None and not self.nulls:
            raise ValueError(f"claim {self.id!r} has neither a threshold nor a null")

    @property
    def bound(self) -> float:
        """The strictest of threshold and nulls, which the value must pass."""
        bounds = [*self.nulls.values(), *([] if self.threshold is None else [self.threshold])]
        return max(bounds) if self.side == "above" else min(bounds)

    @property
    def verdict(self) -> Verdict:
        """The verdict: "holds" if the whole interval passes `bound`, "misses" if none does."""
        if self.interval is None:
            return "undecided"
        sign = 1 if self.side == "above" else -1
        distances = [sign * (end - self.bound) for end in (*self.interval, self.value)]
        if any(math.isnan(distance) for distance in (*distances, *self.nulls.values())):
            return "undecided"
        if min(distances) > 0:
            return "holds"
        return "misses" if max(distances) <= 0 else "undecided"

    def to_dict(self) -> dict[str, Any]:
        """Convert the claim and its verdict to plain data; NaN becomes None."""
        plain = asdict(self) | {"verdict": self.verdict}
        numbers = {k: _to_number(plain[k]) for k in ("value", "threshold")}
        ends = None if self.interval is None else [_to_number(end) for end in self.interval]
        nulls = {name: _to_number(null) for name, null in self.nulls.items()}
        return plain | numbers | {"interval": ends, "nulls": nulls}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Claim":
        """Build a claim from its dictionary.

        Raises:
            TvlensError: a field is missing, unknown or of another type.
        """
        fields = {k: v for k, v in plain.items() if k != "verdict"}
        if isinstance(fields.get("nulls"), dict):
            fields["nulls"] = {k: _from_number(v) for k, v in fields["nulls"].items()}
        if isinstance(fields.get("interval"), list):
            fields["interval"] = tuple(_from_number(end) for end in fields["interval"])
        if "value" in fields:
            fields["value"] = _from_number(fields["value"])
        check_fields(cls, fields)
        return cls(**fields)


def read_claims(path: str | os.PathLike) -> list[Claim]:
    """Load the claims in the `report.json` of a study.

    Raises:
        TvlensError: no such file, or another version of tvlens wrote it; names the version.
    """
    with reading(path, "claims"):
        report = check_checksum(json.loads(Path(path).read_text(encoding="utf-8")))
        version = report.get("tvlens", "0.1")
        try:
            return [Claim.from_dict(claim) for claim in report["claims"]]
        except (TvlensError, KeyError, AttributeError) as error:
            raise TvlensError(f"written by tvlens {version}: {error}") from error


def summarize_claims(claims: Sequence[Claim], *, over: str = "seed") -> list[dict[str, Any]]:
    """Summarize claims over seeds, datasets or tasks: one row per statement and place.

    Args:
        over: key of `Claim.where` that is summarized.

    Returns:
        `statement`, `where`, `value`, `low`, `high`, `bound` and `verdict` of each. Of several
        claims, `value` and `bound` are medians, `low` and `high` the range of values, and the
        verdict counts those that hold.
    """
    groups: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        place = _describe_where({k: v for k, v in claim.where.items() if k != over})
        groups.setdefault((claim.id, claim.statement, place), []).append(claim)
    return [_summarize(group, place) for (_, _, place), group in groups.items()]


def claims_table(claims: Sequence[Claim], *, over: str = "") -> viz.Figure:
    """Build a table of claims; with `over`, summarized by `summarize_claims`."""
    rows = []
    for row in summarize_claims(claims, over=over):
        ends = "" if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
        table_row = {"claim": row["statement"], "where": row["where"], "value": row["value"]}
        table_row |= {"95%" if not over else f"95%, or range over {over}s": ends}
        rows.append(table_row | {k: row[k] for k in ("nulls", "threshold", "verdict")})
    return viz.table(rows)


def _summarize(group: Sequence[Claim], place: str) -> dict[str, Any]:
    first, values = group[0], [claim.value for claim in group]
    is_summary = len(group) > 1
    low, high = (min(values), max(values)) if is_summary else first.interval or (None, None)
    nulls = {
        name: float(np.median([claim.nulls[name] for claim in group if name in claim.nulls]))
        for name in first.nulls
    }
    holding = sum(claim.verdict == "holds" for claim in group)
    return {
        "statement": first.statement,
        "where": place,
        "value": float(np.median(values)),
        "low": low,
        "high": high,
        "bound": float(np.median([claim.bound for claim in group])),
        "nulls": "; ".join(f"{name} {null:.3f}" for name, null in nulls.items()),
        "threshold": "" if first.threshold is None else f"{first.side} {first.threshold:.3g}",
        "verdict": f"{holding} of {len(group)} hold" if is_summary else first.verdict,
    }


def _describe_where(where: Mapping[str, str | int]) -> str:
    """Format a place as text; numbers follow their names."""
    return ", ".join(v if isinstance(v, str) else f"{k} {v}" for k, v in where.items())


def _to_number(number: float | None) -> float | None:
    return None if number is None or math.isnan(number) else float(number)


def _from_number(number: float | None) -> float:
    return math.nan if number is None else number
