"""Figures of training runs."""

from .. import viz
from ..results import register_figure
from .finetuning import FinetunedEncoder
from .run import Run


@register_figure(Run)
def run_figure(run: Run) -> viz.Figure | viz.Figures:
    """The loss and every other metric over the steps."""
    records = [record for record in run.metrics if record["loss"] is not None]
    if not records:
        return viz.table([{"run": str(run.folder), "steps": run.settings["steps"], "done": 0}])
    steps = [record["step"] for record in records]
    names = [name for name in records[0] if name not in ("step", "loss", "lr", "seconds")]

    def curves(*columns: str, y_title: str) -> viz.Figure:
        series = {name: [record[name] for record in records] for name in columns}
        return viz.lines(series, x=steps, x_title="step", y_title=y_title, title=run.folder.name)

    loss = curves("loss", y_title="loss")
    title = names[0] if len(names) == 1 else "metric"
    return viz.row(loss, *([curves(*names, y_title=title)] if names else []))


@register_figure(FinetunedEncoder)
def finetuned_figure(finetuned: FinetunedEncoder) -> viz.Figures:
    """Training and validation loss, and validation accuracy, over the epochs."""
    history = finetuned.history
    epochs = [record["epoch"] for record in history]

    def curves(y_title: str, **columns: str) -> viz.Figure:
        series = {name: [record[key] for record in history] for name, key in columns.items()}
        title = finetuned.folder.name
        return viz.lines(series, x=epochs, x_title="epoch", y_title=y_title, title=title)

    losses = curves("loss (nats)", training="loss", validation="validation_loss")
    return viz.row(losses, curves("accuracy", validation="accuracy"))
