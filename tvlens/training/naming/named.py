"""`Named`: a tiny vision-language model that was taught to name pictures, and how well it does."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..history import read_told

if TYPE_CHECKING:
    import pandas

ABOUT = "naming.json"


@dataclass(frozen=True)
class Named:
    """A trained model.

    Attributes:
        folder: what `tvlens.load` opens, when training has ended.
        settings: everything that decides the numbers, as JSON.
        history: one record per epoch: loss, and accuracy of whole names under "new_artist"
            (trained things, the held-out hand; its kinds of things apart as well), "new_things"
            (things that no training saw, by known hands) and "new_both".
    """

    folder: Path
    settings: dict
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        return f"Named({str(self.folder)!r}: {len(self.history)} of {self.settings['epochs']})"

    def _repr_html_(self) -> str:
        from ..show import named_figures

        return named_figures(self)._repr_html_()

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def model(self, **options: Any) -> Any:
        """The TransformerLens model, with its processor."""
        from ...models.loading import load

        return load(self.folder / "model", **options)


def load_named(folder: str | os.PathLike) -> Named:
    """Open the folder of a training, ended or not.

    Raises:
        TvlensError: the folder holds none.
    """
    folder = Path(folder)
    return Named(folder, *read_told(folder / ABOUT, "training of a tiny-vlm"))
