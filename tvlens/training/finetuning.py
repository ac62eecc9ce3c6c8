"""`finetune`: an encoder with a new classifier, trained on labelled texts or images."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..errors import TvlensError, unknown
from ..files import atomic_write_folder, check_folder, write
from ..folder_lock import folder_lock
from ..labelled import LabelledDataset
from ..models.compat import without_bars
from ..models.loading import load
from ..progress import progress_bar
from ..results import Result
from . import checkpoint
from .data import step_seed
from .encoder import (
    READOUTS,
    EncoderReadout,
    add_adapters,
    build_classifier,
    check_lora,
    freeze_blocks,
    merge_adapters,
    parameter_groups,
)
from .examples import EncoderExamples, digest_rows
from .history import (
    History,
    check_finite,
    check_same_settings,
    dump_history,
    load_history,
    resume_history,
)
from .schedules import cosine

if TYPE_CHECKING:
    import pandas

_HISTORY_FILE = "finetune.json"


@dataclass(frozen=True)
class FinetunedEncoder(Result):
    """An encoder with a classifier, at the epoch of highest validation accuracy.

    Attributes:
        folder: a Hugging Face folder, which `tvlens.load` opens, with finetune.json.
        settings: everything that determines the numbers, as JSON; "readout" is what the
            classifier reads, "classes" are the names of its logits.
        history: per epoch the training loss in nats, the validation loss and accuracy, seconds.
    """

    folder: Path
    settings: dict
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        data = f"{self.settings['base']} on {self.settings['data']}"
        accuracy = f"validation accuracy {self.accuracy:.3f} after epoch {self.epoch}"
        return f"FinetunedEncoder({str(self.folder)!r}: {data}, {accuracy})"

    @property
    def epoch(self) -> int:
        """The epoch of the saved weights: the first one of the highest accuracy."""
        return int(_best_record(self.history)["epoch"])

    @property
    def accuracy(self) -> float:
        """Validation accuracy at that epoch, which was chosen by it."""
        return _best_record(self.history)["accuracy"]

    def model(self, **options: Any) -> Any:
        """Load the TransformerLens model; `options` as in `tvlens.load`."""
        return load(self.folder, **options)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)


def load_finetuned(folder: str | os.PathLike) -> FinetunedEncoder:
    """Open the folder of a finetuned encoder.

    Raises:
        TvlensError: the folder holds no finetuned encoder.
    """
    folder = Path(folder)
    settings, history = load_history(folder / _HISTORY_FILE, "finetuned encoder")
    return FinetunedEncoder(folder, settings, history)


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
    progress: bool | None = None,
) -> FinetunedEncoder:
    """Train an encoder and a new classifier with AdamW, and keep the best epoch on validation.

    If the folder holds the finished run, it is loaded. An interrupted run resumes after its last
    complete epoch and, on a CPU with the same number of threads, ends with the same bits; its state
    is in `<folder>.unfinished`.

    Args:
        base: zoo name, folder or hub id of a BERT- or ViT-like encoder.
        train, validation: parts of one dataset, as `LabelledDataset.split` returns them.
        folder: becomes a Hugging Face folder that `tvlens.load` opens.
        readout: input of the classifier: "mean" of all tokens (texts only; one linear layer, as
            in sentence encoders) or "first" token (Hugging Face's own classifier). By default
            "mean" for texts and "first" for images.
        epochs: maximal number of passes over the training part.
        patience: stop after this many epochs without a higher accuracy.
        batch_size: number of examples per step.
        lr, head_lr: peak learning rates of the encoder (by default 1e-4 for texts, 2e-5 for
            images, ten times as much for adapters) and of the head; both follow a cosine to zero.
        weight_decay: decoupled weight decay (Loshchilov and Hutter 2019).
        max_tokens: longer texts are truncated, special tokens counted.
        frozen: this many lower blocks, and the embeddings, are not trained.
        lora: train adapters of this rank instead of the encoder's weights, and merge them into the
            weights at the end; needs peft.
        seed: seed of classifier, adapters, order of the examples and dropout.
        device: by default the GPU if there is one.
        progress: whether to show a progress bar with loss and accuracy; by default on a terminal.

    Raises:
        TvlensError: parts of different classes or with the same rows, settings out of range, an
            encoder or readout that cannot be opened afterwards, a loss that is not finite, or a
            folder that holds another run.

    Example:
        >>> texts = [f"{word} {i}" for i in range(20) for word in ("cat", "red")]
        >>> labels = [0, 1] * 20
        >>> dataset = tv.LabelledDataset("topic", texts, labels, ["animal", "color"])
        >>> train, validation, test = dataset.split(seed=0)
        >>> run = tv.finetune(
        ...     "minilm-l6", train, validation, folder="topic", epochs=1, progress=False
        ... )
        >>> tv.load("topic").cfg.n_layers == tv.load("minilm-l6").cfg.n_layers
        True
    """
    is_image = train.kind == "image"
    readout = readout or ("first" if is_image else "mean")
    if lr is None:
        # Adapters tolerate, and need, learning rates about ten times as high.
        lr = (2e-5 if is_image else 1e-4) * (10 if lora else 1)
    settings = {
        "base": str(base),
        "data": train.name,
        "digest": digest_rows(train, validation),
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
    _check_settings(train, validation, settings)
    folder = Path(folder)
    if not folder.exists():
        _finetune(train, validation, settings, folder, device=device, progress=progress)
    finetuned = load_finetuned(folder)
    check_same_settings(folder, finetuned.settings, settings)
    return finetuned


def _finetune(
    train: LabelledDataset,
    validation: LabelledDataset,
    settings: dict[str, Any],
    folder: Path,
    *,
    device: str | torch.device | None,
    progress: bool | None,
) -> None:
    """Train in `<folder>.unfinished`, and write the best epoch to the folder."""
    work = folder.with_name(f"{folder.name}.unfinished")
    check_folder(work)
    with folder_lock(work):
        if folder.exists():  # another process has written it in the meantime
            return
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        training = _start_training(train, validation, settings, work, device)
        _train(training, progress)
        _save_best(training, folder)


@dataclass(frozen=True)
class _Training:
    """A finetuning in progress.

    Attributes:
        model: the encoder, with adapters if there are any.
        optimizer: its optimizer.
        tokenizer: the encoder's tokenizer; None for images.
        train, validation: examples as the encoder reads them.
        settings: as `finetune` records them.
        work: folder of the checkpoints.
        history: records of the completed epochs.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    tokenizer: Any
    train: EncoderExamples
    validation: EncoderExamples
    settings: dict[str, Any]
    work: Path
    history: History


def _start_training(
    train: LabelledDataset,
    validation: LabelledDataset,
    settings: dict[str, Any],
    work: Path,
    device: str | torch.device,
) -> _Training:
    """Build the model, or restore it from the last checkpoint of an interrupted run."""
    history = resume_history(work / _HISTORY_FILE, settings, load_finetuned)
    base, readout, lora = settings["base"], settings["readout"], settings["lora"]
    seed = step_seed(settings["seed"], 0)
    encoder, tokenizer = build_classifier(
        base, train.kind, train.classes, readout=readout, seed=seed
    )
    model = add_adapters(encoder, lora, seed=seed) if lora else encoder
    freeze_blocks(encoder, settings["frozen"])
    model.to(device)
    train_examples, validation_examples = (
        EncoderExamples.from_dataset(part, encoder, tokenizer, max_tokens=settings["max_tokens"])
        for part in (train, validation)
    )
    groups = parameter_groups(model, lr=settings["lr"], head_lr=settings["head_lr"])
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"], fused=True)
    if history:
        checkpoint.restore(work, history[-1]["epoch"], model, optimizer)
    return _Training(
        model=model,
        optimizer=optimizer,
        tokenizer=tokenizer,
        train=train_examples,
        validation=validation_examples,
        settings=settings,
        work=work,
        history=history,
    )


def _train(training: _Training, progress: bool | None) -> None:
    """Train until the last epoch or until patience ends.

    Every epoch is validated and saved; its record is appended to the history.

    Raises:
        TvlensError: a loss that is not finite.
    """
    settings, history, work = training.settings, training.history, training.work
    batches, epochs = len(training.train.batches(settings["batch_size"])), settings["epochs"]
    start = len(history)
    with progress_bar(
        total=epochs * batches,
        initial=start * batches,
        desc="finetuning",
        progress=progress,
    ) as bar:
        for epoch in range(start + 1, epochs + 1):
            if history and epoch - _best_record(history)["epoch"] > settings["patience"]:
                break
            start_time = time.perf_counter()
            record = {"epoch": epoch, "loss": _train_epoch(training, epoch, bar)}
            record |= _validate(training)
            check_finite(record, cure="a lower lr or head_lr")
            record["seconds"] = round(time.perf_counter() - start_time, 2)
            checkpoint.save(work, epoch, training.model, training.optimizer)
            history.append(record)
            write(work / _HISTORY_FILE, dump_history(settings, history))
            _remove_checkpoints(work, keep={epoch, _best_record(history)["epoch"]})
            bar.set_postfix(loss=f"{record['loss']:.3f}", accuracy=f"{record['accuracy']:.3f}")


def _train_epoch(training: _Training, epoch: int, bar: tqdm) -> float:
    """Train for one epoch; returns the mean loss in nats, before each step."""
    model, optimizer, examples = training.model, training.optimizer, training.train
    settings = training.settings
    seed, device = step_seed(settings["seed"], epoch), next(model.parameters()).device
    batches = examples.batches(settings["batch_size"], seed=seed)
    steps, total = settings["epochs"] * len(batches), torch.zeros((), dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of dropout
        model.train()
        for step, rows in enumerate(batches, start=(epoch - 1) * len(batches)):
            for group in optimizer.param_groups:
                group["lr"] = cosine(step, steps, group["peak"])
            labels = examples.labels[rows].to(device)
            loss = F.cross_entropy(model(**examples.inputs(rows, device)).logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            total += len(rows) * loss.detach().cpu()
            bar.update()
    return total.item() / len(examples)


def _validate(training: _Training) -> dict[str, float]:
    """Compute mean loss in nats and accuracy on the validation examples, without dropout."""
    model, examples = training.model, training.validation
    model.eval()
    loss, count_right, device = 0.0, 0, next(model.parameters()).device
    with torch.no_grad():
        for rows in examples.batches(training.settings["batch_size"]):
            logits = model(**examples.inputs(rows, device)).logits.cpu()
            labels = examples.labels[rows]
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            count_right += int((logits.argmax(-1) == labels).sum())
    return {"validation_loss": loss / len(examples), "accuracy": count_right / len(examples)}


def _save_best(training: _Training, folder: Path) -> None:
    """Write the best epoch as a Hugging Face folder, and remove the checkpoints."""
    model, settings = training.model, training.settings
    best_epoch = _best_record(training.history)["epoch"]
    model.load_state_dict(checkpoint.weights(training.work, best_epoch))
    with atomic_write_folder(folder) as target:
        (merge_adapters(model) if settings["lora"] else model).save_pretrained(target)
        _save_preprocessor(target, training.tokenizer, training.train.image_settings)
        (target / _HISTORY_FILE).write_text(dump_history(settings, training.history))
    shutil.rmtree(training.work)


def _save_preprocessor(folder: Path, tokenizer: Any, image_settings: dict) -> None:
    """Save the tokenizer or the image preprocessor, as Hugging Face expects it."""
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
        return
    size = image_settings["size"]
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": size, "width": size},
        "resample": 3,
        "image_mean": image_settings["mean"],
        "image_std": image_settings["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))


def _remove_checkpoints(work: Path, *, keep: set[int]) -> None:
    """Remove the checkpoints that neither a resumed run nor the result needs."""
    for epoch in set(checkpoint.saved_steps(work)) - keep:
        checkpoint.checkpoint_path(work, epoch).unlink()


def _best_record(history: History) -> dict[str, float]:
    """Return the record of the first epoch of the highest validation accuracy."""
    return max(history, key=lambda record: record["accuracy"])


def _check_settings(
    train: LabelledDataset, validation: LabelledDataset, settings: Mapping[str, Any]
) -> None:
    """Raise TvlensError for impossible settings, before any work."""
    if (train.kind, train.classes) != (validation.kind, validation.classes):
        raise TvlensError(f"{train!r} and {validation!r} are not parts of one dataset")
    if digest_rows(train) == digest_rows(validation):
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
