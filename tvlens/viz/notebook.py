"""Figures in notebooks: each JavaScript bundle is part of the first cell that needs it."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from . import javascript
from .javascript import LOADER
from .style import FIGURE_STYLE

# Which cell carries each bundle, and the execution in which it last did: library -> (cell, run).
# Its lifetime is that of the kernel.
_hosts: dict[str, tuple[str, str]] = {}


def render_output(fragment: str, libraries: Iterable[str]) -> str:
    """HTML for one output: the fragment, the loader, and the bundles that no other cell carries.

    A bundle goes with the first figure that needs it, and again whenever its cell is run again,
    because that replaces the output in which it was. Outside IPython it is always included.
    """
    needed = [library for library in sorted(libraries) if _takes_bundle(library)]
    return _assemble_html(fragment, needed)


def load() -> None:
    """Display every bundle in this cell, so that all figures of the notebook can be drawn.

    For notebooks whose figures say that JavaScript is missing, for example because the cell that
    carried it was deleted. Outside IPython it does nothing.
    """
    if (run := _current_run()) is None:
        return
    from IPython.display import HTML, display

    for library in javascript.LIBRARIES:
        _hosts[library] = run
    line = '<p class="tvlens-note">tvlens figures are ready.</p>'
    display(HTML(_assemble_html(line, javascript.LIBRARIES)))


def _assemble_html(body: str, libraries: Iterable[str]) -> str:
    tags = javascript.script_tags(libraries)
    return f"<style>{FIGURE_STYLE}</style>\n{body}\n{tags}\n<script>{LOADER}</script>"


def _takes_bundle(library: str) -> bool:
    """Whether the output being made now should carry the bundle; remembers that it does."""
    current = _current_run()
    if current is None:
        return True
    host = _hosts.get(library)
    isolated = "google.colab" in sys.modules  # there every cell's output is a separate frame
    if host == current or (host is not None and host[0] != current[0] and not isolated):
        return False  # an earlier output of this very run has it, or another cell
    _hosts[library] = current
    return True


def _current_run() -> tuple[str, str] | None:
    """(cell, run) of the code being executed by a Jupyter kernel, None anywhere else.

    Front ends name the cell in the request's metadata; where they do not, its code stands for it,
    which survives a second run. The message id tells two runs apart.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    request = shell.get_parent() or {}
    cell = request.get("metadata", {}).get("cellId")
    cell = cell or request.get("content", {}).get("code") or ""
    run = request.get("header", {}).get("msg_id") or shell.execution_count
    return str(cell), str(run)
