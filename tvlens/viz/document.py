"""A standalone HTML document around figures, and writing it to disk in one step."""

from __future__ import annotations

import html
from collections.abc import Iterable

from . import javascript
from .javascript import LOADER
from .style import FIGURE_STYLE, PAGE_STYLE


def render_document(title: str, body: str, libraries: Iterable[str]) -> str:
    """Return a complete page that carries its JavaScript and asks no network.

    Args:
        title: plain text for the window's title bar.
        body: HTML; it is wrapped in a `<div class="page">` unless it brings its own.
        libraries: the bundles that its figures need; none means no script at all.
    """
    libraries = sorted(libraries)
    scripts = f"{javascript.script_tags(libraries)}\n<script>{LOADER}</script>" if libraries else ""
    if 'class="page' not in body[:40]:
        body = f'<div class="page"><main>\n{body}\n</main></div>'
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_content_security_policy(libraries)}">
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


def _content_security_policy(libraries: list[str]) -> str:
    """Content-Security-Policy: no source but the page itself.

    Scripts are allowed by their hash, so that even text that slipped past every escape could not
    run. Vega and CircuitsVis set inline styles while they draw, hence 'unsafe-inline' there.
    """
    allowed = [javascript.library_hash(library) for library in libraries]
    allowed = [javascript.script_hash(LOADER), *allowed] if allowed else ["'none'"]
    return (
        f"default-src 'none'; script-src {' '.join(allowed)}; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
