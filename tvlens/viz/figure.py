"""`Figure` and `Figures`: figures as plain data, shown in a notebook, a page or a file."""

from __future__ import annotations

import hashlib
import html
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..files import write

_counter = itertools.count()


@dataclass(frozen=True)
class Figure:
    """A figure: its specification and its texts.

    Attributes:
        kind: "vega" (a chart), "circuitsvis" (a token widget) or "html".
        spec: Vega-Lite JSON; or `{"element": name, "props": {...}}`; or `{"html": text}`, which is
            inserted as it is. An optional `spec["usermeta"]["tvlens"]` holds CSS sizes of the box,
            for example `{"min-height": "340px"}`, so that drawing moves nothing on the page.
        title: one line above the figure.
        caption: a few sentences below it.
        alt: description of the figure for screen readers.
    """

    kind: Literal["vega", "circuitsvis", "html"]
    spec: dict[str, Any]
    title: str = ""
    caption: str = ""
    alt: str = ""

    @property
    def libraries(self) -> frozenset[str]:
        """Names of the JavaScript bundles that the figure needs."""
        return frozenset() if self.kind == "html" else frozenset([self.kind])

    def fragment(self) -> str:
        """HTML of the figure without any JavaScript library; the loader draws into it."""
        title = f'<p class="tvlens-title">{html.escape(self.title)}</p>' if self.title else ""
        caption = f"<figcaption>{html.escape(self.caption)}</figcaption>" if self.caption else ""
        body = self.spec["html"] if self.kind == "html" else self._mount_html()
        return (
            f'<figure class="tvlens-figure tvlens-{self.kind}">\n{title}\n'
            f'<div class="tvlens-scroll">{body}</div>\n{caption}\n</figure>'
        )

    def _mount_html(self) -> str:
        data = inline_json(self.spec)
        digest = hashlib.sha256(data.encode("utf-8", "backslashreplace")).hexdigest()
        identity = f"tvlens-{digest[:8]}-{next(_counter)}"
        sizes = self.spec.get("usermeta", {}).get("tvlens", {})
        style = html.escape("".join(f"{name}:{size};" for name, size in sorted(sizes.items())))
        words = html.escape(self.alt or self.title or f"{self.kind} figure")
        # A chart's svg carries its own description; the widgets have none.
        role = f' role="group" aria-label="{words}"' if self.kind == "circuitsvis" else ""
        return (
            f'<div id="{identity}" class="tvlens-mount" data-tvlens="{self.kind}" style="{style}"'
            f'{role}><p class="tvlens-alt">{words}</p></div>'
            f'<script type="application/json">{data}</script>'
        )

    def _repr_html_(self) -> str:
        from .notebook import render_output

        return render_output(self.fragment(), self.libraries)

    def save(self, path: str | Path) -> Path:
        """Write the figure to a file, atomically.

        Args:
            path: `.html` for a page that works offline; `.svg` or `.png` for charts only.

        Raises:
            ValueError: an unknown suffix, or an image file of a figure that is not a chart.
        """
        from .document import render_document

        path = Path(path)
        suffix = path.suffix.lower()
        if suffix in (".html", ".htm"):
            return write(path, render_document(self.title, self.fragment(), self.libraries))
        if suffix not in (".svg", ".png"):
            raise ValueError(f"cannot save a figure as {path.name!r}: use .html, .svg or .png")
        if self.kind != "vega":
            raise ValueError(f"{suffix} needs a chart, this figure is {self.kind!r}: use .html")
        return write(path, _render_image(self, suffix))


def _render_image(figure: Figure, suffix: str) -> str | bytes:
    """SVG text or PNG bytes of a chart, dark ink on white, 720 pixels wide."""
    import vl_convert

    title = {"title": {"text": figure.title, "anchor": "start"}} if figure.title else {}
    # Outside a page there is no surrounding text whose colour could be taken over.
    ink = json.dumps({**figure.spec, **title}).replace('"currentColor"', '"#1f2328"')
    spec = {**json.loads(ink), "width": 720, "background": "white"}
    if suffix == ".svg":
        return vl_convert.vegalite_to_svg(spec)
    return vl_convert.vegalite_to_png(spec, scale=2)


def inline_json(data: Mapping[str, Any]) -> str:
    r"""JSON that is safe inside a script element: every `<` is written as `\u003c`.

    So no `</script>` or `<!--` in a token can end the element or open a comment.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@dataclass(frozen=True)
class Figures:
    """Figures with a common title and caption; it nests, and shows itself like a `Figure`.

    Attributes:
        items: the figures, in reading order.
        layout: "row" (side by side, wrapped where the screen is narrow) or "stack".
        title: one line above the group.
        caption: a few sentences below it.
    """

    items: tuple[Figure | Figures, ...]
    layout: Literal["row", "stack"] = "stack"
    title: str = ""
    caption: str = ""

    @property
    def libraries(self) -> frozenset[str]:
        """Names of the JavaScript bundles that any of the figures needs."""
        return frozenset().union(*(item.libraries for item in self.items))

    def fragment(self) -> str:
        """HTML of the group without any JavaScript library."""
        title = f'<p class="tvlens-title">{html.escape(self.title)}</p>' if self.title else ""
        caption = f"<p class='tvlens-note'>{html.escape(self.caption)}</p>" if self.caption else ""
        items = "\n".join(item.fragment() for item in self.items)
        return (
            f'<div class="tvlens-group">\n{title}\n'
            f'<div class="tvlens-{self.layout}">\n{items}\n</div>\n{caption}\n</div>'
        )

    def _repr_html_(self) -> str:
        from .notebook import render_output

        return render_output(self.fragment(), self.libraries)

    def save(self, path: str | Path) -> Path:
        """Write the group as a page that works offline, atomically.

        Raises:
            ValueError: a suffix other than `.html`.
        """
        from .document import render_document

        if Path(path).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"cannot save several figures as {Path(path).name!r}: use .html")
        return write(path, render_document(self.title, self.fragment(), self.libraries))


def row(*figures: Figure | Figures, title: str = "", caption: str = "") -> Figures:
    """Figures side by side; on a narrow screen they wrap."""
    return Figures(figures, layout="row", title=title, caption=caption)


def stack(*figures: Figure | Figures, title: str = "", caption: str = "") -> Figures:
    """Figures one below the other."""
    return Figures(figures, layout="stack", title=title, caption=caption)
