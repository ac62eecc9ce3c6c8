"""`tvlens mixtures`: is it Bayes, in a language model."""

from pathlib import Path
from typing import Annotated

import typer

from ..signals import interruptible
from .common import LARGEST_SEED, ModelOption, OpenOption, OutOption, say


def mixtures(
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="Tasks on the same inputs, a,b or a,b,c; repeat for more sets."
        ),
    ] = None,
    model: ModelOption = "smollm2-135m",
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations a prompt.")] = 6,
    count: Annotated[int, typer.Option(min=2, help="Mixed prompts a set of tasks.")] = 252,
    noise: Annotated[
        float, typer.Option(min=0, max=1, help="Share of wrong labels Bayes reckons with.")
    ] = 0.05,
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Of splits, prompts and controls.")
    ] = 0,
    out: OutOption = Path("out/mixtures"),
    open_page: OpenOption = False,
) -> None:
    """Mix demonstrations of tasks: do states and answers follow the posterior over tasks?"""
    from ..models.loading import load
    from ..studies import mixtures as study
    from ..tasks import Task

    sets = [[Task.load(name) for name in names.split(",")] for names in task or []]
    options = {"shots": shots, "count": count, "noise": noise, "seed": seed}
    with interruptible():
        result = study.run(load(model), sets or study.MIXTURES, folder=out, **options)
    print(result.to_dataframe().to_string(index=False, float_format=lambda v: f"{v:.2f}"))
    say(out, open_page)
