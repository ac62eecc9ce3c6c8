"""One matrix for all datasets of a base model, in the study of task matrices."""

from collections.abc import Mapping
from pathlib import Path

from ...file_names import file_name
from ...matrices import SharingReport, SharingTask, evaluate_sharing
from ..cache import cached
from .dataset import DatasetResult, collect_sharing_task
from .model_pair import PairSource


def share_by_base(
    results: Mapping[str, DatasetResult],
    sources: Mapping[str, PairSource],
    tasks: Mapping[str, SharingTask],
    *,
    folder: Path,
    seed: int,
) -> dict[str, SharingReport]:
    """Evaluate one matrix for all datasets of each base model; cached in the folder.

    Args:
        results: result of every dataset.
        sources: model pairs of every dataset.
        tasks: inputs of the datasets that were not cached; the others are collected again.
        folder: folder of the cache.
        seed: seed of the bootstrap.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, result in results.items():
        groups.setdefault((result.facts["base"], result.facts["readout"]), []).append(name)
    reports: dict[str, SharingReport] = {}
    for (base, readout), names in groups.items():
        if len(names) < 2:
            continue
        title = base if base not in reports else f"{base}, {readout} state"

        def compute(names: list[str] = names) -> SharingReport:
            members = {
                name: tasks.get(name)
                or collect_sharing_task(sources[name].load_pair(), sources[name].parts)
                for name in names
            }
            return evaluate_sharing(members, seed=seed)

        reports[title] = cached(
            folder / f"sharing-{file_name(base)}-{readout}.safetensors",
            {"sources": [sources[n].content for n in names], "readout": readout, "seed": seed},
            compute,
            load=SharingReport.load,
        )
    return reports
