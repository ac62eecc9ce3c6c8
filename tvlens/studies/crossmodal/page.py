"""The page of a study of words and pictures."""

from typing import TYPE_CHECKING

import numpy as np

from ... import viz
from ...geometry.show import separation_figure
from ...patching.show import figures as head_figures
from ...vectors.show import phase_figure
from ..reported import listed
from . import paper
from .conditions import CONDITIONS, OTHER
from .result import ABLE, Share

if TYPE_CHECKING:
    from .study import CrossModalStudy

_MAIN = ("no_context", "same_few_shot", "other_few_shot", "same_patch", "other_patch")
_MAIN += ("ensemble_patch", "random", "wrong_task")
_WORD = {"image": "picture", "text": "word"}


def page(study: "CrossModalStudy") -> viz.Page:
    """One page: the claims, the table of conditions, and where they come from."""
    sections = [
        viz.Section("Claims", _CLAIMS, [viz.table([c._asdict() for c in study.claims()])]),
        viz.Section("The pictures", _GALLERY, [_gallery(study)]),
        viz.Section("Pictures asked", _TABLE, [_table(study, "image"), _conditions(study)]),
        viz.Section("Words asked", _WORDS, [_table(study, "text")]),
        viz.Section("Where vectors work", _LAYERS, [_layers(study)]),
        viz.Section("A prompt", _PROMPT.format(**_first(study)), [_prompt(study)]),
        viz.Section("Input, task, answer", _PHASES, [_phases(study)]),
        viz.Section("Heads", _HEADS, [head_figures(study.heads)]),
    ]
    if study.conflicts:
        sections.insert(5, viz.Section("Conflict", _CONFLICT, [_conflicts(study)]))
    if study.shape is not None:
        sections.append(viz.Section("By task or by modality", _SHAPE, _shape(study)))
    sections.append(viz.Section("The paper's table", _PAPER, [_paper(study)]))
    title = f"Tasks in words and in pictures: {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, listed(study.settings))


_CLAIMS = (
    "On the tasks that the model does in words. A task counts as won where 95% intervals over "
    "items are apart; a lead without that is mixed."
)
_GALLERY = "Some inputs of every task, as the model sees them; point at one for its name."
_TABLE = (
    "Share of test items whose first token is right, with 95% bootstrap intervals over items. "
    "Vectors are written at the last delimiter of the bare query, at one layer for all tasks, "
    "chosen on other items. A task that the model cannot do in words cannot show transfer."
)
_WORDS = "The same with words as queries: what the model can do, and whether pictures help words."
_LAYERS = (
    "First-token accuracy on the selection items, the mean over tasks and seeds, by the layer at "
    "which a vector is written."
)
_PROMPT = (
    "A few-shot prompt of {task} with pictures, one for each input. The colour of a token is the "
    "cosine of its state at layer {layer} with the vector out of words, both less the mean state "
    "of the prompt: blue for alike, red for opposed."
)
_PHASES = (
    "Few-shot prompts of all tasks, read at the last token by the logit lens: 1 / rank in the "
    "vocabulary of the query's name, of words that name the task, and of the answer."
)
_HEADS = (
    "Every head's output at the last token is taken from the prompt with demonstrations in words "
    "into the bare picture, one at a time: what it adds to the right answer's log-probability."
)
_SHAPE = (
    "Vectors of single sets of examples, in words and in pictures. If they lie by task, the "
    "silhouette by task is above all permutations of the labels, and the one by modality is not."
)
_CONFLICT = (
    "Demonstrations in words ask for one task about a picture, and the vector of another task on "
    "the same inputs is written in: whose answer is given."
)
_PAPER = (
    "Queries that are pictures, by the lenient measure of the paper (either string begins with the "
    "other), ours on top. Its models have 7 to 8 billion parameters; the animals' Latin names are "
    "beyond a small one."
)


def _first(study: "CrossModalStudy") -> dict[str, object]:
    return {"task": next(iter(study.tasks)), "layer": study.layers["text to image"]}


def _summary(study: "CrossModalStudy") -> list[str]:
    able = [task for task in study.tasks.values() if task.able]
    lines = [
        f"Asked: does a task that {study.settings['model']} reads from words work on pictures, "
        "when its vector alone is written into a query that shows one?"
    ]
    if not able:
        return [*lines, f"Found: it does none of the tasks in words at {ABLE:.0%}."]
    for task in able:
        shares, known = task.shares["image"], task.shares["text"]
        lines.append(
            f"{task.name}: in words {known['same_few_shot'].first:.2f} few-shot and "
            f"{known['same_patch'].first:.2f} with the vector; on pictures the vector out of "
            f"words gives {_told(shares['other_patch'])}, no context "
            f"{shares['no_context'].first:.2f}, words in the prompt "
            f"{shares['other_few_shot'].first:.2f}, the vector out of pictures "
            f"{shares['same_patch'].first:.2f}."
        )
    worst, mixed = (
        max(task.shares["image"][name].first for task in able for name in names)
        for names in (("random", "wrong_task"), ("shuffled_patch",))
    )
    sizes = [task.sizes[2] for task in able]
    verdicts = [claim.verdict for claim in study.claims()]
    lines.append(
        f"Trust: random and wrong-task vectors reach at most {worst:.2f}; vectors of examples with "
        f"shuffled labels, which still show what answers look like, {mixed:.2f}; items "
        f"for extraction, for choosing the layer and for the test are disjoint; {min(sizes)} to "
        f"{max(sizes)} test items a task, {study.settings['seeds']} seed(s). "
        f"{verdicts.count('holds')} of {len(verdicts)} claims hold."
    )
    return lines


def _told(share: Share) -> str:
    return f"{share.first:.2f} [{share.low['first']:.2f}, {share.high['first']:.2f}]"


def _named(condition: str, asked: str) -> str:
    words = {"same": _WORD[asked], "other": _WORD[OTHER[asked]]}
    return CONDITIONS[condition].format(**words)


def _table(study: "CrossModalStudy", asked: str) -> viz.Figure:
    """Conditions down, tasks across, the tasks done in words first."""
    ranked = sorted(study.tasks.values(), key=lambda task: not task.able)
    rows = []
    for condition in CONDITIONS:
        if not any(condition in task.shares[asked] for task in ranked):
            continue
        row: dict[str, object] = {"condition": _named(condition, asked)}
        for task in ranked:
            title = task.name if task.able else f"{task.name} (not done in words)"
            share = task.shares[asked].get(condition)
            row[title] = "" if share is None else _told(share)
        rows.append(row)
    return viz.table(rows)


def _conditions(study: "CrossModalStudy"):
    figures = []
    for task in study.tasks.values():
        shares = task.shares["image"]
        rows = [
            (_named(c, "image"), shares[c].first, shares[c].low["first"], shares[c].high["first"])
            for c in _MAIN
            if c in shares
        ]
        title = f"{task.name}, asked about pictures"
        figures.append(viz.intervals(rows, x_title="first-token accuracy", title=title))
    return viz.row(*figures)


def _layers(study: "CrossModalStudy"):
    figures = []
    for asked, word in _WORD.items():
        curves: dict[str, list] = {}
        for task in study.tasks.values():
            for way, values in task.by_layer.items():
                if way.endswith(f" to {asked}"):
                    curves.setdefault(f"vector of {way.split(' to ')[0]}", []).append(values)
        series = {name: np.mean(rows, axis=0) for name, rows in curves.items()}
        title = f"written into queries that are {word}s"
        axes = {"x_title": "layer", "y_title": "first-token accuracy", "y_domain": (0, 1)}
        figures.append(viz.lines(series, title=title, **axes))
    return viz.row(*figures)


def _conflicts(study: "CrossModalStudy") -> viz.Figure:
    rows = []
    for one in study.conflicts:
        row: dict[str, object] = {"asked in words": one.asked, "patched in": one.patched}
        for when, shares in (("before", one.before), ("after", one.after)):
            for whose, (value, low, high) in shares.items():
                row[f"{whose} task's answer, {when}"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(row | {"items": one.count})
    return viz.table(rows)


def _gallery(study: "CrossModalStudy"):
    rows = [viz.pictures(shown, title=name) for name, shown in study.gallery.items()]
    return viz.stack(*rows)


def _prompt(study: "CrossModalStudy") -> viz.Figure:
    """The prompt's tokens, with each image as one token that shows it."""
    prompt = study.prompt
    tokens, values, shown = [], [], {}
    spans = {
        span[0]: (span[1], image)
        for span, image in zip(prompt.image_spans, prompt.images, strict=True)
    }
    at = 0
    while at < len(prompt):
        stop, image = spans.get(at, (at + 1, None))
        if image is not None:
            shown[len(tokens)] = image.thumbnail(side=40)
        tokens.append(study.words[at] if image is None else image.name)
        values.append(float(study.alignment[at:stop].mean()))
        at = stop
    return viz.colored_tokens(tokens, values, pictures=shown, title="cosine with the vector")


def _phases(study: "CrossModalStudy"):
    return viz.row(
        *(
            phase_figure(found, title=f"demonstrations and query are {_WORD[name]}s")
            for name, found in study.phases.items()
        )
    )


def _shape(study: "CrossModalStudy") -> list:
    from sklearn.decomposition import PCA

    found = study.shape
    pca = PCA(2, random_state=0).fit(found.points.numpy())
    points = pca.transform(found.points.numpy())
    names = [f"{t}, {_WORD[m]}s" for t, m in zip(found.tasks, found.modalities, strict=True)]
    shares = [f"component {i + 1} ({s:.0%})" for i, s in enumerate(pca.explained_variance_ratio_)]
    scatter = viz.scatter(
        points,
        labels=names,
        groups=list(found.tasks),
        x_title=shares[0],
        y_title=shares[1],
        title="vectors of single sets",
    )
    cosines = viz.heatmap(
        found.centred,
        rows=found.means,
        columns=found.means,
        value_title="cosine",
        diverging=True,
        annotate=False,
        title="cosines, less each source's mean",
    )
    weights = viz.heatmap(
        found.own,
        rows=list(study.tasks),
        columns=list(study.tasks),
        row_title="vector out of pictures",
        column_title="weight on the vector out of words",
        value_title="convex weight",
        annotate=True,
        title="picture vectors as mixtures of word vectors",
    )
    by_task, by_modality = (separation_figure(s) for s in (found.by_task, found.by_modality))
    nulls = viz.row(by_task, by_modality, title="silhouette by task, and by modality")
    return [viz.row(scatter, weights), nulls, cosines]


def _paper(study: "CrossModalStudy") -> viz.Figure:
    ours = {name: task.shares["image"] for name, task in study.tasks.items()}
    columns = list(dict.fromkeys([*paper.TASKS, *ours]))
    rows = []
    for condition in (
        "no_context",
        "same_few_shot",
        "same_patch",
        "other_few_shot",
        "other_patch",
        "language_model_patch",
    ):
        row = {"model": study.settings["model"], "condition": _named(condition, "image")}
        found = {n: s[condition].value["lenient"] for n, s in ours.items() if condition in s}
        if found:
            rows.append(row | {column: _two(found.get(column)) for column in columns})
    for model, table in paper.PICTURES.items():
        for condition, values in table.items():
            known = dict(zip(paper.TASKS, values, strict=True))
            row = {"model": model, "condition": _named(condition, "image")}
            rows.append(row | {column: _two(known.get(column)) for column in columns})
    return viz.table(rows)


def _two(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
