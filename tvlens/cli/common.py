"""What the commands share: options, and what they say at the end."""

import sys
from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Zoo name, hub id or local folder.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the page and numbers.")]
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
