"""`Figures`: several figures shown together, side by side or one below the other."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..files import write
from .figure import Figure


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
        from .notebook import output

        return output(self.fragment(), self.libraries)

    def save(self, path: str | Path) -> Path:
        """Write the group as a page that works offline, atomically.

        Raises:
            ValueError: a suffix other than `.html`.
        """
        from .document import document

        if Path(path).suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"cannot save several figures as {Path(path).name!r}: use .html")
        return write(path, document(self.title, self.fragment(), self.libraries))


def row(*figures: Figure | Figures, title: str = "", caption: str = "") -> Figures:
    """Figures side by side; on a narrow screen they wrap."""
    return Figures(figures, layout="row", title=title, caption=caption)


def stack(*figures: Figure | Figures, title: str = "", caption: str = "") -> Figures:
    """Figures one below the other."""
    return Figures(figures, layout="stack", title=title, caption=caption)
