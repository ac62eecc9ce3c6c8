"""One cell of a study of latent tasks: a family, a number of minors, a seed. Trained and checked.

A cell lives in a folder of its own. What is finished there is never made again.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
from ...training import Run, train
from ..cache import code_digest, file_digest
from .damage import drop_damage, say_made_anew
from .measures import check, over_steps
from .plan import Plan

DONE, CHECKS = "done.json", "checks"
_RESULTS: dict[str, Any] = {
    "behaviour": Behaviour,
    "injection": Injection,
    "ablation": Ablation,
    "learning": LearnerSubspace,
    "explained": StatisticsRegression,
    "novel_tasks": NovelTasks,
}


@dataclass(frozen=True)
class Cell:
    """What was found in one trained model.

    Attributes:
        family: "dice", "markov" or "regression".
        minor: exponent k of the number 2^k of minor tasks, or "none".
        seed: of tasks, weights and data.
        behaviour, injection, ablation, learning, explained, novel_tasks: checks of the last model,
            at its last layer.
        layers: `Representation` of every layer.
        injections: `Injection` at every layer.
        steps: one record per checkpoint: KL by split and reference, log ratio, OOD share.
        example: tokens, weights of the nearest convex combination and posterior of a few
            sequences; nothing for a regression, whose inputs have no effect of their own.
    """

    family: str
    minor: int | str
    seed: int
    behaviour: Behaviour
    injection: Injection
    ablation: Ablation
    learning: LearnerSubspace
    explained: StatisticsRegression
    novel_tasks: NovelTasks
    layers: list[Representation]
    injections: list[Injection]
    steps: list[dict[str, Any]]
    example: dict[str, Tensor]

    @property
    def name(self) -> str:
        """What the cell is called on the page and in its folder."""
        return cell_name(self.family, self.minor, self.seed)

    @property
    def representation(self) -> Representation:
        """That of the last layer."""
        return self.layers[-1]


def cell_name(family: str, minor: int | str, seed: int) -> str:
    """The name of a cell's folder, such as "dice-none-0"."""
    return f"{family}-{minor}-{seed}"


def make(
    plan: Plan,
    minor: int | str,
    seed: int,
    folder: str | os.PathLike,
    *,
    progress: bool = False,
    threads: int | None = None,
) -> None:
    """Train and check one cell, or go on where it was stopped; nothing to do if it is finished.

    Args:
        folder: of the study; the cell has its own inside.
        threads: of PyTorch; as they are by default. Several cells at once want one each.

    Raises:
        TvlensError: the folder holds a cell of other settings.
    """
    if finished(plan, minor, seed, folder):
        return
    place = Path(folder) / cell_name(plan.family, minor, seed)
    # What is written from here on is not what another plan called finished.
    (place / DONE).unlink(missing_ok=True)
    drop_damage(place / "run")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        family = plan.make_family(minor, seed)
        run = _trained(plan, family, minor, seed, place, progress)
        check(plan, run, family, seed, place / CHECKS)
        steps = over_steps(plan, run, family, seed, progress)
        for file in _checks(place):
            sweep(file)  # of an interrupted run, whose worker may have been alive until now
        write(place / "steps.json", json.dumps(steps))
        write(place / DONE, json.dumps(_key(plan, minor, seed) | {"files": _digests(place)}))
    finally:
        torch.set_num_threads(before)


def finished(plan: Plan, minor: int | str, seed: int, folder: str | os.PathLike) -> bool:
    """Whether the folder of a study holds this cell, trained and checked in the same way.

    A file that is not as it was written makes the cell unfinished, which is said in one line.
    """
    place = Path(folder) / cell_name(plan.family, minor, seed)
    try:
        done = json.loads((place / DONE).read_text())
        files = done.pop("files")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        say_made_anew(place / DONE)
        return False
    if done != _key(plan, minor, seed):
        return False
    found = _digests(place)
    for name in files if files != found else ():
        if found.get(name) != files[name]:
            say_made_anew(place / name)
            return False
    return True


def _digests(place: Path) -> dict[str, str]:
    """What `load` reads, file by file, as digests."""
    files = [place / "steps.json", *_checks(place)]
    return {f.relative_to(place).as_posix(): file_digest(f) for f in files if f.is_file()}


def _checks(place: Path) -> list[Path]:
    """The files of the checks, without temporary ones."""
    return sorted((place / CHECKS).glob("[!.]*.safetensors"))


def load(folder: str | os.PathLike, family: str, minor: int | str, seed: int) -> Cell:
    """Read a finished cell.

    Raises:
        TvlensError: it is not finished.
    """
    from safetensors.torch import load_file

    place = Path(folder) / cell_name(family, minor, seed)
    if not (place / DONE).is_file():
        raise TvlensError(f"{place} holds no finished cell")
    found = {name: kind.load(_at(place, name)) for name, kind in _RESULTS.items()}
    layers = range(json.loads((place / DONE).read_text())["plan"]["layers"])
    return Cell(
        family,
        minor,
        seed,
        **found,
        layers=[Representation.load(_at(place, f"representation-{l}")) for l in layers],
        injections=[Injection.load(_at(place, f"injection-{l}")) for l in layers],
        steps=json.loads((place / "steps.json").read_text()),
        example=load_file(_at(place, "example")),
    )


def _key(plan: Plan, minor: int | str, seed: int) -> dict[str, Any]:
    key = {"plan": plan.key() | {"minor": minor}, "seed": seed}
    key |= {"measures": MEASURES, "conditions": CONDITIONS, "code": code_digest()}
    return json.loads(json.dumps(key))


def _at(place: Path, name: str) -> Path:
    return place / CHECKS / f"{name}.safetensors"


def _trained(
    plan: Plan, family: Any, minor: int | str, seed: int, place: Path, progress: bool
) -> Run:
    """The trained run; batches hold one observation more than is read."""
    regression = plan.family == "regression"

    def sample(batch_seed: int) -> Any:
        data = family.sample(plan.batch, plan.length + (not regression), seed=batch_seed)
        return (data.inputs, data.targets) if regression else data.tokens

    meta = {"family": plan.family, "minor": minor, "minor_mass": plan.minor_mass}
    return train(
        plan.shape(family),
        sample,
        steps=plan.steps,
        folder=place / "run",
        lr=plan.lr,
        weight_decay=plan.weight_decay,
        schedule=plan.rate(),
        seed=seed,
        meta=meta,
        progress=progress,
    )
