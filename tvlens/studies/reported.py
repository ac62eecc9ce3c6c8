"""`Reported`: how a study becomes a page and a JSON, and shows itself in a notebook."""

import json
import os
from pathlib import Path
from typing import Any

from ..files import write
from ..viz import Page


class Reported:
    """Gives a study with a `page` and a `to_json` its files and its place in a notebook."""

    def page(self) -> Page:
        """The report page."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """All numbers and settings, as plain data."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.page()._repr_html_()

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `report.json` and `index.html` into a folder; returns the page's path."""
        folder = Path(folder)
        content = json.dumps(self.to_json(), ensure_ascii=False, indent=1)
        write(folder / "report.json", content)
        return self.page().write(folder / "index.html")


def listed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a page lists them: versions in rows of their own, at the end."""
    plain = {k: v for k, v in settings.items() if k != "versions"}
    return plain | {f"version of {k}": v for k, v in settings["versions"].items()}
