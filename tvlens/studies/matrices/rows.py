"""One dataset of the study of task matrices as a line of a table, and as JSON."""

from typing import Any

from ...matrices.report import MATRIX
from .case import LORA, Case
from .claims import PROBE


def row(case: Case) -> dict:
    """The line of one dataset in the table of all."""
    report, facts = case.report, case.facts
    low, high = report.interval()
    lead = report.difference(MATRIX, PROBE)
    below, above = report.interval(PROBE)
    return {
        "dataset": case.name,
        "kind": facts["kind"],
        "classes": facts["classes"],
        "train": facts["train"],
        "test": facts["test"],
        "seeds": len(report.layer),
        "layer": int(report.layer.median()),
        "rank": int(report.rank[0]) or min(case.matrix.weight.shape),
        "base_probe": report.accuracy(PROBE),
        "base_probe_low": below,
        "base_probe_high": above,
        "task_matrix": report.accuracy(),
        "low": low,
        "high": high,
        "finetuned": report.accuracy("finetuned"),
        "share_of_gap": _share(case),
        "lead": lead.value,
        "lead_low": lead.low,
        "lead_high": lead.high,
        "verdict": lead.verdict,
        "identity": report.accuracy("identity") if "identity" in report.names else None,
        "permuted": report.accuracy("permuted"),
        "lora": report.accuracy(LORA) if LORA in report.names else None,
        "agreement": report.agreement(),
        "oracle": float(report.oracle.mean()),
    }


def _share(case: Case) -> float | None:
    """Of the way from the probe to the finetuned model, where that is a way up."""
    gap = case.report.difference("finetuned", PROBE)
    return case.report.share_of_gap() if gap.low > 0 else None


def numbers(case: Case) -> dict:
    """All of one dataset as JSON."""
    report = case.report
    return {
        "result": row(case),
        "facts": case.facts,
        "seeds": {
            "layer": report.layer.tolist(),
            "rank": report.rank.tolist(),
            "accuracy": [dict(zip(report.names, one, strict=True)) for one in report.by_seed()],
        },
        "methods": records(report.to_dataframe()),
        "by_layer": {
            "layers": list(report.layers),
            "accuracy": report.by_layer.mean(0).tolist(),
            "r2": report.by_layer_r2.mean(0).tolist(),
        },
        "ranks": records(case.ranks.to_dataframe()),
        "spectrum": case.matrix.spectrum().tolist(),
        "layer_pairs_r2": case.layers.r2.tolist(),
        "samples": records(case.samples.to_dataframe()),
    }


def records(frame: Any) -> list[dict]:
    """Rows as JSON knows them: it has no NaN."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
