"""`tvlens latent`: task inference in small trained transformers against exact posteriors."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import TvlensError
from ..signals import interruptible
from .options import OpenOption, OutputOption, print_output_paths, seed_option


def latent(
    preset: Annotated[
        str,
        typer.Option(help="quick (dice, minutes), cpu (all families, two hours), paper (a GPU)."),
    ] = "quick",
    family: Annotated[
        list[str] | None,
        typer.Option(
            "--family",
            help="dice, markov, regression or dyck; repeatable. Default: all of the preset.",
        ),
    ] = None,
    minor: Annotated[
        str | None,
        typer.Option(
            help="Exponents k of 2^k minor tasks, such as none,0,4,8,10. Default: the preset's."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 1,
    seed: Annotated[int, seed_option("tasks, weights and data; the first of several")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps. Default: the preset's.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Models trained at once. Default: one per processor.")
    ] = None,
    out: OutputOption = Path("out/latent"),
    open_page: OpenOption = False,
) -> None:
    """Train small models on latent tasks and compare them with exact Bayesian observers."""
    from ..studies import latent as study

    exponents = None if minor is None else _exponents(minor)
    grid = {"families": family or None, "minor": exponents, "seeds": seeds, "seed": seed}
    with interruptible():
        result = study.run(preset, folder=out, steps=steps, jobs=jobs, **grid)
    print(result.verdicts())
    print_output_paths(out, open_page=open_page)


def _exponents(text: str) -> list[int | str]:
    """Parse the exponents of --minor: integers and "none"."""
    try:
        return [k if k == "none" else int(k) for k in text.replace(" ", "").split(",")]
    except ValueError:
        raise TvlensError(f"--minor {text!r}: give exponents such as none,0,4,8,10") from None
