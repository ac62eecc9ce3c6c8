"""Pictures of trainings: of a small transformer, of an encoder, of a projector."""

from typing import TYPE_CHECKING

from .. import viz

if TYPE_CHECKING:
    from .finetuned import Finetuned
    from .naming import Named
    from .run import Run


def figures(run: "Run") -> viz.Figure | viz.Figures:
    """The loss over the steps, and whatever else was measured."""
    records = [record for record in run.metrics if record["loss"] is not None]
    if not records:
        return viz.table([{"run": str(run.folder), "steps": run.settings["steps"], "made": 0}])
    steps = [record["step"] for record in records]
    names = [name for name in records[0] if name not in ("step", "loss", "lr", "seconds")]

    def curves(*wanted: str, y_title: str) -> viz.Figure:
        series = {name: [record[name] for record in records] for name in wanted}
        return viz.lines(series, x=steps, x_title="step", y_title=y_title, title=run.folder.name)

    shown = [curves("loss", y_title="loss")]
    title = names[0] if len(names) == 1 else "metric"
    return viz.row(*shown, *([curves(*names, y_title=title)] if names else []))


def finetuned_figures(finetuned: "Finetuned") -> viz.Figures:
    """Training and validation loss, and validation accuracy, over the epochs."""
    history = finetuned.history
    epochs = [record["epoch"] for record in history]

    def curves(y_title: str, **columns: str) -> viz.Figure:
        series = {name: [record[key] for record in history] for name, key in columns.items()}
        title = finetuned.folder.name
        return viz.lines(series, x=epochs, x_title="epoch", y_title=y_title, title=title)

    losses = curves("loss (nats)", training="loss", validation="validation_loss")
    return viz.row(losses, curves("accuracy", validation="accuracy"))


# Column of a record -> what a reader sees.
_NAMED = {
    "new_artist": "known things, new artist",
    "new_things": "new things, known artists",
    "new_both": "new things, new artist",
}


def named_figures(named: "Named") -> viz.Figure | viz.Figures:
    """The loss, and the accuracy of whole names on each of the held-out parts, over the epochs."""
    history = named.history
    if not history:
        return viz.table([{"training": str(named.folder), "epochs made": 0}])
    shown = dict(
        x=[record["epoch"] for record in history], x_title="epoch", title=named.folder.name
    )
    accuracy = {label: [record[key] for record in history] for key, label in _NAMED.items()}
    return viz.row(
        viz.lines({"loss": [record["loss"] for record in history]}, y_title="loss", **shown),
        viz.lines(accuracy, y_title="accuracy of whole names", y_domain=(0, 1), **shown),
    )
