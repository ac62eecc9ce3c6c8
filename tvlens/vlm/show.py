"""Figures of the training of a vision-language model."""

from .. import viz
from ..results import register_figure
from .training import VLMRun

# Test split -> label of its curve.
_LABELS = {
    "new_artist": "new artist, known categories",
    "new_categories": "known artists, new categories",
    "new_artist_and_category": "new artist, new categories",
}


@register_figure(VLMRun)
def vlm_run_figure(run: VLMRun) -> viz.Figure | viz.Figures:
    """Loss and naming accuracy in each test split, by epoch."""
    history = run.history
    if not history:
        return viz.table([{"training": str(run.folder), "epochs": 0}])
    axes = dict(x=[record["epoch"] for record in history], x_title="epoch", title=run.folder.name)
    accuracy = {label: [record[split] for record in history] for split, label in _LABELS.items()}
    return viz.row(
        viz.lines({"loss": [record["loss"] for record in history]}, y_title="loss", **axes),
        viz.lines(accuracy, y_title="accuracy of whole names", y_domain=(0, 1), **axes),
    )
