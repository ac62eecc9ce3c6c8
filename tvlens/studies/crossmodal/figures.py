"""The page of the cross-modal study."""

import numpy as np

from ... import viz
from ..claims import VERDICT_RULE, claims_table
from ..report import build_page, settings_table
from .analyses import VectorGeometry
from .conditions import CONDITIONS, MIN_TEXT_ACCURACY, OTHER_MODALITY, TaskResult
from .study import CrossModalStudy

_MAIN_CONDITIONS = ("no_context", "same_few_shot", "other_few_shot", "same_patch", "other_patch")
_MAIN_CONDITIONS += ("ensemble_patch", "random", "wrong_task")

# Accuracies of Luo et al. 2024, "Task Vectors are Cross-Modal", by the lenient measure, for image
# queries (tables of the main results and of the language model's vectors).
PAPER_TASKS = ("country-capital", "country-currency", "animal-latin", "animal-young")
PAPER_TASKS += ("food-color", "food-flavor")
# Model -> condition -> accuracy on each of the tasks.
PAPER_ACCURACIES = {
    "LLaVA-1.5-7B": {
        "no_context": (0, 0, 0, 0, 0, 0),
        "other_few_shot": (0.02, 0.18, 0.03, 0.23, 0.28, 0.37),
        "other_patch": (0.31, 0.30, 0.26, 0.18, 0.53, 0.31),
        "language_model_patch": (0.33, 0.32, 0.25, 0.33, 0.53, 0.45),
    },
    "Idefics2-8B": {
        "no_context": (0.03, 0.00, 0.03, 0.00, 0.01, 0.01),
        "same_few_shot": (0.71, 0.57, 0.43, 0.12, 0.41, 0.35),
        "same_patch": (0.58, 0.32, 0.40, 0.03, 0.39, 0.17),
        "other_few_shot": (0.11, 0.03, 0.41, 0.13, 0.21, 0.18),
        "other_patch": (0.61, 0.40, 0.48, 0.62, 0.53, 0.39),
        "language_model_patch": (0.57, 0.58, 0.46, 0.55, 0.54, 0.39),
    },
    "Mantis-8B-Fuyu": {"other_patch": (0.32, 0.23, 0.36, 0.09, 0.51, 0.36)},
}


@build_page.register(CrossModalStudy)
def crossmodal_page(study: CrossModalStudy) -> viz.Page:
    """Build the page: claims, accuracies, layers, geometry, phases and heads."""
    image_figures = [conditions_table(study, "image"), condition_figures(study)]
    sections = [
        viz.Section("Claims", _CLAIMS, [claims_table(study.claims)]),
        viz.Section("Images", _IMAGES, [image_gallery(study)]),
        viz.Section("Image queries", _IMAGE_QUERIES, image_figures),
        viz.Section("Text queries", _TEXT_QUERIES, [conditions_table(study, "text")]),
        viz.Section("Layers", _LAYERS, [layer_figures(study)]),
    ]
    if study.conflicts:
        sections.append(viz.Section("Conflict", _CONFLICT, [conflict_table(study)]))
    layer = study.layers["text to image"]
    prompt_text = _PROMPT.format(task=study.alignment.task, layer=layer)
    sections += [
        viz.Section("A prompt", prompt_text, [prompt_figure(study)]),
        viz.Section("Input, task, answer", _PHASES, [phase_figures(study)]),
        viz.Section("Heads", _HEADS, [study.heads.figure()]),
    ]
    if study.geometry is not None:
        figures = geometry_figures(study.geometry, list(study.tasks))
        sections.append(viz.Section("Geometry", _GEOMETRY, figures))
    sections.append(viz.Section("The paper's table", _PAPER, [paper_table(study)]))
    title = f"Transfer between text and images in {study.settings['model']}"
    return viz.Page(title, _summary(study), sections, settings_table(study.settings))


_CLAIMS = f"{VERDICT_RULE} Transfer is tested on tasks that the model solves with text."
_IMAGES = "Some inputs of every task, as the model reads them; point at one for its name."
_IMAGE_QUERIES = (
    "Share of test items whose first token is correct, with 95% Wilson intervals over items. "
    "Vectors are written at the last delimiter of the bare query, at one layer for all tasks, "
    "chosen on other items. A task that the model does not solve with text cannot show transfer."
)
_TEXT_QUERIES = "The same for text queries: what the model can do, and whether images help text."
_LAYERS = (
    "First-token accuracy on the validation items by the layer at which a vector is written: the "
    "mean over tasks and seeds."
)
_PROMPT = (
    "A few-shot prompt of {task} with an image for each input. The colour of a token is the "
    "cosine of its state at layer {layer} with the text vector, both centered on the mean state "
    "of the prompt: blue for similar, red for opposed."
)
_PHASES = (
    "Few-shot prompts of all tasks, read at the last token by the logit lens: 1 / rank in the "
    "vocabulary of the query's name, of words that name the task, and of the answer."
)
_HEADS = (
    "Every head's output at the last token is patched from the prompt with text demonstrations "
    "into the bare image query, one at a time: the change of the correct answer's log-probability."
)
_GEOMETRY = (
    "Vectors of single sets of examples, from text and from images. If they cluster by task, the "
    "silhouette by task exceeds all permutations of the labels, and the one by modality does not."
)
_CONFLICT = (
    "Text demonstrations specify one task for image queries, and the vector of another task on "
    "the same inputs is written: whose answer is given."
)
_PAPER = (
    "Image queries, by the lenient measure of the paper (either string begins with the other); "
    "this model first. The paper's models have 7 to 8 billion parameters; Latin names of animals "
    "are beyond a small one."
)


def _summary(study: CrossModalStudy) -> list[str]:
    tasks = study.tasks.values()
    lines = [
        f"Question: does the vector of a task that {study.settings['model']} reads from text work "
        "when it is written into an image query without demonstrations?"
    ]
    lines += [
        f"{task.name} is left out: the answers of all test items begin with the same token, so "
        "first-token accuracy does not depend on the task."
        for task in tasks
        if task.has_constant_answer
    ]
    solved = [task for task in tasks if task.is_solved_with_text]
    if not solved:
        return [*lines, f"The model solves none of the tasks with text at {MIN_TEXT_ACCURACY:.0%}."]
    for task in solved:
        image, text = task.conditions["image"], task.conditions["text"]
        lines.append(
            f"{task.name}: with text, accuracy is {text['same_few_shot'].accuracy:.2f} few-shot "
            f"and {text['same_patch'].accuracy:.2f} with the vector. For image queries, the text "
            f"vector gives {image['other_patch']}, no context "
            f"{image['no_context'].accuracy:.2f}, text demonstrations "
            f"{image['other_few_shot'].accuracy:.2f}, and the image vector "
            f"{image['same_patch'].accuracy:.2f}."
        )
    return [*lines, _controls_summary(study, solved)]


def _controls_summary(study: CrossModalStudy, solved: list[TaskResult]) -> str:
    def highest(*conditions: str) -> float:
        results = [task.conditions["image"][name] for task in solved for name in conditions]
        return max(result.accuracy for result in results)

    sizes, seeds = sorted({task.sizes[2] for task in solved}), study.settings["seeds"]
    items = " to ".join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))
    verdicts = [claim.verdict for claim in study.claims]
    return (
        f"Controls: random and wrong-task vectors reach at most "
        f"{highest('random', 'wrong_task'):.2f}; vectors of examples with shuffled labels, which "
        f"still show the form of answers, {highest('shuffled_patch'):.2f}. Items for extraction, "
        f"for the choice of the layer and for the test are disjoint; {items} test items a task, "
        f"{seeds} seed{'s' if seeds > 1 else ''}. {verdicts.count('holds')} of {len(verdicts)} "
        "claims hold."
    )


def _label(condition: str, query: str) -> str:
    return CONDITIONS[condition].format(same=query, other=OTHER_MODALITY[query])


def conditions_table(study: CrossModalStudy, query: str) -> viz.Figure:
    """Accuracies with conditions as rows and tasks as columns, solved tasks first."""
    tasks = sorted(study.tasks.values(), key=lambda task: not task.is_solved_with_text)
    rows = []
    for condition in CONDITIONS:
        if not any(condition in task.conditions[query] for task in tasks):
            continue
        row: dict[str, object] = {"condition": _label(condition, query)}
        for task in tasks:
            title = task.name if task.is_solved_with_text else f"{task.name} (not solved with text)"
            row[title] = str(task.conditions[query].get(condition, ""))
        rows.append(row)
    return viz.table(rows)


def condition_figures(study: CrossModalStudy) -> viz.Figures:
    """The main conditions of every task for image queries, with intervals."""
    figures = []
    for task in study.tasks.values():
        results = task.conditions["image"]
        rows = [
            (_label(condition, "image"), results[condition].accuracy, *results[condition].interval)
            for condition in _MAIN_CONDITIONS
            if condition in results
        ]
        title = f"{task.name}, image queries"
        figures.append(viz.intervals(rows, x_title="first-token accuracy", title=title))
    return viz.row(*figures)


def layer_figures(study: CrossModalStudy) -> viz.Figures:
    """Accuracy by layer of the vectors of each source, for image and for text queries."""
    figures = []
    for query in OTHER_MODALITY:
        curves: dict[str, list] = {}
        for task in study.tasks.values():
            for direction, values in task.by_layer.items():
                if direction.endswith(f" to {query}"):
                    curves.setdefault(f"{direction.split(' to ')[0]} vector", []).append(values)
        series = {name: np.mean(rows, axis=0) for name, rows in curves.items()}
        axes = {"x_title": "layer", "y_title": "first-token accuracy", "y_domain": (0, 1)}
        figures.append(viz.lines(series, title=f"{query} queries", **axes))
    return viz.row(*figures)


def conflict_table(study: CrossModalStudy) -> viz.Figure:
    """Shares of both tasks' answers, before and after the vector is written."""
    rows = []
    for conflict in study.conflicts:
        row: dict[str, object] = {
            "task of the prompt": conflict.prompted,
            "task of the vector": conflict.written,
        }
        for when, accuracies in (("before", conflict.before), ("after", conflict.after)):
            for task, (value, low, high) in accuracies.items():
                column = "prompt" if task == "prompted" else "vector"
                row[f"{column}'s answer, {when}"] = f"{value:.2f} [{low:.2f}, {high:.2f}]"
        rows.append(row | {"items": conflict.count})
    return viz.table(rows)


def image_gallery(study: CrossModalStudy) -> viz.Figures:
    """Some images of every task."""
    rows = [viz.image_grid(images, title=name) for name, images in study.thumbnails.items()]
    return viz.stack(*rows)


def prompt_figure(study: CrossModalStudy) -> viz.Figure:
    """The prompt's tokens, with each image as one token that shows it."""
    prompt, tokens, cosines = study.alignment[1:]
    images = {
        start: (stop, image)
        for (start, stop), image in zip(prompt.image_spans, prompt.images, strict=True)
    }
    labels: list[str] = []
    values, thumbnails = [], {}
    start = 0
    while start < len(prompt):
        stop, image = images.get(start, (start + 1, None))
        if image is not None:
            thumbnails[len(labels)] = image.render_thumbnail(size=40)
        labels.append(tokens[start] if image is None else image.name)
        values.append(float(cosines[start:stop].mean()))
        start = stop
    title = "cosine with the text vector"
    return viz.colored_tokens(labels, values, images=thumbnails, title=title)


def phase_figures(study: CrossModalStudy) -> viz.Figures:
    """Reciprocal rank of input, task and answer words by layer, by modality."""
    return viz.row(
        *(
            phases.figure(title=f"{modality} demonstrations and query")
            for modality, phases in study.phases.items()
        )
    )


def geometry_figures(geometry: VectorGeometry, tasks: list[str]) -> list:
    """Map, convex weights, silhouettes with their nulls, and cosines."""
    from sklearn.decomposition import PCA

    pca = PCA(2, random_state=0).fit(geometry.points.numpy())
    labels = zip(geometry.tasks, geometry.modalities, strict=True)
    axes = [f"component {i + 1} ({s:.0%})" for i, s in enumerate(pca.explained_variance_ratio_)]
    scatter = viz.scatter(
        pca.transform(geometry.points.numpy()),
        labels=[f"{task}, {modality}s" for task, modality in labels],
        groups=list(geometry.tasks),
        x_title=axes[0],
        y_title=axes[1],
        title="vectors of single sets",
    )
    cosines = viz.heatmap(
        geometry.centered,
        rows=geometry.means,
        columns=geometry.means,
        value_title="cosine",
        diverging=True,
        annotate=False,
        title="cosines, centered by source",
    )
    weights = viz.heatmap(
        geometry.weights,
        rows=tasks,
        columns=tasks,
        row_title="image vector",
        column_title="weight on the text vector",
        value_title="convex weight",
        annotate=True,
        title="image vectors as mixtures of text vectors",
    )
    silhouettes = viz.row(
        geometry.by_task.figure(),
        geometry.by_modality.figure(),
        title="silhouette by task, and by modality",
    )
    return [viz.row(scatter, weights), silhouettes, cosines]


def paper_table(study: CrossModalStudy) -> viz.Figure:
    """Lenient accuracies of this model above those of the paper."""
    columns = list(dict.fromkeys([*PAPER_TASKS, *study.tasks]))

    def row(model: str, condition: str, values: dict[str, float]) -> dict[str, str]:
        cells = {task: f"{values[task]:.2f}" if task in values else "" for task in columns}
        return {"model": model, "condition": _label(condition, "image")} | cells

    rows = []
    for condition in PAPER_ACCURACIES["Idefics2-8B"]:
        values = {
            name: task.conditions["image"][condition].accuracies["lenient"]
            for name, task in study.tasks.items()
            if condition in task.conditions["image"]
        }
        if values:
            rows.append(row(study.settings["model"], condition, values))
    for model, conditions in PAPER_ACCURACIES.items():
        for condition, accuracies in conditions.items():
            values = dict(zip(PAPER_TASKS, accuracies, strict=True))
            rows.append(row(model, condition, values))
    return viz.table(rows)
