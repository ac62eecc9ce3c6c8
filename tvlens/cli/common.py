"""What the commands share: options, and what they say at the end."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..files import check_folder

# What every generator of random numbers takes, with room for the seeds behind it.
LARGEST_SEED = 2**31 - 1


def parse_folder(value: str | Path) -> Path:
    """A folder to write into; an empty text is the current one for `Path`, and a mistake here."""
    if not str(value).strip() or "\0" in str(value):
        raise typer.BadParameter("give the name of a folder, or . for this one")
    return Path(value)


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Zoo name, hub id or local folder.")
]


def writable(folder: Path) -> Path:
    """An output folder, once it is known that files can be written to it."""
    check_folder(folder)
    return folder


def out_option(help: str) -> Any:
    """The option of an output folder, which is checked before any work."""
    return typer.Option(
        "--out", "-o", parser=parse_folder, callback=writable, metavar="FOLDER", help=help
    )


OutOption = Annotated[Path, out_option("Folder for the page and numbers.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def say(out: Path, open_page: bool) -> None:
    """Say where the page and the numbers are, and show the page if asked."""
    page = (out / "index.html").resolve()
    print(f"\npage:    {page}\nnumbers: {page.with_name('report.json')}")
    if open_page:
        _open(page)


def _open(page: Path) -> None:
    """Open a page where there is a screen to show it on."""
    import os
    import webbrowser

    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform != "linux" or screen:
        webbrowser.open(page.as_uri())
