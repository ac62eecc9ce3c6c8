"""`tvlens demo`, `vectors` and `methods`: extraction and evaluation of task vectors."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..signals import interruptible
from .options import (
    ModelOption,
    OpenOption,
    OutputOption,
    ShotsOption,
    print_output_paths,
    seed_option,
)

DEMO_TASKS = ["singular-plural", "irregular-past", "first-letter", "country-capital"]


def demo(out: OutputOption = Path("out/demo"), open_page: OpenOption = False) -> None:
    """Extract and evaluate the vectors of four tasks in SmolLM2-135M."""
    _study("smollm2-135m", DEMO_TASKS, out=out, open_page=open_page)


def vectors(
    task: Annotated[list[str], typer.Option("--task", "-t", help="Task name or file; repeatable.")],
    model: ModelOption = "smollm2-135m",
    template: Annotated[
        str, typer.Option(help="Prompt template: qa, arrow, colon, or a text with {x} and {y}.")
    ] = "qa",
    shots: ShotsOption = 6,
    contexts: Annotated[int, typer.Option(min=1, help="Prompts whose states are averaged.")] = 20,
    seed: Annotated[int, seed_option("splits, contexts and controls")] = 0,
    processed: Annotated[bool, typer.Option(help="Fold layer norms and center weights.")] = False,
    out: OutputOption = Path("out/vectors"),
    open_page: OpenOption = False,
) -> None:
    """Extract task vectors and evaluate them against controls."""
    options = {"template": template, "shots": shots, "contexts": contexts, "seed": seed}
    _study(model, task, out=out, open_page=open_page, processed=processed, **options)


def methods(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="Task name or file; repeatable. Default: all built-in tasks."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Extraction method; repeatable. Default: all."),
    ] = None,
    model: ModelOption = "smollm2-135m",
    items: Annotated[int, typer.Option(min=2, help="Largest number of test items per task.")] = 40,
    seed: Annotated[int, seed_option("splits, contexts and controls")] = 0,
    out: OutputOption = Path("out/methods"),
    open_page: OpenOption = False,
) -> None:
    """Compare extraction methods on the same tasks."""
    from ..models.loading import load
    from ..studies import methods as study
    from ..tasks import Task

    chosen = [Task.load(name) for name in task] if task else None
    options = {"methods": method} if method else {}
    study.load_tasks(chosen, **options)
    with interruptible():
        result = study.run(load(model), chosen, items=items, seed=seed, folder=out, **options)
    print(result.table().to_string(float_format=lambda v: f"{v:.2f}"))
    print_output_paths(out, open_page=open_page)


def _study(
    model_name: str, tasks: list[str], *, out: Path, open_page: bool, **options: Any
) -> None:
    """Run a study of vectors and print its table and the path of its page."""
    from ..models.loading import load
    from ..studies import vectors as study
    from ..tasks import Task, Template

    # A misspelled name should not cost a download.
    chosen = [Task.load(name) for name in tasks]
    Template.of(options.get("template", "qa"))
    with interruptible():
        model = load(model_name, processed=options.pop("processed", False))
        result = study.run(model, chosen, folder=out, **options)
    print(_table(result))
    for name, report in result.reports.items():
        if report.note:
            print(f"{name}: {report.note}")
    print_output_paths(out, open_page=open_page)


def _table(study: Any) -> str:
    """Return first-token accuracies on the test part, one row per task."""
    import pandas as pd

    rows = []
    for name, report in study.reports.items():
        low, high = report.interval
        row = {"task": name, "n": report.conditions["vector"].count, "layer": report.layer}
        row |= {"zero-shot": report.zero_shot, "vector": report.accuracy}
        row |= {"95%": f"[{low:.2f}, {high:.2f}]", "whole answer": report.full_accuracy}
        row |= {"few-shot": report.few_shot} | report.controls
        rows.append(row)
    table: str = pd.DataFrame(rows).to_string(index=False, float_format=lambda v: f"{v:.2f}")
    return table
