"""What the commands share: options, what they say at the end, and Ctrl-C."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..files import check_folder

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Zoo name, hub id or local folder.")
]


def writable(folder: Path) -> Path:
    """An output folder, once it is known that files can be written to it."""
    check_folder(folder)
    return folder


OutOption = Annotated[
    Path,
    typer.Option("--out", "-o", callback=writable, help="Folder for the page and numbers."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def say(out: Path, open_page: bool) -> None:
    """Say where the page and the numbers are, and show the page if asked."""
    page = (out / "index.html").resolve()
    print(f"\npage:    {page}\nnumbers: {page.with_name('report.json')}")
    if open_page:
        _open(page)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C in long work is one line, not a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ntvlens: interrupted; run the same command again to go on", file=sys.stderr)
        raise typer.Exit(2) from None


def _open(page: Path) -> None:
    """Open a page where there is a screen to show it on."""
    import os
    import webbrowser

    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform != "linux" or screen:
        webbrowser.open(page.as_uri())
