"""The command line of tvlens: studies, each with a page and a JSON; lists of tasks and weights."""

import sys

import typer

from ..errors import TvlensError
from .crossmodal import crossmodal
from .latent import latent
from .lists import tasks, zoo
from .matrix import matrix
from .mixtures import mixtures
from .patch import patch
from .train_vlm import train_vlm
from .vectors import demo, methods, vectors

app = typer.Typer(
    help="Find task vectors in transformers, measure their shape, test them, move them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
COMMANDS = (demo, vectors, methods, patch, mixtures, latent, crossmodal, matrix, train_vlm, tasks)
for command in COMMANDS:
    app.command(command.__name__.replace("_", "-"))(command)
app.add_typer(zoo, name="zoo")


def main() -> None:
    """Entry point: mistakes of the caller are one line and exit status 2."""
    try:
        app()
    except TvlensError as error:
        print(f"tvlens: {error}", file=sys.stderr)
        sys.exit(2)
