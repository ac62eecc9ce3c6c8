"""The tables and pictures of the page."""

from typing import TYPE_CHECKING

import numpy as np

from ... import viz
from ...geometry.show import silhouette_figure
from ...vectors.show import phase_figure
from . import paper
from .conditions import CONDITIONS, OTHER
from .result import Share

if TYPE_CHECKING:
    from .study import CrossModalStudy

_MAIN = ("no_context", "same_few_shot", "other_few_shot", "same_patch", "other_patch")
_MAIN += ("ensemble_patch", "random", "wrong_task")
_WORD = {"image": "picture", "text": "word"}


def told(share: Share) -> str:
    """An accuracy with its interval."""
    return f"{share.first:.2f} [{share.low['first']:.2f}, {share.high['first']:.2f}]"


def _named(condition: str, asked: str) -> str:
    words = {"same": _WORD[asked], "other": _WORD[OTHER[asked]]}
    return CONDITIONS[condition].format(**words)


def table(study: "CrossModalStudy", asked: str) -> viz.Figure:
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
            row[title] = "" if share is None else told(share)
        rows.append(row)
    return viz.table(rows)


def conditions(study: "CrossModalStudy") -> viz.Figures:
    """Every task's main conditions on pictures, with intervals."""
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


def layers(study: "CrossModalStudy") -> viz.Figures:
    """Where vectors of each source work, in pictures and in words."""
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


def conflicts(study: "CrossModalStudy") -> viz.Figure:
    """Whose answers are given, before and after."""
    rows = []
    for one in study.conflicts:
        row: dict[str, object] = {"asked in words": one.asked, "patched in": one.patched}
        for when, shares in (("before", one.before), ("after", one.after)):
            for whose, (value, low, high) in shares.items():
                row[f"{whose} task's answer, {when}"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(row | {"items": one.count})
    return viz.table(rows)


def gallery(study: "CrossModalStudy") -> viz.Figures:
    """Some pictures of every task."""
    rows = [viz.pictures(shown, title=name) for name, shown in study.gallery.items()]
    return viz.stack(*rows)


def prompt(study: "CrossModalStudy") -> viz.Figure:
    """The prompt's tokens, with each image as one token that shows it."""
    prompt = study.prompt
    tokens: list[str] = []
    values, shown = [], {}
    spans = {
        span[0]: (span[1], image)
        for span, image in zip(prompt.image_spans, prompt.images, strict=True)
    }
    at = 0
    while at < len(prompt):
        stop, image = spans.get(at, (at + 1, None))
        if image is not None:
            shown[len(tokens)] = image.render_thumbnail(size=40)
        tokens.append(study.words[at] if image is None else image.name)
        values.append(float(study.alignment[at:stop].mean()))
        at = stop
    return viz.colored_tokens(tokens, values, pictures=shown, title="cosine with the vector")


def phases(study: "CrossModalStudy") -> viz.Figures:
    """The three groups of words over depth, by modality."""
    return viz.row(
        *(
            phase_figure(found, title=f"demonstrations and query are {_WORD[name]}s")
            for name, found in study.phases.items()
        )
    )


def shape(study: "CrossModalStudy") -> list:
    """Map, convex weights, silhouettes against chance, and cosines."""
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
    by_task, by_modality = (silhouette_figure(s) for s in (found.by_task, found.by_modality))
    nulls = viz.row(by_task, by_modality, title="silhouette by task, and by modality")
    return [viz.row(scatter, weights), nulls, cosines]


def papers_table(study: "CrossModalStudy") -> viz.Figure:
    """Our conditions above the paper's."""
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
