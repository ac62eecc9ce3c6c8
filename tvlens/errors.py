"""One exception type for everything a caller can put right, and the wording of "did you mean"."""

import difflib
from collections.abc import Iterable


class TvlensError(ValueError):
    """A mistake in the input that tvlens can name; the command line shows it in one line."""


def unknown(kind: str, name: object, choices: Iterable[str], *, hint: str = "") -> TvlensError:
    """The error for a name that does not exist: names it and the nearest valid choices.

    Args:
        kind: what was looked up, as a person would say it ("task", "site", "zoo model").
        name: what was asked for.
        choices: every valid name.
        hint: how to see all of them, when the list is long.
    """
    choices = list(choices)
    near = difflib.get_close_matches(str(name).lower(), choices, n=3, cutoff=0.5)
    if near:
        answer = "did you mean " + " or ".join(repr(n) for n in near) + "?"
    elif len(choices) <= 16:
        answer = "choose from " + ", ".join(choices)
    else:
        answer = f"{len(choices)} are known"
    return TvlensError(f"unknown {kind} {str(name)!r}: {answer}" + (f" ({hint})" if hint else ""))
