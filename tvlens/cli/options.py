"""Options and final output that the commands share."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..files import check_folder

if TYPE_CHECKING:
    from ..studies import Claim

# Every random generator accepts it, and the seeds that follow it.
LARGEST_SEED = 2**31 - 1


def parse_folder(value: str | Path) -> Path:
    """Convert text to a folder path; an empty text is an error, not the current folder."""
    if not str(value).strip() or "\0" in str(value):
        raise typer.BadParameter("give the name of a folder, or . for this one")
    return Path(value)


def check_output_folder(folder: Path) -> Path:
    """Return an output folder if files can be written to it."""
    check_folder(folder)
    return folder


def output_option(help: str) -> Any:
    """Create the option `--out`, which is checked before any work."""
    return typer.Option(
        "--out",
        "-o",
        parser=parse_folder,
        callback=check_output_folder,
        metavar="FOLDER",
        help=help,
    )


def seed_option(use: str) -> Any:
    """Create the option `--seed`.

    Args:
        use: its use, such as "splits, contexts and controls".
    """
    return typer.Option("--seed", min=0, max=LARGEST_SEED, help=f"Random seed of {use}.")


ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="Zoo name, hub id or local folder of the model.")
]
ShotsOption = Annotated[int, typer.Option(min=1, help="Demonstrations in each prompt.")]
OutputOption = Annotated[Path, output_option("Folder for the page and the numbers.")]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def print_claims(claims: Sequence["Claim"], *, over: str = "") -> None:
    """Print a table of claims; with `over`, summarized over seeds, datasets or tasks."""
    import pandas as pd

    from ..studies import summarize_claims

    columns = ["statement", "where", "value", "low", "high", "bound", "verdict"]
    table = pd.DataFrame(summarize_claims(claims, over=over))[columns]
    print(table.to_string(index=False, na_rep="", float_format="{:.4f}".format))


def print_output_paths(folder: Path, *, open_page: bool) -> None:
    """Print where the page and the numbers are, and open the page if requested."""
    page = (folder / "index.html").resolve()
    print(f"\npage:    {page}\nnumbers: {page.with_name('report.json')}")
    if open_page:
        _open_in_browser(page)


def _open_in_browser(page: Path) -> None:
    """Open a page, unless a Linux session has no screen."""
    import os
    import webbrowser

    has_screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform != "linux" or has_screen:
        webbrowser.open(page.as_uri())
