"""`tvlens mixtures`: mixed demonstrations in a language model against posteriors over tasks."""

from pathlib import Path
from typing import Annotated

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


def mixtures(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task",
            "-t",
            help="Set of tasks with common inputs, such as a,b or a,b,c; repeatable.",
        ),
    ] = None,
    model: ModelOption = "smollm2-135m",
    shots: ShotsOption = 6,
    count: Annotated[int, typer.Option(min=2, help="Mixed prompts per set of tasks.")] = 252,
    noise: Annotated[
        float, typer.Option(min=0, max=1, help="Label-noise rate assumed by the Bayesian observer.")
    ] = 0.05,
    seed: Annotated[int, seed_option("splits, prompts and controls")] = 0,
    out: OutputOption = Path("out/mixtures"),
    open_page: OpenOption = False,
) -> None:
    """Mix demonstrations of tasks; compare states and answers with posteriors over tasks."""
    from ..models.loading import load
    from ..studies import mixtures as study
    from ..tasks import Task

    sets = [[Task.load(name) for name in names.split(",")] for names in task or []]
    options = {"shots": shots, "count": count, "noise": noise, "seed": seed}
    with interruptible():
        result = study.run(load(model), sets or study.MIXTURES, folder=out, **options)
    print(result.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    print_output_paths(out, open_page=open_page)
