"""The command line: studies, which write a page and a JSON file, and lists of tasks and models."""

import contextlib
import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import TvlensError
from ..files import one_line
from ..signals import INTERRUPTED, install_handlers, say_interrupted
from . import crossmodal, latent, lists, matrix, mixtures, patch, train_vlm, vectors


def _print_version(is_requested: bool) -> bool:
    if is_requested:
        print(f"tvlens {__version__}")
        raise typer.Exit
    return is_requested


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
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Extract, patch, compare and transfer task vectors in transformers."""


def main() -> None:
    """Run the command line.

    An invalid input ends with one line and exit status 2, an interrupt (Ctrl-C, SIGTERM, SIGHUP)
    with one line and exit status 130.
    """
    install_handlers()
    # Names may contain characters that the terminal cannot encode.
    with contextlib.suppress(AttributeError, OSError):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_run())


def _run() -> int:
    """Run the command that the arguments name and return its exit status."""
    try:
        status = app(standalone_mode=False) or 0
        if status == INTERRUPTED:  # newer versions of typer return it
            say_interrupted()
        return status
    except TvlensError as error:
        message = str(error)
    except (KeyboardInterrupt, typer.Abort):
        say_interrupted()
        return INTERRUPTED
    except OSError as error:  # of the file system
        message = one_line(error)
    except Exception as error:
        # Some versions of typer vendor click: usage errors are recognized by their methods.
        if not hasattr(error, "format_message"):
            raise
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError" and context:
            print(context.get_help())
            return 2
        message = error.format_message() or "no command was given"
        if context:
            message += f" (see `{context.command_path} --help`)"
    print(f"tvlens: {' '.join(message.split())}", file=sys.stderr)
    return 2
