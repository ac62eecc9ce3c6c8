"""The command line of tvlens: studies, each with a page and a JSON; lists of tasks and weights."""

import contextlib
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import TvlensError
from ..files import one_line
from ..signals import INTERRUPTED, install_handlers, say_interrupted
from . import crossmodal, latent, lists, matrix, mixtures, patch, train_vlm, vectors


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"tvlens {__version__}")
        raise typer.Exit
    return asked


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
    """Run the command line: mistakes of the caller are one line and exit status 2, an interrupt
    (Ctrl-C, SIGTERM, SIGHUP) one line and exit status 130.
    """
    install_handlers()
    # Names may hold what a terminal cannot show.
    with contextlib.suppress(AttributeError, OSError):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    """Run the command that the arguments name; returns the exit status."""
    try:
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:  # as newer versions of typer have it
            say_interrupted()
        return status
    except TvlensError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        say_interrupted()
        return INTERRUPTED
    except OSError as error:  # what a disk or a folder refuses
        message = one_line(error)
    except Exception as error:
        # Typer has its own copy of click in some versions: mistakes in options are known by form.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context:
            print(context.get_help())
            return 2
        message = error.format_message() or "nothing was asked"
        if context:
            message += f" (`{context.command_path} --help` lists what there is)"
    print(f"tvlens: {' '.join(message.split())}", file=sys.stderr)
    return 2
