"""`finetune`: an encoder with a new classifier, trained on labelled texts or images."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import TvlensError, unknown
from ..files import check_folder, replacing_folder
from ..folder_lock import folder_lock
from ..labelled import LabelledDataset
from ..models.compat import without_bars
from . import checkpoint
from .data import step_seed
from .encoder import READOUTS, EncoderReadout, classifier, freeze, parameters
from .epochs import train_epochs
from .examples import Examples, digest
from .finetuned import ABOUT, Finetuned, best, load_finetuned
from .history import so_far, told
from .lora import adapted, check_lora, merged
from .run import check_same


@without_bars()
def finetune(
    base: str | os.PathLike,
    train: LabelledDataset,
    validation: LabelledDataset,
    *,
    folder: str | os.PathLike,
    readout: EncoderReadout | None = None,
    epochs: int = 4,
    patience: int = 2,
    batch_size: int = 32,
    lr: float | None = None,
    head_lr: float = 1e-3,
    weight_decay: float = 0.01,
    max_tokens: int = 64,
    frozen: int = 0,
    lora: int | None = None,
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
        train, validation: parts of one set, as `LabelledDataset.split` gives them.
        folder: becomes a Hugging Face folder that `tvlens.load` opens.
        readout: what the classifier reads: "mean" of all tokens (texts only; one linear layer, as
            sentence encoders are read) or "first" token (Hugging Face's own classifier). By
            default "mean" for texts and "first" for images.
        epochs: passes over the training part, at most.
        patience: stop after so many epochs without a better accuracy.
        lr, head_lr: peaks of the learning rates of the encoder (by default 1e-4 for texts, 2e-5
            for images, ten times as much for adapters) and of what reads it out; both follow a
            cosine down to zero.
        weight_decay: of all weights, decoupled (Loshchilov and Hutter 2019).
        max_tokens: longer texts are cut, special tokens counted.
        frozen: so many lower blocks, and the embeddings, stay as they are in the base.
        lora: train adapters of this rank in place of the encoder's weights, and add them to the
            weights in the end; needs peft.
        seed: of the classifier, of adapters, of the order of the examples and of dropout.
        device: the GPU if there is one.
        progress: show a bar with loss and accuracy.

    Raises:
        TvlensError: the parts differ in classes or one holds the other, settings out of range, an
            encoder or readout that cannot be opened afterwards, a loss that is not finite, or a
            folder that holds another run.

    Example:
        >>> texts = [f"{word} {i}" for i in range(20) for word in ("cat", "red")]
        >>> labels = [0, 1] * 20
        >>> dataset = tv.LabelledDataset("topic", texts, labels, ["animal", "color"])
        >>> train, validation, test = dataset.split(seed=0)
        >>> finetuned = tv.finetune(
        ...     "minilm-l6", train, validation, folder="topic", epochs=1, progress=False
        ... )
        >>> tv.load("topic").cfg.n_layers == tv.load("minilm-l6").cfg.n_layers
        True
    """
    images = train.kind == "image"
    readout = readout or ("first" if images else "mean")
    if lr is None:
        # Adapters bear, and need, steps about ten times as long.
        lr = (2e-5 if images else 1e-4) * (10 if lora else 1)
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
        "lora": lora,
        "seed": seed,
    }
    _check(train, validation, settings)
    folder = Path(folder)
    work = folder.with_name(f"{folder.name}.unfinished")
    if not folder.exists():
        check_folder(work)
        with folder_lock(work):
            # Whoever held the lock may have finished it.
            if not folder.exists():
                _finetune(train, validation, settings, folder, work, device, progress)
    finished = load_finetuned(folder)
    check_same(folder, finished.settings, settings)
    return finished


def _finetune(
    train: LabelledDataset,
    validation: LabelledDataset,
    settings: dict[str, Any],
    folder: Path,
    work: Path,
    device: str | torch.device | None,
    progress: bool,
) -> None:
    """Train in the folder `work`, and make `folder` of the best epoch."""
    history = so_far(work / ABOUT, settings, load_finetuned)
    base, readout, lora = settings["base"], settings["readout"], settings["lora"]
    start = step_seed(settings["seed"], 0)
    encoder, tokenizer = classifier(base, train.kind, train.classes, readout=readout, seed=start)
    model = adapted(encoder, lora, seed=start) if lora else encoder
    freeze(encoder, settings["frozen"])
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    ours, theirs = (
        Examples.of(part, encoder, tokenizer, max_tokens=settings["max_tokens"])
        for part in (train, validation)
    )
    groups = parameters(model, lr=settings["lr"], head_lr=settings["head_lr"])
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"], fused=True)
    if history:
        checkpoint.restore(work, history[-1]["epoch"], model, optimizer)

    train_epochs(
        model,
        optimizer,
        ours,
        theirs,
        work=work,
        settings=settings,
        history=history,
        progress=progress,
    )
    model.load_state_dict(checkpoint.weights(work, best(history)["epoch"]))
    with replacing_folder(folder) as whole:
        (merged(model) if lora else model).save_pretrained(whole)
        _save_reading(whole, tokenizer, ours.form)
        (whole / ABOUT).write_text(told(settings, history))
    shutil.rmtree(work)


def _save_reading(folder: Path, tokenizer: Any, form: dict) -> None:
    """What makes inputs out of texts or images, where Hugging Face looks for it."""
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


def _check(
    train: LabelledDataset, validation: LabelledDataset, settings: Mapping[str, Any]
) -> None:
    """Raise TvlensError before any work."""
    if (train.kind, train.classes) != (validation.kind, validation.classes):
        raise TvlensError(f"{train!r} and {validation!r} are no parts of one set")
    if digest(train) == digest(validation):
        raise TvlensError("train and validation are the same rows: use LabelledDataset.split")
    if settings["readout"] not in READOUTS:
        raise unknown("readout", settings["readout"], READOUTS)
    if train.kind == "image" and settings["readout"] == "mean":
        raise TvlensError("image classifiers read the first token: give readout='first'")
    for name, least in {"epochs": 1, "patience": 1, "batch_size": 1, "max_tokens": 3}.items():
        if settings[name] < least:
            raise TvlensError(f"{name} must be at least {least}, not {settings[name]}")
    check_lora(settings["lora"])
    for name in ("lr", "head_lr"):
        if settings[name] <= 0:
            raise TvlensError(f"{name} must be above 0, not {settings[name]}")
