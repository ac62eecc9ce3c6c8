"""A standalone HTML document around figures, and writing it to disk in one step."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tvlens.viz import bundle
from tvlens.viz.loader import LOADER
from tvlens.viz.style import FIGURE_STYLE, PAGE_STYLE


def document(title: str, body: str, libraries: Iterable[str]) -> str:
    """Return a complete page that carries its JavaScript and asks no network.

    Args:
        title: plain text for the window's title bar.
        body: HTML; it is wrapped in a `<div class="page">` unless it brings its own.
        libraries: the bundles that its figures need; none means no script at all.
    """
    libraries = sorted(libraries)
    scripts = f"{bundle.script_tags(libraries)}\n<script>{LOADER}</script>" if libraries else ""
    if 'class="page' not in body[:40]:
        body = f'<div class="page"><main>\n{body}\n</main></div>'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(libraries)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title or "tvlens figure")}</title>
<style>{PAGE_STYLE}{FIGURE_STYLE}</style>
</head>
<body>
{body}
{scripts}
</body>
</html>
"""


def _policy(libraries: list[str]) -> str:
    """Content-Security-Policy: no source but the page itself.

    Scripts are allowed by their hash, so that even text that slipped past every escape could not
    run. Vega and CircuitsVis set inline styles while they draw, hence 'unsafe-inline' there.
    """
    allowed = [bundle.content_hash(library) for library in libraries]
    allowed = [bundle.script_hash(LOADER), *allowed] if allowed else ["'none'"]
    return (
        f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def write_atomic(path: str | Path, content: str | bytes) -> Path:
    """Write a file so that a reader sees the old content or the new, never half of it.

    Missing folders are made. The content goes to a temporary file in the same folder, which then
    takes the name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp made it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
