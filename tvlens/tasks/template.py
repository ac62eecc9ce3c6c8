"""`Template`: how input-output pairs are written as a prompt."""

import re
import unicodedata
from dataclasses import dataclass

from ..errors import TvlensError, unknown

# An escape sequence of Python's string literals, or a backslash that begins none.
_ESCAPE = re.compile(
    r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|N\{[^}]+\}|[0-7]{1,3}|[\\'\"abfnrtv]|)"
)


@dataclass(frozen=True)
class Template:
    r"""One demonstration, with {x} and {y} in place of input and output.

    Attributes:
        demonstration: for example "Q: {x}\nA: {y}\n\n". The query is the same text up to the
            delimiter, the text between {x} and {y}. One space right before {y} belongs to the
            label, because tokenisers write it as part of the next word (" Paris" is one token);
            all other white space there, such as a line end or a tab, belongs to the delimiter.
        name: name of a built-in template.

    Example:
        >>> tv.Template("{x} -> {y}\n").delimiter
        ' ->'
    """

    demonstration: str
    name: str = ""

    def __post_init__(self) -> None:
        fields = re.findall(r"\{[xy]\}", self.demonstration)
        if fields != ["{x}", "{y}"]:
            raise TvlensError(
                f"template {self.demonstration!r} must hold {{x}} and then {{y}}, each once"
            )
        if not self.delimiter:
            raise TvlensError(
                f"template {self.demonstration!r} needs a delimiter between {{x}} and {{y}}: "
                "a sign, a line end or a tab"
            )

    @classmethod
    def of(cls, template: "str | Template") -> "Template":
        """Create a template from a built-in name or a text; a Template is returned unchanged.

        Escape sequences in a text, as a command line hands them on (a backslash and an n), are
        read as in Python; everything else stays as it is.

        Raises:
            TvlensError: no such name, a backslash that begins no escape sequence, or no template.
        """
        if isinstance(template, Template):
            return template
        if template in TEMPLATES:
            return TEMPLATES[template]
        if "{" in template:
            return cls(_unescape(template))
        raise unknown("template", template, TEMPLATES, hint="or write one with {x} and {y}")

    @classmethod
    def restore(cls, text: str) -> "Template":
        """Restore a result's template from its name or its `demonstration`, without escapes."""
        return TEMPLATES[text] if text in TEMPLATES else cls(text)

    @property
    def _between(self) -> str:
        return self.demonstration.split("{x}")[1].split("{y}")[0]

    @property
    def prefix(self) -> str:
        """Text before the input."""
        return self.demonstration.split("{x}")[0]

    @property
    def delimiter(self) -> str:
        """Text between input and label; the task vector is extracted at its last token."""
        return self._between.removesuffix(" ")

    @property
    def gap(self) -> str:
        """The space between the delimiter and the output, written as part of the label."""
        return self._between[len(self.delimiter) :]

    @property
    def separator(self) -> str:
        """Text after the label."""
        return self.demonstration.split("{y}")[1]


def _unescape(text: str) -> str:
    """Replace the escape sequences of a text."""

    def read(match: re.Match) -> str:
        escape: str = match.group()
        try:
            if escape.startswith("\\N{"):
                return unicodedata.lookup(escape[3:-1])
            if len(escape) > 1:
                return escape.encode("ascii").decode("unicode_escape")
        except (KeyError, UnicodeError):
            pass
        wrong = escape if len(escape) > 1 else text[match.start() : match.start() + 2]
        raise TvlensError(
            f"template {text!r}: {wrong} is no escape sequence; write \\\\ for a backslash, "
            "\\n for a line end, \\u and four hexadecimal digits for a letter by its number"
        )

    return _ESCAPE.sub(read, text)


TEMPLATES = {
    "qa": Template("Q: {x}\nA: {y}\n\n", "qa"),
    "arrow": Template("{x} -> {y}\n", "arrow"),
    "colon": Template("{x}: {y}\n", "colon"),
}
