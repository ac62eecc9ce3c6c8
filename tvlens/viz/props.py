"""Props of CircuitsVis widgets, taken from its own Python functions.

CircuitsVis renders every widget as a page of 1.3 MB after asking a web site whether it is online.
Here its functions run with a recorder in place of that renderer, so the props are exactly its own,
up to two changes: numbers are rounded, and tokens that look like HTML are made to stay text.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

from .arrays import require_same_length, rounded
from .figure import Figure

# CircuitsVis sets tokens as innerHTML: `<s>` would vanish and `<img onerror=...>` would run. An
# invisible word joiner after the `<` or `&` makes it text, there and where tokens are plain text.
_MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=[A-Za-z#])")
_WORD_JOINER = "\u2060"


def record(function: Callable, *args: Any, **options: Any) -> dict[str, Any]:
    """Call a CircuitsVis function and return `{"element": name, "props": {...}}`.

    The props are what it would hand to its renderer, as JSON data.
    """
    from circuitsvis.utils.convert_props import convert_props

    recorded = []

    def render(element: str, **props: Any) -> None:
        recorded.append((element, json.loads(convert_props(props))))

    # The function's own code, with `render` replaced in a copy of its globals: CircuitsVis itself
    # stays as it is for everybody else.
    shaped = types.FunctionType(
        function.__code__, {**function.__globals__, "render": render}, argdefs=function.__defaults__
    )
    shaped(*args, **options)
    ((element, props),) = recorded
    return {"element": element, "props": _as_text(rounded(props))}


def _as_text(value: Any) -> Any:
    if isinstance(value, str):
        return _MARKUP.sub(lambda match: match[0] + _WORD_JOINER, value)
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_text(item) for key, item in value.items()}
    return value


def widget(
    spec: dict[str, Any], title: str, caption: str, alt: str, *, height: int | str, **sizes: str
) -> Figure:
    """Figure around a recorded widget.

    Args:
        spec: what `record` returned.
        title, caption, alt: as in `Figure`.
        height: space to reserve, in pixels or as a CSS expression.
        sizes: further CSS sizes, with `_` for `-`.
    """
    named = {name.replace("_", "-"): size for name, size in sizes.items()}
    named["min-height"] = f"{height}px" if isinstance(height, int) else height
    spec = {**spec, "usermeta": {"tvlens": named}}
    return Figure("circuitsvis", spec, title=title, caption=caption, alt=alt)


def require_labels(name: str, labels: Sequence[str] | None, things: str, count: int) -> None:
    """Raise a ValueError unless there are no labels or exactly one for each thing."""
    if labels is not None:
        require_same_length(name, len(labels), things, count)
