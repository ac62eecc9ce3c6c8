"""The JavaScript libraries that draw figures, packed into the page so that nothing is fetched."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = ("circuitsvis", "vega")


@functools.cache
def source(library: str) -> str:
    """JavaScript of a library, as one classic script that registers it with the loader.

    "circuitsvis" is the file inside the installed Python package; "vega" is Vega, Vega-Lite and
    Vega-Embed, built by vl-convert from copies that it carries (about 1 s, no network).

    Raises:
        ValueError: unknown library.
    """
    if library == "circuitsvis":
        body = _circuitsvis() + "\nwindow.tvlens.libraries.circuitsvis = CircuitsVis;"
    elif library == "vega":
        import vl_convert

        body = vl_convert.javascript_bundle("window.tvlens.libraries.vega = vegaEmbed;")
    else:
        raise ValueError(f"unknown library {library!r}; choose one of {', '.join(LIBRARIES)}")
    # Hiding these four names keeps the libraries away from the require.js of classic notebooks.
    return f"((define, module, exports, require) => {{\n{body}\n}})();"


def _circuitsvis() -> str:
    from importlib.util import find_spec

    spec = find_spec("circuitsvis")  # finds the file without importing torch
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("token widgets need circuitsvis: pip install circuitsvis")
    script = Path(spec.origin).parent / "dist" / "cdn" / "iife.js"
    # Developer tools would ask for the source map.
    return script.read_text(encoding="utf-8").replace("//# sourceMappingURL=iife.js.map", "")


@functools.cache
def encoded(library: str) -> str:
    """Gzip'd `source` in base64: the same characters on every call and in every process."""
    packed = gzip.compress(source(library).encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


@functools.cache
def content_hash(library: str) -> str:
    """SHA-256 of `source`, in the form that a Content-Security-Policy asks for."""
    return script_hash(source(library))


def script_hash(script: str) -> str:
    """Content-Security-Policy source expression that allows exactly this inline script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def script_tags(libraries: Iterable[str]) -> str:
    """Inert script elements with the encoded libraries, which the loader unpacks."""
    return "\n".join(
        f'<script type="text/plain" data-tvlens-bundle="{library}">{encoded(library)}</script>'
        for library in sorted(libraries)
    )
