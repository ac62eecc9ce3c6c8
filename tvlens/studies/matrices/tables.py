"""Results of the study of task matrices as table rows and as JSON."""

from typing import Any

from ...matrices import SharingReport
from ...matrices.report import MATRIX
from .dataset import LORA, DatasetResult

PROBE = "ridge_probe"


def dataset_row(result: DatasetResult) -> dict[str, Any]:
    """Build the row of one dataset in the table of all."""
    report, facts = result.report, result.facts
    low, high = report.interval
    difference = report.difference(MATRIX, PROBE)
    probe_low, probe_high = report.intervals[PROBE]
    return {
        "dataset": result.name,
        "kind": facts["kind"],
        "classes": facts["classes"],
        "train": facts["train"],
        "test": facts["test"],
        "seeds": len(report.layer),
        "layer": int(report.layer.median()),
        "rank": int(report.rank[0]) or min(result.matrix.weight.shape),
        "probe": report.accuracies[PROBE],
        "probe_low": probe_low,
        "probe_high": probe_high,
        "task_matrix": report.accuracy,
        "low": low,
        "high": high,
        "finetuned": report.accuracies["finetuned"],
        "gap_recovered": _gap_recovered(result),
        "difference": difference.value,
        "difference_low": difference.low,
        "difference_high": difference.high,
        "verdict": difference.verdict,
        "identity": report.accuracies.get("identity"),
        "permuted": report.null,
        "lora": report.accuracies.get(LORA),
        "agreement": report.agreement(),
        "oracle": float(report.oracle_accuracy.mean()),
    }


def _gap_recovered(result: DatasetResult) -> float | None:
    """Compute the recovered share of the gap from probe to finetuned model, if there is a gap."""
    gap = result.report.difference("finetuned", PROBE)
    return result.report.gap_recovered() if gap.low > 0 else None


def dataset_numbers(result: DatasetResult) -> dict[str, Any]:
    """Convert the numbers of one dataset to JSON."""
    report = result.report
    return {
        "result": dataset_row(result),
        "facts": result.facts,
        "seeds": {
            "layer": report.layer.tolist(),
            "rank": report.rank.tolist(),
            "accuracy": report.accuracies_by_seed,
        },
        "methods": to_records(report.to_dataframe()),
        "by_layer": {
            "layers": list(report.layers),
            "accuracy": report.by_layer.mean(0).tolist(),
            "r2": report.by_layer_r2.mean(0).tolist(),
        },
        "ranks": to_records(result.ranks.to_dataframe()),
        "spectrum": result.matrix.spectrum().tolist(),
        "layer_pairs_r2": result.layers.r2.tolist(),
        "samples": to_records(result.samples.to_dataframe()),
    }


def sharing_numbers(report: SharingReport) -> dict[str, Any]:
    """Convert the numbers of one matrix for several datasets to JSON."""
    best = report.best()
    return {
        "tasks": list(report.tasks),
        "best_pair": {"tasks": list(best), **mean_difference(report, *best)},
        "all": mean_difference(report, *report.tasks),
        "rows": to_records(report.to_dataframe()),
    }


def mean_difference(report: SharingReport, *tasks: str) -> dict[str, float]:
    """Compute mean accuracies over tasks with the shared matrix and with their own."""
    index = report.index(*tasks)
    is_inside = report.subsets[index]
    return {
        "accuracy": float(report.accuracy[index, is_inside].mean()),
        "own": float(report.accuracy[: len(report.tasks)].diagonal()[is_inside].mean()),
        "difference": float(report.difference[index, is_inside, 0].mean()),
    }


def to_records(frame: Any) -> list[dict]:
    """Convert a data frame to JSON records, with None for NaN."""
    records: list[dict] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return records
