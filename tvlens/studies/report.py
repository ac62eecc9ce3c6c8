"""`StudyReport`: base of studies, with claims, settings, a page and a JSON file."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from ..files import write
from ..saved import tvlens_version, with_checksum
from ..viz import Page
from .claims import Claim


class StudyReport:
    """Base of a study's result.

    A subclass has `settings`, `claims` and `numbers`, and registers its page with
    `build_page.register`.
    """

    settings: dict[str, Any]

    @property
    def claims(self) -> list[Claim]:
        """Claims of the study."""
        raise NotImplementedError

    def numbers(self) -> dict[str, Any]:
        """All results other than claims and settings, as plain data."""
        raise NotImplementedError

    def page(self) -> Page:
        """Build the page."""
        return build_page(self)

    def to_dict(self) -> dict[str, Any]:
        """Settings, claims and numbers as plain data."""
        claims = [claim.to_dict() for claim in self.claims]
        return {
            "tvlens": tvlens_version(),
            "settings": self.settings,
            "claims": claims,
        } | self.numbers()

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `report.json` and `index.html` into a folder; returns the page's path."""
        folder = Path(folder)
        content = json.dumps(with_checksum(self.to_dict()), ensure_ascii=False, indent=1)
        write(folder / "report.json", content)
        return self.page().write(folder / "index.html")

    def _repr_html_(self) -> str:
        return self.page()._repr_html_()


@functools.singledispatch
def build_page(study: StudyReport) -> Page:
    """Build the page of a study, by its type."""
    raise NotImplementedError(f"{type(study).__name__} has no page")


def settings_table(settings: dict[str, Any]) -> dict[str, Any]:
    """Arrange settings for a page: versions in separate rows, at the end."""
    versions = settings.get("versions", {})
    plain = {k: v for k, v in settings.items() if k != "versions"}
    return plain | {f"version of {k}": v for k, v in versions.items()}
