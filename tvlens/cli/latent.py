"""`tvlens latent`: is it Bayes, in small models trained for it."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .common import LARGEST_SEED, OpenOption, OutOption, say


def latent(
    preset: Annotated[
        str, typer.Option(help="quick (dice, minutes), cpu (all families, hours), paper (a GPU).")
    ] = "quick",
    family: Annotated[
        list[str] | None,
        typer.Option("--family", help="dice, markov or regression; all of the preset's if none."),
    ] = None,
    minor: Annotated[
        str | None,
        typer.Option(help="Exponents k of 2^k minor tasks: none,0,4,8,10; the preset's if none."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="The first of them.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of the training; the preset's if none.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models at once; one a processor if none.")
    ] = None,
    out: OutOption = Path("out/latent"),
    open_page: OpenOption = False,
) -> None:
    """Train small models on latent tasks and hold them against Bayes; finished ones are kept."""
    from ..studies import latent as study

    exponents = None if minor is None else _exponents(minor)
    grid = {"families": family or None, "minor": exponents, "seeds": seeds, "seed": seed}
    with interruptible():
        result = study.run(preset, folder=out, steps=steps, jobs=jobs, **grid)
    print(result.verdicts())
    say(out, open_page)


def _exponents(text: str) -> list[int | str]:
    """What --minor means: numbers, and none."""
    try:
        return [k if k == "none" else int(k) for k in text.replace(" ", "").split(",")]
    except ValueError:
        raise TvlensError(f"--minor {text!r}: give exponents such as none,0,4,8,10") from None
