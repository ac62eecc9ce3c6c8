"""The claims of the paper on task matrices, tested on each dataset."""

from ...matrices.report import MATRIX, Difference
from ..claims import Claim
from .dataset import DatasetResult
from .tables import PROBE

# Loss of accuracy at which a matrix still counts as near the finetuned model.
_NEAR_FINETUNED = 0.05
# Loss of validation accuracy at which a lower rank still counts as sufficient.
_NEAR_FULL_RANK = 0.01

# Other method -> id of the claim, and its statement.
_COMPARISONS = {
    PROBE: ("beats-probe", "A task matrix surpasses a linear probe on the same states."),
    "permuted": ("beats-permuted", "The pairing matters: permuted pairs do worse."),
    "identity": ("beats-identity", "The finetuned head alone (W = I) is not sufficient."),
    "procrustes": ("beats-rotation", "A rotation is not sufficient."),
}


def dataset_claims(result: DatasetResult) -> list[Claim]:
    """Compute every claim on one dataset."""
    report = result.report
    claims = [
        _compare(result, *_COMPARISONS[other], report.difference(MATRIX, other))
        for other in _COMPARISONS
        if other in report.methods
    ]
    near = _compare(
        result,
        "near-finetuned",
        f"Its accuracy is within {_NEAR_FINETUNED:.2f} of the finetuned model's.",
        report.difference(MATRIX, "finetuned"),
        threshold=-_NEAR_FINETUNED,
    )
    few_examples = _compare(
        result,
        "few-examples",
        "With two examples per class it surpasses the probe.",
        result.samples.reports[0].difference(MATRIX, PROBE),
    )
    return [*claims, near, few_examples, _low_rank(result)]


def group_by_verdict(results: list[DatasetResult], other: str) -> dict[str, list[str]]:
    """Group datasets by whether the matrix "wins", "ties" or "loses" against another method."""
    groups: dict[str, list[str]] = {"wins": [], "ties": [], "loses": []}
    for result in results:
        if other in result.report.methods:
            groups[result.report.difference(MATRIX, other).verdict].append(result.name)
    return groups


def _compare(
    result: DatasetResult,
    id: str,
    statement: str,
    difference: Difference,
    *,
    threshold: float = 0.0,
) -> Claim:
    return Claim(
        id=id,
        statement=statement,
        value=difference.value,
        interval=difference.interval,
        threshold=threshold,
        nulls={},
        where={"dataset": result.name},
    )


def _low_rank(result: DatasetResult) -> Claim:
    """Find the lowest rank that is as accurate as the full matrix on the validation part."""
    curve = result.ranks
    is_sufficient = (curve.accuracy >= float(curve.accuracy[-1]) - _NEAR_FULL_RANK).tolist()
    share = curve.ranks[is_sufficient.index(True)] / curve.ranks[-1]
    return Claim(
        id="low-rank",
        statement="At most half of the ranks are sufficient.",
        value=share,
        interval=(share, share),
        side="below",
        threshold=0.5 + 1e-9,
        nulls={},
        where={"dataset": result.name},
    )
