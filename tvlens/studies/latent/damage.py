"""Damaged files of a kept cell: what cannot be read is dropped, said in one line, and made anew."""

import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from ...errors import TvlensError
from ...training import Transformer, checkpoint, load_run
from ...training.run import SETTINGS

_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError)


def say_made_anew(path: Path) -> None:
    """One line about a damaged file, on standard error."""
    print(f"tvlens: {path} is damaged or missing: what belongs to it is made anew", file=sys.stderr)


def drop_damage(folder: Path) -> None:
    """Remove what cannot be read of a training run, so that it goes on from before.

    That is a damaged checkpoint with all later ones, or the whole run where its settings or
    metrics are damaged. A run of other settings is no damage.
    """
    steps = checkpoint.saved_steps(folder)
    if not steps and not (folder / SETTINGS).exists():
        return
    try:
        run = load_run(folder)
        reported = [record["step"] for record in run.metrics]
        if reported != sorted(set(reported)):
            raise TvlensError(f"{folder} was written by two processes")
        model = Transformer(run.shape)
    except _UNREADABLE:
        say_made_anew(folder)
        shutil.rmtree(folder)
        return
    for i, step in enumerate(steps):
        path = checkpoint.checkpoint_path(folder, step)
        try:
            load_file(path)
            model.load_state_dict(checkpoint.weights(folder, step))
        except _UNREADABLE:
            say_made_anew(path)
            for later in steps[i:]:
                checkpoint.checkpoint_path(folder, later).unlink(missing_ok=True)
            return
