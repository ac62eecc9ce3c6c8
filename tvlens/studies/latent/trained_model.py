"""`TrainedModelResult`: one model of the study, trained and checked in a folder of its own.

A finished model is not trained or checked again; an interrupted one resumes from its last
checkpoint.
"""

import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...bayes import (
    Ablation,
    Behaviour,
    Injection,
    LearnerSubspace,
    NovelTasks,
    Representation,
    StatisticsRegression,
)
from ...bayes.checks.injection_check import CONDITIONS
from ...bayes.checks.representation_check import MEASURES
from ...errors import TvlensError
from ...files import sweep, write
from ...training import Run, Transformer, checkpoint, load_run, train
from ...training.run import SETTINGS
from ..cache import code_digest, file_digest
from .checks import check_checkpoints, check_model
from .config import FamilyConfig

_COMPLETED, _CHECKS = "done.json", "checks"
_RESULT_TYPES: dict[str, Any] = {
    "behaviour": Behaviour,
    "injection": Injection,
    "ablation": Ablation,
    "learner_subspace": LearnerSubspace,
    "statistics_regression": StatisticsRegression,
    "novel_tasks": NovelTasks,
}


@dataclass(frozen=True)
class TrainedModelResult:
    """Results of all checks of one trained model.

    Attributes:
        family: "dice", "markov" or "regression".
        minor: exponent k of the number 2^k of minor tasks, or "none".
        seed: of tasks, weights and data.
        behaviour, injection, ablation, learner_subspace, statistics_regression, novel_tasks: checks
            of the final model, at its last layer.
        layers: `Representation` of every layer.
        injections: `Injection` at every layer.
        steps: one record per checkpoint: KL by split and reference, log ratio, share of new tasks
            inside the task span.
        example: tokens, weights of the nearest convex combination and posterior of a few
            sequences; empty for a regression, whose inputs have no effects.
    """

    family: str
    minor: int | str
    seed: int
    behaviour: Behaviour
    injection: Injection
    ablation: Ablation
    learner_subspace: LearnerSubspace
    statistics_regression: StatisticsRegression
    novel_tasks: NovelTasks
    layers: list[Representation]
    injections: list[Injection]
    steps: list[dict[str, Any]]
    example: dict[str, Tensor]

    @property
    def name(self) -> str:
        """Name of the model on the page and of its folder."""
        return model_name(self.family, self.minor, self.seed)

    @property
    def representation(self) -> Representation:
        """`Representation` of the last layer."""
        return self.layers[-1]


def model_name(family: str, minor: int | str, seed: int) -> str:
    """Return the name of a model's folder, such as "dice-none-0"."""
    return f"{family}-{minor}-{seed}"


def train_and_check(
    config: FamilyConfig,
    minor: int | str,
    seed: int,
    folder: str | os.PathLike,
    *,
    progress: bool | None = False,
    threads: int | None = None,
) -> None:
    """Train and check one model, or resume where it was interrupted.

    Args:
        folder: folder of the study, which contains that of the model.
        threads: threads of PyTorch; unchanged by default.

    Raises:
        TvlensError: the folder holds a model of other settings.
    """
    if is_finished(config, minor, seed, folder):
        return
    path = Path(folder) / model_name(config.family, minor, seed)
    # Files written from here on do not belong to a result that another version completed.
    (path / _COMPLETED).unlink(missing_ok=True)
    remove_damaged(path / "run")
    previous_threads = torch.get_num_threads()
    torch.set_num_threads(threads or previous_threads)
    try:
        family = config.make_family(minor, seed)
        run = _train_model(config, family, minor, seed, path, progress)
        check_model(config, run, family, seed, path / _CHECKS)
        steps = check_checkpoints(config, run, family, seed, progress)
        for file in _check_files(path):
            sweep(file)  # temporary files of an interrupted worker
        write(path / "steps.json", json.dumps(steps))
        content = _content_key(config, minor, seed) | {"files": _file_digests(path)}
        write(path / _COMPLETED, json.dumps(content))
    finally:
        torch.set_num_threads(previous_threads)


def is_finished(
    config: FamilyConfig, minor: int | str, seed: int, folder: str | os.PathLike
) -> bool:
    """Whether the folder of a study holds this model, trained and checked with equal settings.

    A damaged file makes the model unfinished, which is reported in one line.
    """
    path = Path(folder) / model_name(config.family, minor, seed)
    try:
        content = json.loads((path / _COMPLETED).read_text())
        files = content.pop("files")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        _report_damage(path / _COMPLETED)
        return False
    if content != _content_key(config, minor, seed):
        return False
    digests = _file_digests(path)
    for name in files if files != digests else ():
        if digests.get(name) != files[name]:
            _report_damage(path / name)
            return False
    return True


def _file_digests(path: Path) -> dict[str, str]:
    """Compute digests of the files that `load_result` reads."""
    files = [path / "steps.json", *_check_files(path)]
    return {f.relative_to(path).as_posix(): file_digest(f) for f in files if f.is_file()}


def _check_files(path: Path) -> list[Path]:
    """List the files of the checks, without temporary ones."""
    return sorted((path / _CHECKS).glob("[!.]*.safetensors"))


def load_result(
    folder: str | os.PathLike, family: str, minor: int | str, seed: int
) -> TrainedModelResult:
    """Read the result of a finished model.

    Raises:
        TvlensError: the model is not finished.
    """
    path = Path(folder) / model_name(family, minor, seed)
    if not (path / _COMPLETED).is_file():
        raise TvlensError(f"{path} holds no finished model")
    results = {name: kind.load(_check_path(path, name)) for name, kind in _RESULT_TYPES.items()}
    layers = range(json.loads((path / _COMPLETED).read_text())["config"]["layers"])
    return TrainedModelResult(
        family,
        minor,
        seed,
        **results,
        layers=[Representation.load(_check_path(path, f"representation-{l}")) for l in layers],
        injections=[Injection.load(_check_path(path, f"injection-{l}")) for l in layers],
        steps=json.loads((path / "steps.json").read_text()),
        example=load_file(_check_path(path, "example")),
    )


def _content_key(config: FamilyConfig, minor: int | str, seed: int) -> dict[str, Any]:
    content = {"config": config.to_dict() | {"minor": minor}, "seed": seed}
    content |= {"measures": MEASURES, "conditions": CONDITIONS, "code": code_digest()}
    return json.loads(json.dumps(content))


def _check_path(path: Path, name: str) -> Path:
    return path / _CHECKS / f"{name}.safetensors"


def _train_model(
    config: FamilyConfig,
    family: Any,
    minor: int | str,
    seed: int,
    path: Path,
    progress: bool | None,
) -> Run:
    """Train the model on batches with one observation more than its context."""
    is_regression = config.family == "regression"

    def sample(batch_seed: int) -> Any:
        data = family.sample(config.batch, config.length + (not is_regression), seed=batch_seed)
        return (data.inputs, data.targets) if is_regression else data.tokens

    meta = {"family": config.family, "minor": minor, "minor_mass": config.minor_mass}
    return train(
        config.shape(family),
        sample,
        steps=config.steps,
        folder=path / "run",
        lr=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        schedule=config.learning_rate_schedule(),
        seed=seed,
        meta=meta,
        progress=progress,
    )


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
        model = Transformer(run.shape)
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
