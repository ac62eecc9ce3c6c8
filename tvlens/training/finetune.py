"""`finetune`: an encoder with a new classifier, trained on labelled texts or pictures."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..errors import TvlensError, unknown
from ..files import replacing_folder, write
from ..labelled import Labelled
from ..models.load import without_bars
from . import checkpoint
from .data import step_seed
from .encoder import READOUTS, classifier, freeze, parameters
from .examples import Examples, digest
from .finetuned import ABOUT, Finetuned, best, load_finetuned
from .run import check_same
from .schedules import cosine


@without_bars()
def finetune(
    base: str | os.PathLike,
    train: Labelled,
    validation: Labelled,
    *,
    folder: str | os.PathLike,
    readout: str | None = None,
    epochs: int = 4,
    patience: int = 2,
    batch_size: int = 32,
    lr: float | None = None,
    head_lr: float = 1e-3,
    weight_decay: float = 0.01,
    max_tokens: int = 64,
    frozen: int = 0,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Finetuned:
    """Train an encoder and a new classifier with AdamW, and keep the epoch best on validation.

    A folder that is finished is read, not made again. An interrupted run goes on behind its last
    whole epoch and, on a CPU with the same number of threads, ends with the same bits; till it
    ends, its state is in `<folder>.unfinished`.

    Args:
        base: zoo name, folder or hub id of a BERT- or ViT-like encoder.
        train, validation: parts of one set, as `Labelled.split` gives them.
        folder: becomes a Hugging Face folder that `tvlens.load` opens.
        readout: what the classifier reads: "mean" of all tokens (texts only; one linear layer, as
            sentence encoders are read) or "first" token (Hugging Face's own classifier). By
            default "mean" for texts and "first" for pictures.
        epochs: passes over the training part, at most.
        patience: stop after so many epochs without a better accuracy.
        lr, head_lr: peaks of the learning rates of the encoder (by default 1e-4 for texts, 2e-5
            for pictures) and of what reads it out; both follow a cosine down to zero.
        weight_decay: of all weights, decoupled (Loshchilov and Hutter 2019).
        max_tokens: longer texts are cut, special tokens counted.
        frozen: so many lower blocks, and the embeddings, stay as they are in the base.
        seed: of the classifier, of the order of the examples and of dropout.
        device: the GPU if there is one.
        progress: show a bar with loss and accuracy.

    Raises:
        TvlensError: the parts differ in classes or one holds the other, settings out of range, an
            encoder or readout that cannot be opened afterwards, a loss that is not finite, or a
            folder that holds another run.
    """
    pictures = train.kind == "picture"
    readout = readout or ("first" if pictures else "mean")
    lr = (2e-5 if pictures else 1e-4) if lr is None else lr
    settings = {
        "base": str(base),
        "data": train.name,
        "digest": digest(train, validation),
        "classes": list(train.classes),
        "readout": readout,
        "epochs": epochs,
        "patience": patience,
        "batch_size": batch_size,
        "lr": lr,
        "head_lr": head_lr,
        "weight_decay": weight_decay,
        "max_tokens": max_tokens,
        "frozen": frozen,
        "seed": seed,
    }
    _check(train, validation, settings)
    folder = Path(folder)
    if folder.exists():
        finished = load_finetuned(folder)
        check_same(folder, finished.settings, settings)
        return finished
    work = folder.with_name(f"{folder.name}.unfinished")
    history = _history(work, settings)

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model, tokenizer = classifier(
        base, train.kind, train.classes, readout=readout, seed=step_seed(seed, 0)
    )
    freeze(model.to(device), frozen)
    ours, theirs = (
        Examples.of(part, model, tokenizer, max_tokens=max_tokens) for part in (train, validation)
    )
    groups = parameters(model, lr=lr, head_lr=head_lr)
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    if history:
        checkpoint.restore(work, history[-1]["epoch"], model, optimizer)

    per_epoch = len(ours.batches(batch_size))
    done, steps = len(history), epochs * per_epoch
    hidden = None if progress else True
    with tqdm(total=steps, initial=done * per_epoch, desc="finetuning", disable=hidden) as bar:
        for epoch in range(done + 1, epochs + 1):
            if history and epoch - best(history)["epoch"] > patience:
                break
            began, total = time.perf_counter(), torch.zeros((), dtype=torch.float64)
            order = ours.batches(batch_size, seed=step_seed(seed, epoch))
            with torch.random.fork_rng():
                torch.manual_seed(step_seed(seed, epoch))  # of dropout
                model.train()
                for step, chosen in enumerate(order, start=(epoch - 1) * per_epoch):
                    for group in optimizer.param_groups:
                        group["lr"] = cosine(step, steps, group["peak"])
                    labels = ours.labels[chosen].to(device)
                    cost = F.cross_entropy(model(**ours.inputs(chosen, device)).logits, labels)
                    cost.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    total += len(chosen) * cost.detach().cpu()
                    bar.update()
            record = {"epoch": epoch, "loss": total.item() / len(ours)}
            record |= _validated(model, theirs, batch_size, device)
            _check_finite(record)
            record["seconds"] = round(time.perf_counter() - began, 2)
            checkpoint.save(work, epoch, model, optimizer)
            history.append(record)
            write(work / ABOUT, _about(settings, history))
            _drop(work, keep={epoch, best(history)["epoch"]})
            bar.set_postfix(loss=f"{record['loss']:.3f}", accuracy=f"{record['accuracy']:.3f}")

    model.load_state_dict(checkpoint.weights(work, best(history)["epoch"]))
    with replacing_folder(folder) as whole:
        model.save_pretrained(whole)
        _save_reading(whole, tokenizer, ours.form)
        (whole / ABOUT).write_text(_about(settings, history))
    shutil.rmtree(work)
    return load_finetuned(folder)


def _validated(
    model: Any, examples: Examples, batch_size: int, device: torch.device
) -> dict[str, float]:
    """Mean loss in nats and accuracy, without dropout."""
    model.eval()
    loss, right = 0.0, 0
    with torch.no_grad():
        for chosen in examples.batches(batch_size):
            logits = model(**examples.inputs(chosen, device)).logits.cpu()
            labels = examples.labels[chosen]
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(-1) == labels).sum())
    return {"validation_loss": loss / len(examples), "accuracy": right / len(examples)}


def _history(work: Path, settings: dict) -> list[dict[str, float]]:
    """The epochs that an interrupted run of these settings has behind it."""
    if not (work / ABOUT).exists():
        return []
    there = load_finetuned(work)
    check_same(work, there.settings, settings)
    checkpoint.remove_leftovers(work)
    return there.history


def _about(settings: dict, history: list) -> str:
    return json.dumps({"settings": settings, "history": history}, indent=1)


def _drop(work: Path, *, keep: set[int]) -> None:
    """Remove the checkpoints that neither a restart nor the result needs."""
    for epoch in set(checkpoint.steps_at_hand(work)) - keep:
        checkpoint.path_at(work, epoch).unlink()


def _save_reading(folder: Path, tokenizer: Any, form: dict) -> None:
    """What makes inputs out of texts or pictures, where Hugging Face looks for it."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        return
    about = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": form["size"], "width": form["size"]},
        "resample": 3,
        "image_mean": form["mean"],
        "image_std": form["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(about, indent=1))


def _check(train: Labelled, validation: Labelled, settings: Mapping[str, Any]) -> None:
    """Raise TvlensError before any work."""
    if (train.kind, train.classes) != (validation.kind, validation.classes):
        raise TvlensError(f"{train!r} and {validation!r} are no parts of one set")
    if digest(train) == digest(validation):
        raise TvlensError("train and validation are the same rows: use Labelled.split")
    if settings["readout"] not in READOUTS:
        raise unknown("readout", settings["readout"], READOUTS)
    if train.kind == "picture" and settings["readout"] == "mean":
        raise TvlensError("classifiers of pictures read the first token: give readout='first'")
    for name, least in {"epochs": 1, "patience": 1, "batch_size": 1, "max_tokens": 3}.items():
        if settings[name] < least:
            raise TvlensError(f"{name} must be at least {least}, not {settings[name]}")
    for name in ("lr", "head_lr"):
        if settings[name] <= 0:
            raise TvlensError(f"{name} must be above 0, not {settings[name]}")


def _check_finite(record: Mapping[str, float]) -> None:
    for name, value in record.items():
        if not torch.tensor(value).isfinite():
            raise TvlensError(
                f"{name} is {value} in epoch {record['epoch']}: a lower lr or head_lr may help"
            )
