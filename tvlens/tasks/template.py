"""`Template`: how input-output pairs are written as a prompt."""

import re
from dataclasses import dataclass

from ..errors import TvlensError, unknown


@dataclass(frozen=True)
class Template:
    """One demonstration, with {x} and {y} where input and output stand.

    Attributes:
        demonstration: for example "Q: {x}\\nA: {y}\\n\\n". The query is the same text up to the
            delimiter, the words between {x} and {y}. White space right before {y} belongs to the
            label, because that is how tokenisers see it.
        name: of a built-in template.
    """

    demonstration: str
    name: str = ""

    def __post_init__(self) -> None:
        found = re.findall(r"\{[xy]\}", self.demonstration)
        if found != ["{x}", "{y}"]:
            raise TvlensError(
                f"template {self.demonstration!r} must hold {{x}} and then {{y}}, each once"
            )
        if not self.delimiter.strip():
            raise TvlensError(
                f"template {self.demonstration!r} needs a delimiter between {{x}} and {{y}}"
            )

    @classmethod
    def of(cls, template: "str | Template") -> "Template":
        """A built-in template by name, a template written out, or a Template as it is."""
        if isinstance(template, Template):
            return template
        if template in TEMPLATES:
            return TEMPLATES[template]
        if "{" in template:
            return cls(template.encode().decode("unicode_escape") if "\\" in template else template)
        raise unknown("template", template, TEMPLATES, hint="or write one with {x} and {y}")

    @property
    def _between(self) -> str:
        return self.demonstration.split("{x}")[1].split("{y}")[0]

    @property
    def prefix(self) -> str:
        """What stands before the input."""
        return self.demonstration.split("{x}")[0]

    @property
    def delimiter(self) -> str:
        """What stands between input and label; its last token is where a task vector lives."""
        return self._between.rstrip()

    @property
    def gap(self) -> str:
        """White space between the delimiter and the output, written as part of the label."""
        return self._between[len(self.delimiter) :]

    @property
    def separator(self) -> str:
        """What ends a demonstration."""
        return self.demonstration.split("{y}")[1]


TEMPLATES = {
    "qa": Template("Q: {x}\nA: {y}\n\n", "qa"),
    "arrow": Template("{x} -> {y}\n", "arrow"),
    "colon": Template("{x}: {y}\n", "colon"),
}
