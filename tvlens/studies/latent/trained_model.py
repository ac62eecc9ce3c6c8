"""`train_and_check`: one model of the study, trained and checked in a folder of its own.

Every check is cached under the weights, settings and code that decide its result; an interrupted
training resumes from its last checkpoint.
"""

import functools
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ...errors import TvlensError
from ...files import sweep
from ...progress import progress_bar
from ...training import Run, Transformer, checkpoint, load_run, train
from ...training.run import SETTINGS
from ..cache import cached, entry_path, file_digest
from .checks import CHECKS
from .config import FamilyConfig
from .registry import CheckSetup, Place, TrainedModelResult, model_name

# Configuration, exponent of the number of minor tasks, and seed.
GridPoint = tuple[FamilyConfig, int | str, int]


def train_and_check(
    config: FamilyConfig,
    minor: int | str,
    seed: int,
    folder: str | os.PathLike,
    *,
    progress: bool | None = False,
    threads: int | None = None,
) -> TrainedModelResult:
    """Train and check one model, or resume where it was interrupted.

    Args:
        folder: folder of the study, which contains that of the model.
        threads: threads of PyTorch; unchanged by default.

    Raises:
        TvlensError: the folder holds a model of other settings.
    """
    path = Path(folder) / model_name(config.family, minor, seed)
    previous_threads = torch.get_num_threads()
    torch.set_num_threads(threads or previous_threads)
    try:
        run = train_model(config, minor, seed, path, progress=progress)
        results: dict[tuple[str, Place], Any] = {}
        setup = CheckSetup(config, config.make_family(minor, seed), run, seed, results)
        places = list(_list_places(config, minor))
        for name, place in progress_bar(places, path.name, progress=progress):
            file, content = _entry(path, config, minor, seed, name, place)
            check, load = CHECKS[name], CHECKS[name].result.load
            here = replace(setup, place=place, sizes=content["sizes"])
            compute = functools.partial(check.compute, here)
            results[name, place] = cached(file, content, compute, load=load)
            # Temporary files of an interrupted worker.
            sweep(entry_path(file, load, content))
    finally:
        torch.set_num_threads(previous_threads)
    return TrainedModelResult(config, minor, seed, results)


def is_checked(
    config: FamilyConfig, minor: int | str, seed: int, folder: str | os.PathLike
) -> bool:
    """Whether the folder of a study holds this model and an entry of each of its checks."""
    path = Path(folder) / model_name(config.family, minor, seed)
    try:
        return all(
            entry_path(file, CHECKS[name].result.load, content).exists()
            for name, place in _list_places(config, minor)
            for file, content in [_entry(path, config, minor, seed, name, place)]
        )
    except OSError:  # no checkpoint
        return False


def train_model(
    config: FamilyConfig, minor: int | str, seed: int, path: Path, *, progress: bool | None = False
) -> Run:
    """Train the model in a folder, or resume its training after removing what is damaged.

    The model reads batches with one observation more than its context.
    """
    remove_damaged(path / "run")
    family = config.make_family(minor, seed)
    is_regression = config.family == "regression"

    def sample(batch_seed: int) -> Any:
        data = family.sample(config.batch, config.length + (not is_regression), seed=batch_seed)
        return (data.inputs, data.targets) if is_regression else data.tokens

    return train(
        config.transformer_config(family),
        sample,
        steps=config.steps,
        folder=path / "run",
        lr=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        schedule=config.learning_rate_schedule(),
        seed=seed,
        meta={"family": config.family, "minor": minor, "minor_mass": config.minor_mass},
        progress=progress,
    )


def _list_places(config: FamilyConfig, minor: int | str) -> Iterator[tuple[str, Place]]:
    for name, check in CHECKS.items():
        for place in check.places(config, minor):
            yield name, place


def _entry(
    path: Path, config: FamilyConfig, minor: int | str, seed: int, name: str, place: Place
) -> tuple[Path, dict[str, Any]]:
    """Return the file of a result and all that decides it.

    Raises:
        OSError: the model is not trained.
    """
    check = CHECKS[name]
    step = place if check.at == "checkpoints" and isinstance(place, int) else config.steps
    weights = file_digest(checkpoint.checkpoint_path(path / "run", step))
    sizes = dict(check.sizes.get(config.effort, {})) | dict(config.checks.get(name, {}))
    # Other numbers of minor tasks and sizes of other checks do not decide this result.
    plain = replace(config, minor=(minor,), checks={}).to_dict()
    content = {"config": plain, "seed": seed, "weights": weights, "check": name, "place": place}
    file = path / "checks" / f"{name}{'' if place is None else f'-{place}'}.safetensors"
    return file, content | {"sizes": sizes}


_READ_ERRORS = (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError)


def _report_damage(path: Path) -> None:
    """Report a damaged file in one line on standard error."""
    print(
        f"tvlens: {path} is damaged or missing; results that depend on it are computed again",
        file=sys.stderr,
    )


def remove_damaged(folder: Path) -> None:
    """Remove unreadable parts of a training run, so that it resumes from an earlier step.

    These are a damaged checkpoint and all later ones, or the whole run if its settings or metrics
    are damaged. A run of other settings is not damaged.
    """
    steps = checkpoint.saved_steps(folder)
    if not steps and not (folder / SETTINGS).exists():
        return
    try:
        run = load_run(folder)
        reported_steps = [record["step"] for record in run.metrics]
        if reported_steps != sorted(set(reported_steps)):
            raise TvlensError(f"{folder} was written by two processes")
        model = Transformer(run.config)
    except _READ_ERRORS:
        _report_damage(folder)
        shutil.rmtree(folder)
        return
    for i, step in enumerate(steps):
        path = checkpoint.checkpoint_path(folder, step)
        try:
            load_file(path)
            model.load_state_dict(checkpoint.weights(folder, step))
        except _READ_ERRORS:
            _report_damage(path)
            for later in steps[i:]:
                checkpoint.checkpoint_path(folder, later).unlink(missing_ok=True)
            return
