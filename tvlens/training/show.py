"""Figures of training runs: of a small transformer, of an encoder."""

from typing import TYPE_CHECKING

from .. import viz

if TYPE_CHECKING:
    from .finetuned import Finetuned
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
