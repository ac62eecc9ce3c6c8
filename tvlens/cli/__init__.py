"""The command line of tvlens: studies, each with a page and a JSON; lists of tasks and weights."""

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import TvlensError
from ..files import one_line
from . import crossmodal, latent, lists, matrix, mixtures, patch, train_vlm, vectors


def _print_version(asked: bool) -> None:
    if asked:
        print(f"tvlens {__version__}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (
    vectors.demo,
    vectors.vectors,
    vectors.methods,
    patch.patch,
    mixtures.mixtures,
    latent.latent,
    crossmodal.crossmodal,
    matrix.matrix,
    train_vlm.train_vlm,
    lists.tasks,
)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(lists.zoo, name="zoo")


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Find task vectors in transformers, measure their shape, test them, move them."""


def main() -> None:
    """Entry point: mistakes of the caller, and faults of disks, are one line and exit status 2."""
    try:
        app()
    except (TvlensError, OSError) as error:
        message = str(error) if isinstance(error, TvlensError) else one_line(error)
        print(f"tvlens: {message}", file=sys.stderr)
        sys.exit(2)
