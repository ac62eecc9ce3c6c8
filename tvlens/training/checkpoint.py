"""Checkpoints: weights and optimizer state at one step, one safetensors file each."""

import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TvlensError
from ..files import remove
from ..saved import read_tensors, reading, write_tensors

FOLDER = "checkpoints"


def checkpoint_path(folder: str | os.PathLike, step: int) -> Path:
    """Return the path of a step's checkpoint in the folder of a run."""
    return Path(folder) / FOLDER / f"step-{step:08d}.safetensors"


def saved_steps(folder: str | os.PathLike) -> list[int]:
    """List the steps that have a checkpoint, in order."""
    paths = (Path(folder) / FOLDER).glob("step-*.safetensors")
    return sorted(int(path.stem.removeprefix("step-")) for path in paths)


def save(
    folder: str | os.PathLike,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint, atomically."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    write_tensors(checkpoint_path(folder, step), tensors)


def restore(
    folder: str | os.PathLike,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Restore a model and its optimizer from a checkpoint, exactly.

    Raises:
        TvlensError: the checkpoint is damaged, or of another model.
    """
    path = checkpoint_path(folder, step)
    tensors, _ = read_tensors(path, kind="", what="checkpoint")
    with reading(path, "checkpoint of this model"):
        model.load_state_dict(_select_prefix("model", tensors))
    states = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    for key in states:
        for name, value in _select_prefix(f"optimizer.{key}", tensors).items():
            parameter = model.get_parameter(name)
            # A copy: tensors of the file may lie at odd addresses, where sums round differently.
            optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def weights(folder: str | os.PathLike, step: int) -> dict[str, Tensor]:
    """Load the model's state dict at a step.

    Raises:
        TvlensError: the checkpoint is damaged.
    """
    path = checkpoint_path(folder, step)
    tensors, _ = read_tensors(path, kind="", what="checkpoint")
    if not (state := _select_prefix("model", tensors)):
        raise TvlensError(f"{path} holds no checkpoint (no weights in it)")
    return state


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files of a killed run."""
    for path in (Path(folder) / FOLDER).glob(".step-*"):
        remove(path)


def _select_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
