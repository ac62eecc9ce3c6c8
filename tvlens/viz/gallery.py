"""Small pictures in a row, carried by the page itself."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from .figure import Figure


def thumbnail(file: bytes, name: str) -> str:
    """An `img` element that holds a PNG file; pointing at it shows its name."""
    words = html.escape(name, quote=True)
    data = base64.b64encode(file).decode()
    # Attributes are parted by slashes: CircuitsVis writes spaces as ones that do not break lines,
    # which part nothing.
    source = f'src="data:image/png;base64,{data}"'
    return f'<img/class="tvlens-thumbnail"/{source}/alt="{words}"/title="{words}"/>'


def pictures(files: Sequence[tuple[str, bytes]], *, title: str = "", caption: str = "") -> Figure:
    """Pictures side by side, each with its name under it.

    Args:
        files: names with PNG files.

    Raises:
        ValueError: no picture.
    """
    if not files:
        raise ValueError("pictures needs at least one picture")
    cells = "".join(
        f'<span class="tvlens-picture">{thumbnail(file, name)}<small>{html.escape(name)}</small>'
        "</span>"
        for name, file in files
    )
    body = {"html": f'<div class="tvlens-pictures">{cells}</div>'}
    alt = f"pictures of {', '.join(name for name, _ in files)}"
    return Figure("html", body, title=title, caption=caption, alt=alt)
