"""One matrix for all datasets of a base model, in the study of task matrices."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import TvlensError
from ...matrices import Member, Sharing, share
from ...models.digest import text_digest
from .case import Case, member
from .rows import records
from .twins import Source


def shared_by_base(
    cases: Mapping[str, Case],
    sources: Mapping[str, Source],
    members: Mapping[str, Member],
    *,
    folder: Path,
    seed: int,
    **reading: Any,
) -> dict[str, Sharing]:
    """What datasets of one base model make of one matrix, by base model; kept in the folder.

    Args:
        members: what is at hand from studying the datasets; states of the others are read again.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, case in cases.items():
        groups.setdefault((case.facts["base"], case.facts["readout"]), []).append(name)
    found: dict[str, Sharing] = {}
    for (base, readout), names in groups.items():
        if len(names) < 2:
            continue
        keys = json.dumps([[sources[name].key for name in names], readout, seed])
        place = folder / f"sharing-{text_digest(keys)[:12]}.safetensors"
        title = base if base not in found else f"{base}, {readout} state"
        shared = _kept(place)
        if shared is None:
            shared = share(
                {
                    name: members.get(name)
                    or member(sources[name].twins(), sources[name].parts, **reading)
                    for name in names
                },
                seed=seed,
            )
            shared.save(place)
        found[title] = shared
    return found


def _kept(place: Path) -> Sharing | None:
    try:
        return Sharing.load(place)
    except TvlensError:
        return None


def shared_numbers(found: Sharing) -> dict[str, Any]:
    """All of it as JSON."""
    best = found.best()
    return {
        "tasks": list(found.tasks),
        "best_pair": {"tasks": list(best), **mean_lead(found, *best)},
        "all": mean_lead(found, *found.tasks),
        "rows": records(found.to_dataframe()),
    }


def mean_lead(found: Sharing, *tasks: str) -> dict[str, float]:
    """Lead of the matrix these tasks share over their own ones, as means over the tasks."""
    place = found.place(*tasks)
    mine = found.subsets[place]
    return {
        "accuracy": float(found.accuracy[place, mine].mean()),
        "own": float(found.accuracy[: len(found.tasks)].diagonal()[mine].mean()),
        "lead": float(found.lead[place, mine, 0].mean()),
    }
