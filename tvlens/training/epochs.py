"""The epochs of a finetuning: each one validated, and kept so that a restart goes on behind it."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..files import write
from . import checkpoint
from .data import step_seed
from .examples import Examples
from .finetuned import ABOUT, best
from .history import check_finite, told
from .schedules import cosine


def train_epochs(
    model: Any,
    optimizer: torch.optim.Optimizer,
    train: Examples,
    validation: Examples,
    *,
    work: Path,
    settings: Mapping[str, Any],
    history: list[dict[str, float]],
    progress: bool,
) -> None:
    """Train until the last epoch or until patience ends, and append each one's record to `history`.

    Args:
        work: gets a checkpoint of every epoch that a restart or the result needs.
        settings: as `finetune` was given.
        history: records of the epochs that are done.

    Raises:
        TvlensError: a loss that is not finite.
    """
    size, epochs = settings["batch_size"], settings["epochs"]
    per_epoch, hidden = len(train.batches(size)), None if progress else True
    done, total = len(history), epochs * per_epoch
    with tqdm(total=total, initial=done * per_epoch, desc="finetuning", disable=hidden) as bar:
        for epoch in range(done + 1, epochs + 1):
            if history and epoch - best(history)["epoch"] > settings["patience"]:
                break
            began = time.perf_counter()
            record = {"epoch": epoch, "loss": _epoch(model, optimizer, train, epoch, settings, bar)}
            record |= _validated(model, validation, size)
            check_finite(record, cure="a lower lr or head_lr")
            record["seconds"] = round(time.perf_counter() - began, 2)
            checkpoint.save(work, epoch, model, optimizer)
            history.append(record)
            write(work / ABOUT, told(settings, history))
            _drop(work, keep={epoch, best(history)["epoch"]})
            bar.set_postfix(loss=f"{record['loss']:.3f}", accuracy=f"{record['accuracy']:.3f}")


def _epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    epoch: int,
    settings: Mapping[str, Any],
    bar: tqdm,
) -> float:
    """One pass over the examples; their mean loss in nats, each before its step."""
    seed, device = step_seed(settings["seed"], epoch), next(model.parameters()).device
    order = examples.batches(settings["batch_size"], seed=seed)
    steps, total = settings["epochs"] * len(order), torch.zeros((), dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of dropout
        model.train()
        for step, chosen in enumerate(order, start=(epoch - 1) * len(order)):
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, steps, group["peak"])
            labels = examples.labels[chosen].to(device)
            cost = F.cross_entropy(model(**examples.inputs(chosen, device)).logits, labels)
            cost.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += len(chosen) * cost.detach().cpu()
            bar.update()
    return total.item() / len(examples)


def _validated(model: Any, examples: Examples, batch_size: int) -> dict[str, float]:
    """Mean loss in nats and accuracy, without dropout."""
    model.eval()
    loss, right, device = 0.0, 0, next(model.parameters()).device
    with torch.no_grad():
        for chosen in examples.batches(batch_size):
            logits = model(**examples.inputs(chosen, device)).logits.cpu()
            labels = examples.labels[chosen]
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
    return {"validation_loss": loss / len(examples), "accuracy": right / len(examples)}


def _drop(work: Path, *, keep: set[int]) -> None:
    """Remove the checkpoints that neither a restart nor the result needs."""
    for epoch in set(checkpoint.steps_at_hand(work)) - keep:
        checkpoint.path_at(work, epoch).unlink()
