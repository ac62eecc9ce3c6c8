"""Wrong labels for demonstrations, a control for the form of the prompt."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..errors import TvlensError
from .image import Image

Shown = tuple[str | Image, str]


def shuffled_labels(
    demonstrations: Sequence[Shown], *, labels: Sequence[str] = (), seed: int = 0
) -> list[Shown]:
    """Shuffle labels such that no demonstration has its own.

    The labels are those of the demonstrations in another order, a derangement by label. Where
    there is none, because one label stands in more than half of them (or there is only one of
    them), the labels that are missing are drawn from `labels`.

    With two classes every label is the other one, which specifies the task just as well.

    Args:
        labels: labels of the whole task, each as often as it occurs there.
        seed: the same seed gives the same labels.

    Raises:
        TvlensError: a demonstration has a label that no other can replace.
    """
    if not demonstrations:
        return []
    answers = [y for _, y in demonstrations]
    rng = np.random.default_rng(seed)
    shift = int(rng.integers(1, max(2, len(answers))))
    mixed = [answers[(i + shift) % len(answers)] for i in range(len(answers))]
    if any(a == b for a, b in zip(mixed, answers, strict=True)):
        mixed = _derange(answers, labels, rng)
    return [(x, y) for (x, _), y in zip(demonstrations, mixed, strict=True)]


def _derange(answers: Sequence[str], labels: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Assign another label to each one, with the same counts as far as possible."""
    common, count = Counter(answers).most_common(1)[0]
    others = [label for label in labels if label != common]
    # So many of the most common label find no other one among those given.
    missing = max(0, 2 * count - len(answers))
    if missing and not others:
        raise TvlensError(
            f"labels cannot be shuffled: {count} of {len(answers)} demonstrations have the label "
            f"{common!r}, and there is too little of any other; a task needs two labels"
        )
    extra = [others[int(i)] for i in rng.integers(len(others), size=missing)] if missing else []
    # Equal labels side by side, in an order extra anew: a shift by the largest group's size then
    # gives every place a label of another group.
    order = rng.permutation(len(answers)).tolist()
    rank = {label: i for i, label in enumerate(dict.fromkeys(answers[i] for i in order))}
    rank[common] = -1
    order.sort(key=lambda i: rank[answers[i]])
    pool = [answers[i] for i in order][missing:] + extra
    shift = count - missing
    mixed = [""] * len(answers)
    for place, i in enumerate(order):
        mixed[i] = pool[(place + shift) % len(pool)]
    # Swaps between places break up what a shift would leave: one new label for every old one.
    for i, j in rng.integers(len(answers), size=(8 * len(answers), 2)).tolist():
        if mixed[i] != answers[j] and mixed[j] != answers[i]:
            mixed[i], mixed[j] = mixed[j], mixed[i]
    return mixed
