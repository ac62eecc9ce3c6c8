"""What the paper on task matrices claims, tested on the datasets at hand."""

from collections.abc import Sequence
from typing import NamedTuple

from ...matrices.report import MATRIX
from .case import Case

PROBE = "ridge_probe"

# What a lower rank may lose in accuracy and still count as enough.
_NEAR = 0.01


class Claim(NamedTuple):
    """What was claimed, what was found, and whether it "holds", is "mixed", or "not seen" there."""

    claim: str
    found: str
    verdict: str


def claims(cases: Sequence[Case]) -> list[Claim]:
    """Every claim with what these datasets say."""
    return [
        _against(cases, PROBE, "A task matrix surpasses a linear probe on the same states."),
        _finetuned(cases),
        _against(cases, "permuted", "It is the pairing that counts: permuted pairs do worse."),
        _against(cases, "identity", "The finetuned head alone (W = I) is not enough."),
        _against(cases, "procrustes", "A rotation is not enough."),
        _rank(cases),
        _few(cases),
    ]


def verdicts(cases: Sequence[Case], other: str) -> dict[str, list[str]]:
    """Datasets on which the matrix "wins", "ties" or "loses" against another method."""
    found: dict[str, list[str]] = {"wins": [], "ties": [], "loses": []}
    for case in cases:
        if other in case.report.names:
            found[case.report.difference(MATRIX, other).verdict].append(case.name)
    return found


def _judged(wins: int, ties: int, loses: int) -> str:
    """A claim of more holds where it is seen on every dataset, and is not seen where on none."""
    if wins and not ties and not loses:
        return "holds"
    return "mixed" if wins else "not seen"


def _against(cases: Sequence[Case], other: str, claim: str) -> Claim:
    counts = {kind: len(names) for kind, names in verdicts(cases, other).items()}
    return Claim(claim, _counted(counts), _judged(**counts))


def _counted(counts: dict[str, int]) -> str:
    return "of {} datasets it wins on {wins}, ties on {ties}, loses on {loses}".format(
        sum(counts.values()), **counts
    )


def _finetuned(cases: Sequence[Case]) -> Claim:
    """Near is: the interval of the difference holds 0."""
    counts = {kind: len(names) for kind, names in verdicts(cases, "finetuned").items()}
    reached = counts["wins"] + counts["ties"]
    shares = [case.report.accuracy() / case.report.accuracy("finetuned") for case in cases]
    found = (
        f"not told apart from the finetuned model on {reached} of {len(cases)}; "
        f"{min(shares):.0%} to {max(shares):.0%} of its accuracy"
    )
    return Claim("It comes near the finetuned model.", found, _judged(reached, 0, counts["loses"]))


def _rank(cases: Sequence[Case]) -> Claim:
    """The lowest rank as accurate, to a hundredth, as the whole matrix on the validation part."""
    enough = []
    for case in cases:
        curve = case.ranks
        good = (curve.accuracy >= float(curve.accuracy[-1]) - _NEAR).tolist()
        enough.append((curve.ranks[good.index(True)], curve.ranks[-1]))
    low = sum(2 * rank <= full for rank, full in enough)
    ranks = sorted(rank for rank, _ in enough)
    middle, full = ranks[len(ranks) // 2], enough[0][1]
    found = f"rank {ranks[0]} to {ranks[-1]} of {full} is enough (median {middle})"
    return Claim("A matrix of low rank is enough.", found, _judged(low, 0, len(cases) - low))


def _few(cases: Sequence[Case]) -> Claim:
    """Against the probe with the fewest training examples: two a class."""
    leads = [case.samples.reports[0].difference(MATRIX, PROBE).verdict for case in cases]
    counts = {kind: leads.count(kind) for kind in ("wins", "ties", "loses")}
    claim = "With few examples (two a class) it surpasses the probe."
    return Claim(claim, _counted(counts), _judged(**counts))
