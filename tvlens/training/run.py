"""`Run`: the folder of a training run, with its settings, metrics and checkpoints."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import TvlensError
from ..files import one_line, prepare_folder, write
from ..results import Result
from ..saved import check_checksum, with_checksum
from . import checkpoint
from .conversion import to_transformer_lens
from .history import check_same_settings
from .shape import Shape
from .transformer import Transformer

if TYPE_CHECKING:
    import pandas

SETTINGS = "run.json"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Run(Result):
    """A model over the steps of its training.

    Attributes:
        folder: holds run.json, metrics.jsonl and checkpoints/.
        shape: architecture of the model.
        settings: everything else that decides the numbers, as JSON.
    """

    folder: Path
    shape: Shape
    settings: dict

    def __repr__(self) -> str:
        done = self.steps[-1] if self.steps else 0
        return f"Run({str(self.folder)!r}: step {done} of {self.settings['steps']})"

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return checkpoint.saved_steps(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the last step has been made."""
        return self.settings["steps"] in self.steps

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record per report: step, loss since the last report, what `evaluate` gave.

        Raises:
            TvlensError: the file is damaged, or lacks the report of a checkpoint.
        """
        path, steps = self.folder / METRICS, self.steps
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # of a run that was killed while it wrote
        records = [_record(path, i, line) for i, line in enumerate(lines, 1)]
        # A report is written before its checkpoint.
        if missing := sorted(set(steps) - {record["step"] for record in records}):
            raise TvlensError(f"{path} is damaged: it lacks step {missing[0]}. Give another folder")
        return records

    def weights(self, step: int | None = None) -> dict[str, Tensor]:
        """The state dict of the `Transformer` at a checkpoint; the last one by default.

        Raises:
            TvlensError: no checkpoint at that step; names the nearest one.
        """
        saved = self.steps
        if not saved:
            raise TvlensError(f"{self.folder} holds no checkpoint yet")
        step = saved[-1] if step is None else step
        if step not in saved:
            nearest = min(saved, key=lambda other: abs(other - step))
            raise TvlensError(
                f"no checkpoint at step {step}: the nearest is {nearest}; there are "
                + ", ".join(map(str, saved))
            )
        return checkpoint.weights(self.folder, step)

    def transformer(self, step: int | None = None) -> Transformer:
        """The plain module at a checkpoint; the last one by default."""
        model = Transformer(self.shape)
        model.load_state_dict(self.weights(step))
        return model.eval()

    def model(self, step: int | None = None) -> Any:
        """The TransformerLens model at a checkpoint; the last one by default."""
        weights = self.weights(step)
        step = self.steps[-1] if step is None else step
        return to_transformer_lens(self.shape, weights, name=f"{self.folder.name} at step {step}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per report: step, loss, learning rate, seconds, what `evaluate` gave."""
        import pandas as pd

        return pd.DataFrame(self.metrics)


def load_run(folder: str | os.PathLike) -> Run:
    """Open the folder of a run, finished or not.

    Raises:
        TvlensError: the folder holds no run.
    """
    folder = Path(folder)
    try:
        settings = check_checksum(json.loads((folder / SETTINGS).read_text()))
        return Run(folder, Shape(**settings["shape"]), settings)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TvlensError(f"{folder} holds no training run ({one_line(error)})") from error


def open_run(folder: str | os.PathLike, shape: Shape, settings: dict) -> Run:
    """The run of these settings in the folder: a new one, or the one that was interrupted there.

    Raises:
        TvlensError: a run of other settings lives there; names what differs.
    """
    folder = prepare_folder(folder)
    wanted = json.loads(json.dumps({"shape": asdict(shape), **settings}))
    if (folder / SETTINGS).exists():
        check_same_settings(folder, load_run(folder).settings, wanted)
        checkpoint.remove_leftovers(folder)
    elif checkpoint.saved_steps(folder):
        raise TvlensError(f"{folder} holds checkpoints, but no {SETTINGS}: give another folder")
    else:
        write(folder / SETTINGS, json.dumps(with_checksum(wanted), indent=1))
    return Run(folder, shape, wanted)


def cut_metrics(run: Run, step: int) -> list[dict[str, Any]]:
    """Drop what was reported after a step, and a line that a kill cut off; returns the rest."""
    kept = [record for record in run.metrics if record["step"] <= step]
    write(run.folder / METRICS, "".join(map(_line, kept)))
    return kept


def append_metrics(run: Run, record: dict[str, Any]) -> None:
    """Add one line."""
    with (run.folder / METRICS).open("a") as file:
        file.write(_line(record))


def _line(record: dict[str, Any]) -> str:
    return json.dumps(with_checksum(record)) + "\n"


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """What a line of the metrics holds; those of earlier versions have no checksum."""
    try:
        record = check_checksum(json.loads(line))
        if not isinstance(record["step"], int):
            raise TvlensError("its step is no whole number")
    except (ValueError, LookupError, RecursionError) as error:
        message = f"{path} is damaged in line {number} ({one_line(error)}). Give another folder"
        raise TvlensError(message) from error
    return record
