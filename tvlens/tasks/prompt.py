"""`Prompt`: tokens with known roles, built from a template and demonstrations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import TvlensError
from .image import Image
from .image_tokens import expand_images, tokenizer_of
from .shuffle import Shown
from .task import Task
from .template import Template

Pair = tuple[str, str]


@dataclass(frozen=True)
class Prompt:
    """A few-shot prompt (zero-shot without demonstrations) with the positions of its parts.

    Attributes:
        text: the whole prompt without its beginning-of-text token; an image is one image token.
        tokens: token ids up to the last delimiter, beginning-of-text token first.
        answer: token ids of the expected answer; empty if none was given.
        inputs: (start, stop) token positions of every input, the query's last.
        delimiters: position of the last token of every delimiter, the query's last.
        labels: (start, stop) token positions of every demonstration's label.
        images: those of the inputs, in order.
        image_spans: (start, stop) token positions of each of them, as the processor expands it.
        instruction: (start, stop) token positions of the task as a request, if it was given one.
    """

    text: str
    tokens: tuple[int, ...]
    answer: tuple[int, ...]
    inputs: tuple[tuple[int, int], ...]
    delimiters: tuple[int, ...]
    labels: tuple[tuple[int, int], ...]
    images: tuple[Image, ...] = ()
    image_spans: tuple[tuple[int, int], ...] = ()
    instruction: tuple[int, int] | None = None

    def answered(self) -> "Prompt":
        """Append the answer's tokens except for the last one, which the model predicts."""
        return replace(self, tokens=self.tokens + self.answer[:-1])

    def __len__(self) -> int:
        return len(self.tokens)


def build(
    processor: Any,
    template: Template,
    demonstrations: Sequence[Shown],
    query: str | Image,
    answer: str = "",
    *,
    instruction: str = "",
) -> Prompt:
    """Build a prompt and tokenize it as a whole; parts are located by their characters.

    Args:
        processor: a tokenizer, or the processor of a model that reads images too.
        demonstrations: each with its input as text or image (`Task.shown`), as the query.
        instruction: the task as a request; it is the first line.

    Raises:
        TvlensError: an answer that tokenizes to nothing, a delimiter or a label that shares its
            tokens with its neighbours, images without a processor, or a tokenizer without
            character offsets.
    """
    tokenizer = tokenizer_of(processor)
    parts: list[tuple[str, str | Image]] = [("instruction", instruction + "\n")] * bool(instruction)
    parts += [part for pair in demonstrations for part in _list_parts(template, *pair)]
    parts += _list_parts(template, query, answer)[:4]
    roles = [role for role, _ in parts]
    images = [part for _, part in parts if isinstance(part, Image)]
    texts = expand_images(processor, [part for _, part in parts])
    pieces, owners = _tokenize(tokenizer, texts)
    spans = [_span(owners, i) for i in range(len(parts))]
    by_role = {
        r: [s for s, role in zip(spans, roles, strict=True) if role == r] for r in set(roles)
    }
    start, end = by_role["delimiter"][-1]
    alone, _ = _tokenize(tokenizer, texts[:-1])
    if start == end or pieces[:end] != alone:
        raise TvlensError(
            f"template {template.demonstration!r} merges its delimiter with {query!r} or "
            f"{answer!r}: end it with a sign, one line end or a space of its own"
        )
    if answer and len(pieces) == end:
        raise TvlensError(f"the answer {answer!r} of {query!r} tokenizes to nothing")
    _check_labels(template, demonstrations, by_role["label"][:-1])
    image_token = getattr(processor, "image_token", "")
    texts = [image_token if isinstance(part, Image) else part for _, part in parts[:-1]]
    image_spans = [s for s, (_, part) in zip(spans, parts, strict=True) if isinstance(part, Image)]
    return Prompt(
        text="".join(texts),
        tokens=tuple(pieces[:end]),
        answer=tuple(pieces[end:]),
        inputs=tuple(by_role["input"]),
        delimiters=tuple(stop - 1 for _, stop in by_role["delimiter"]),
        labels=tuple(by_role["label"][:-1]),
        images=tuple(images),
        image_spans=tuple(image_spans),
        instruction=by_role.get("instruction", [None])[0],
    )


def plain(tokenizer: Any, text: str) -> list[int]:
    """Tokenize a text, after a beginning-of-text token."""
    return _tokenize(tokenizer, [text])[0]


def beginning_token(tokenizer: Any) -> int:
    """Return the first token of every prompt.

    Without one the first word becomes the attention sink, and short prompts stop working.
    """
    for name in ("bos_token_id", "cls_token_id", "eos_token_id"):
        token: int | None = getattr(tokenizer, name, None)
        if token is not None:
            return token
    raise TvlensError("the tokenizer has no beginning-of-text, class or end-of-text token")


def contexts(task: Task, *, shots: int, count: int, seed: int = 0) -> list[tuple[list[Pair], Pair]]:
    """Draw `count` contexts: `shots` demonstrations and a query, all different in a context.

    Raises:
        TvlensError: the task has too few pairs.
    """
    if len(task) < shots + 1:
        raise TvlensError(
            f"{task.name} has {len(task)} pairs here: {shots} shots and a query need {shots + 1}"
        )
    rng = np.random.default_rng(seed)
    draws = [rng.choice(len(task), size=shots + 1, replace=False) for _ in range(count)]
    return [([task.pairs[i] for i in d[:-1]], task.pairs[d[-1]]) for d in draws]


def _check_labels(
    template: Template, demonstrations: Sequence[Shown], spans: Sequence[tuple[int, int]]
) -> None:
    """Raise TvlensError for a label that shares all its tokens with other parts."""
    for (x, y), (start, stop) in zip(demonstrations, spans, strict=True):
        if y and start == stop:
            raise TvlensError(
                f"template {template.demonstration!r} hides the label {y!r} of {x!r}: it shares "
                "its only token with what follows; put a space or a line end behind {y}"
            )


def _list_parts(template: Template, x: str | Image, y: str) -> list[tuple[str, str | Image]]:
    return [
        ("prefix", template.prefix),
        ("input", x),
        ("delimiter", template.delimiter),
        ("label", template.gap + y if y else ""),
        ("separator", template.separator),
    ]


def _tokenize(tokenizer: Any, texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Tokenize the joined texts, and assign each token to a text.

    A token that straddles two texts belongs to the one its last character is in: the model can
    know that text's end only there. The beginning-of-text token belongs to none (-1).
    """
    if tokenizer is None:
        raise TvlensError("this model has no tokenizer: load it with tokenizer=")
    if not getattr(tokenizer, "is_fast", False):
        raise TvlensError(f"{type(tokenizer).__name__} gives no character offsets: use a fast one")
    encoded = tokenizer("".join(texts), add_special_tokens=False, return_offsets_mapping=True)
    ends = np.cumsum([len(text) for text in texts])
    last = np.array([max(stop - 1, 0) for _, stop in encoded["offset_mapping"]], dtype=int)
    owners = np.searchsorted(ends, last, side="right")
    return [beginning_token(tokenizer), *encoded["input_ids"]], [-1, *owners.tolist()]


def _span(owners: Sequence[int], part: int) -> tuple[int, int]:
    """Return the first token of a part and the one after its last; empty parts are empty spans."""
    start = int(np.searchsorted(owners, part, side="left"))
    return start, int(np.searchsorted(owners, part, side="right"))
