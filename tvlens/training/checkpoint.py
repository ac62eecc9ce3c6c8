"""Checkpoints: weights and optimizer state at one step, one safetensors file each."""

import os
from pathlib import Path

import torch
from torch import Tensor

from ..errors import TvlensError
from ..saved import read_tensors, reading, write_tensors

FOLDER = "checkpoints"


def path_at(folder: str | os.PathLike, step: int) -> Path:
    """Where the checkpoint of a step stands inside the folder of a run."""
    return Path(folder) / FOLDER / f"step-{step:08d}.safetensors"


def steps_at_hand(folder: str | os.PathLike) -> list[int]:
    """The steps that have a checkpoint, in order."""
    found = (Path(folder) / FOLDER).glob("step-*.safetensors")
    return sorted(int(path.stem.removeprefix("step-")) for path in found)


def save(
    folder: str | os.PathLike,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint, whole or not at all."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{key}.{name}"] = value
    write_tensors(path_at(folder, step), tensors)


def restore(
    folder: str | os.PathLike,
    step: int,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Set a model and its optimizer to what `save` wrote, bit for bit.

    Raises:
        TvlensError: the checkpoint is damaged, or of another model.
    """
    path = path_at(folder, step)
    tensors, _ = read_tensors(path, kind="", what="checkpoint")
    with reading(path, "checkpoint of this model"):
        model.load_state_dict(_under("model", tensors))
    states = {key.split(".")[1] for key in tensors if key.startswith("optimizer.")}
    for key in states:
        for name, value in _under(f"optimizer.{key}", tensors).items():
            parameter = model.get_parameter(name)
            # A copy: tensors of the file may lie at odd addresses, where sums round differently.
            optimizer.state[parameter][key] = value.to(parameter.device, copy=True)


def weights(folder: str | os.PathLike, step: int) -> dict[str, Tensor]:
    """The model's state dict at a step.

    Raises:
        TvlensError: the checkpoint is damaged.
    """
    path = path_at(folder, step)
    tensors, _ = read_tensors(path, kind="", what="checkpoint")
    if not (found := _under("model", tensors)):
        raise TvlensError(f"{path} holds no checkpoint (no weights in it)")
    return found


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove the temporary files of a killed run."""
    for path in (Path(folder) / FOLDER).glob(".step-*"):
        path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {k[len(start) :]: v for k, v in tensors.items() if k.startswith(start)}
