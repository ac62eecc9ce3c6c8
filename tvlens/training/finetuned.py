"""`Finetuned`: the folder of a finetuned encoder, whole or not there at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import viz
from .history import read_told

if TYPE_CHECKING:
    import pandas

ABOUT = "finetune.json"


@dataclass(frozen=True)
class Finetuned:
    """An encoder with a classifier, at the epoch that was best on validation.

    Attributes:
        folder: a Hugging Face folder, which `tvlens.load` opens, with finetune.json.
        settings: everything that decides the numbers, as JSON; "readout" says which states the
            classifier reads, "classes" what its logits mean.
        history: per epoch the training loss in nats, the validation loss and accuracy, seconds.
    """

    folder: Path
    settings: dict
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        return (
            f"Finetuned({str(self.folder)!r}: {self.settings['base']} on {self.settings['data']}, "
            f"validation accuracy {self.accuracy:.3f} after epoch {self.epoch})"
        )

    def _repr_html_(self) -> str:
        return self.figure()._repr_html_()

    @property
    def epoch(self) -> int:
        """The epoch whose weights were kept: the first one of the highest accuracy."""
        return int(best(self.history)["epoch"])

    @property
    def accuracy(self) -> float:
        """Accuracy on the validation part at that epoch, which it was chosen by."""
        return best(self.history)["accuracy"]

    def model(self, **options: Any) -> Any:
        """The TransformerLens model; `options` as `load` takes them."""
        from ..models.loading import load

        return load(self.folder, **options)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def figure(self) -> viz.Figures:
        """Losses and accuracy over the epochs."""
        from .show import finetuned_figures

        return finetuned_figures(self)


def load_finetuned(folder: str | os.PathLike) -> Finetuned:
    """Open what `finetune` wrote.

    Raises:
        TvlensError: the folder holds no finetuned encoder.
    """
    folder = Path(folder)
    return Finetuned(folder, *read_told(folder / ABOUT, "finetuned encoder"))


def best(history: list[dict[str, float]]) -> dict[str, float]:
    """The record of the first epoch of the highest validation accuracy."""
    return max(history, key=lambda record: record["accuracy"])
