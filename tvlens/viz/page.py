"""`Page`: a report as one HTML page: summary, sections and settings."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write
from .document import render_document
from .figure import Figure, Figures
from .style import NOTEBOOK_STYLE


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        title: heading; unlike titles of figures, it appears in the table of contents.
        text: plain text; an empty line starts a new paragraph.
        figures: the figures, in order.
    """

    title: str
    text: str = ""
    figures: Sequence[Figure | Figures] = ()


@dataclass(frozen=True)
class Page:
    """A report in one HTML file that works offline.

    Attributes:
        title: title of the page.
        summary: sentences: the question, the result and its reliability.
        sections: the sections, in order.
        settings: options, seeds and versions behind the results; shown folded at the end.
    """

    title: str
    summary: Sequence[str] = ()
    sections: Sequence[Section] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def libraries(self) -> frozenset[str]:
        """Names of the JavaScript bundles that the figures need."""
        figures = (figure for section in self.sections for figure in section.figures)
        return frozenset().union(*(figure.libraries for figure in figures))

    def html(self) -> str:
        """The whole page as text."""
        with_contents = " with-contents" if len(self.sections) > 1 else ""
        body = (
            f'<div class="page{with_contents}">\n'
            f"<header><h1>{html.escape(self.title)}</h1>{_summary(self.summary)}</header>\n"
            f"{_contents(self.sections)}\n<main>\n"
            + "\n".join(_section(number, part) for number, part in enumerate(self.sections, 1))
            + f"\n{_settings(self.settings)}</main>\n</div>"
        )
        return render_document(self.title, body, self.libraries)

    def fragment(self) -> str:
        """HTML of the parts without a document around them, for a notebook's own headings."""
        parts = "\n".join(_notebook_section(section) for section in self.sections)
        return (
            f'<div class="tvlens-page">\n<style>{NOTEBOOK_STYLE}</style>\n'
            f"<h2>{html.escape(self.title)}</h2>{_summary(self.summary)}\n"
            f"{parts}\n{_settings(self.settings)}</div>"
        )

    def _repr_html_(self) -> str:
        from .notebook import render_output

        # A whole document would bring its own colours and widths to all of the notebook.
        return render_output(self.fragment(), self.libraries)

    def write(self, path: str | Path) -> Path:
        """Write the page to a file, atomically, and return its path."""
        return write(path, self.html())


def _summary(sentences: Sequence[str]) -> str:
    if isinstance(sentences, str):
        raise ValueError("summary must be a list of sentences, not one string")
    lines = "".join(f"<p>{html.escape(sentence)}</p>" for sentence in sentences)
    return f'<div class="summary">{lines}</div>' if lines else ""


def _contents(sections: Sequence[Section]) -> str:
    if len(sections) < 2:
        return ""
    items = "".join(
        f'<li><a href="#section-{number}">{html.escape(section.title)}</a></li>'
        for number, section in enumerate(sections, 1)
    )
    return f'<nav class="contents" aria-label="Contents"><ol>{items}</ol></nav>'


def _section(number: int, section: Section) -> str:
    return (
        f'<section id="section-{number}" aria-labelledby="heading-{number}">\n'
        f'<h2 id="heading-{number}">{html.escape(section.title)}</h2>\n'
        f"{_content(section)}\n</section>"
    )


def _notebook_section(section: Section) -> str:
    """A section without names, which other outputs of a notebook may have too."""
    title = html.escape(section.title)
    return f'<section aria-label="{title}">\n<h3>{title}</h3>\n{_content(section)}\n</section>'


def _content(section: Section) -> str:
    paragraphs = "".join(
        f"<p>{html.escape(part.strip())}</p>" for part in section.text.split("\n\n") if part.strip()
    )
    figures = "\n".join(figure.fragment() for figure in section.figures)
    return f"{paragraphs}\n{figures}"


def _settings(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    escaped = [
        (html.escape(str(name)), html.escape(_format_value(value)))
        for name, value in settings.items()
    ]
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in escaped
    )
    return (
        "<details><summary>Settings and versions</summary>"
        f'<table class="tvlens-table"><tbody>{rows}</tbody></table></details>\n'
    )


def _format_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
