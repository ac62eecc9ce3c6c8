"""Small images, embedded in the page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from .figure import Figure


def make_thumbnail(file: bytes, name: str) -> str:
    """Return an `img` element with an embedded PNG file; hovering shows its name."""
    words = html.escape(name, quote=True)
    data = base64.b64encode(file).decode()
    # Slashes separate the attributes, because CircuitsVis replaces spaces by no-break spaces.
    source = f'src="data:image/png;base64,{data}"'
    return f'<img/class="tvlens-thumbnail"/{source}/alt="{words}"/title="{words}"/>'


def image_grid(files: Sequence[tuple[str, bytes]], *, title: str = "", caption: str = "") -> Figure:
    """Images side by side, each with its name below it.

    Args:
        files: (name, PNG file) of each image.

    Raises:
        ValueError: there is no image.
    """
    if not files:
        raise ValueError("image_grid needs at least one image")
    cells = "".join(
        f'<span class="tvlens-picture">{make_thumbnail(file, name)}'
        f"<small>{html.escape(name)}</small></span>"
        for name, file in files
    )
    body = {"html": f'<div class="tvlens-pictures">{cells}</div>'}
    alt = f"images of {', '.join(name for name, _ in files)}"
    return Figure("html", body, title=title, caption=caption, alt=alt)
