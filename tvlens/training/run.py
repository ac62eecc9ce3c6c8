"""`Run`: the folder of a training run, with its settings, metrics and checkpoints."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..deprecation import warn_renamed
from ..errors import TvlensError
from ..files import one_line, prepare_folder, write
from ..results import Result
from ..saved import check_checksum, with_checksum
from . import checkpoint
from .config import TransformerConfig
from .conversion import to_transformer_lens
from .history import check_same_settings
from .transformer import Transformer

if TYPE_CHECKING:
    import pandas

SETTINGS = "run.json"
METRICS = "metrics.jsonl"

# Key of run.json in earlier versions -> its name.
_FORMER_KEYS = {"shape": "config", "every": "report_every"}


@dataclass(frozen=True)
class Run(Result):
    """Training run of a small transformer, with its metrics and checkpoints.

    Attributes:
        folder: contains run.json, metrics.jsonl and checkpoints/.
        config: architecture of the model.
        settings: everything that determines the numbers, as JSON.
    """

    folder: Path
    config: TransformerConfig
    settings: dict

    def __repr__(self) -> str:
        step = self.steps[-1] if self.steps else 0
        return f"Run({str(self.folder)!r}: step {step} of {self.settings['steps']})"

    @property
    def shape(self) -> TransformerConfig:
        """Deprecated name of `config`."""
        warn_renamed("Run.shape", "Run.config")
        return self.config

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return checkpoint.saved_steps(self.folder)

    @property
    def finished(self) -> bool:
        """Whether the run has reached its last step."""
        return self.settings["steps"] in self.steps

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One record per report: step, mean loss since the last report, metrics of `evaluate`.

        Raises:
            TvlensError: the file is damaged, or lacks the report of a checkpoint.
        """
        path, steps = self.folder / METRICS, self.steps
        lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # incomplete, of a run that was killed
        records = [_parse_line(path, i, line) for i, line in enumerate(lines, 1)]
        # The record of a step is written before its checkpoint.
        if missing := sorted(set(steps) - {record["step"] for record in records}):
            raise TvlensError(f"{path} is damaged: it lacks step {missing[0]}. Give another folder")
        return records

    def weights(self, step: int | None = None) -> dict[str, Tensor]:
        """Load the state dict of the `Transformer` at a checkpoint; the last one by default.

        Raises:
            TvlensError: no checkpoint at that step; the message names the nearest one.
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
        """Load the PyTorch module at a checkpoint; the last one by default."""
        model = Transformer(self.config)
        model.load_state_dict(self.weights(step))
        return model.eval()

    def model(self, step: int | None = None) -> Any:
        """Load the TransformerLens model at a checkpoint; the last one by default."""
        weights = self.weights(step)
        step = self.steps[-1] if step is None else step
        return to_transformer_lens(self.config, weights, name=f"{self.folder.name} at step {step}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per report: step, loss, learning rate, seconds, metrics of `evaluate`."""
        import pandas as pd

        return pd.DataFrame(self.metrics)


def load_run(folder: str | os.PathLike) -> Run:
    """Open the folder of a run, complete or not.

    Raises:
        TvlensError: the folder holds no run.
    """
    folder = Path(folder)
    try:
        settings = check_checksum(json.loads((folder / SETTINGS).read_text()))
        settings = {_FORMER_KEYS.get(key, key): value for key, value in settings.items()}
        return Run(folder, TransformerConfig(**settings["config"]), settings)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise TvlensError(f"{folder} holds no training run ({one_line(error)})") from error


def open_run(folder: str | os.PathLike, config: TransformerConfig, settings: dict) -> Run:
    """Start a run with these settings in a folder, or reopen the interrupted one.

    Raises:
        TvlensError: the folder holds a run of other settings; the message names the differences.
    """
    folder = prepare_folder(folder)
    settings = json.loads(json.dumps({"config": asdict(config), **settings}))
    if (folder / SETTINGS).exists():
        check_same_settings(folder, load_run(folder).settings, settings)
        checkpoint.remove_leftovers(folder)
    elif checkpoint.saved_steps(folder):
        raise TvlensError(f"{folder} holds checkpoints, but no {SETTINGS}: give another folder")
    else:
        write(folder / SETTINGS, json.dumps(with_checksum(settings), indent=1))
    return Run(folder, config, settings)


def cut_metrics(run: Run, step: int) -> list[dict[str, Any]]:
    """Remove the records after a step, and an incomplete last line; returns the others."""
    records = [record for record in run.metrics if record["step"] <= step]
    write(run.folder / METRICS, "".join(map(_format_line, records)))
    return records


def append_metrics(run: Run, record: dict[str, Any]) -> None:
    """Append a record to the metrics file."""
    with (run.folder / METRICS).open("a") as file:
        file.write(_format_line(record))


def _format_line(record: dict[str, Any]) -> str:
    return json.dumps(with_checksum(record)) + "\n"


def _parse_line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse a line of the metrics file; lines of earlier versions have no checksum."""
    try:
        record: dict[str, Any] = check_checksum(json.loads(line))
        if not isinstance(record["step"], int):
            raise TvlensError("its step is no whole number")
    except (ValueError, LookupError, RecursionError) as error:
        message = f"{path} is damaged in line {number} ({one_line(error)}). Give another folder"
        raise TvlensError(message) from error
    return record
