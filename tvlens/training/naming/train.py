"""`train_vlm`: the projector of a tiny vision-language model, trained to name pictures."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ...files import check_folder, write
from ...folder_lock import one_writer
from ...models import tiny_vlm
from ...models.placement import check_device
from ...models.tiny_vlm import Form
from ...pictures import HELD_OUT, Pictures
from .. import checkpoint
from ..data import step_seed
from ..history import check_finite, so_far, told
from ..schedules import cosine
from .captions import named_ids
from .epoch import Lessons, accuracies, pass_over, plan_of
from .named import ABOUT, Named, load_named
from .parts import split
from .start import begin, padded
from .views import States, views


@one_writer
def train_vlm(
    folder: str | os.PathLike,
    *,
    form: Form | None = None,
    pictures: Pictures | None = None,
    held_out: str = HELD_OUT,
    unseen: float = 0.1,
    view_count: int = 4,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-4,
    weight_decay: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> Named:
    """Train the projector with AdamW; encoder and language model stay as they are.

    It begins by telling the training's things apart (ridge regression) and saying their names in
    the language model's own embeddings; then it learns from what the language model says to that.

    The encoder sees every view once, and its states are kept in the folder. An interrupted run
    goes on behind its last view or its last whole epoch, and ends with the same bits.

    Args:
        form: what the model is put together from.
        pictures: named drawings; the pack by default.
        held_out: the artist whose hand only tests see.
        unseen: share of the things of every kind that only tests see.
        view_count: views of every training picture: itself on white, and random ones.
        epochs: in each, every training picture is named once, in a random view and phrase.
        seed: of the projector, the views, the things left out and the order.
        dtype: of the frozen parts; by default bfloat16 where the device multiplies matrices in it
            (a GPU, a CPU with AMX), else float32.

    Cost: by default 17,000 views and 38,000 names, on one core of a CPU at 0.1 s each in float32,
    at 0.03 s each in bfloat16 with AMX.

    Raises:
        TvlensError: the folder holds a run of other settings; a loss that is not finite.
    """
    check_device(device)
    pictures, folder = pictures or Pictures.load(), Path(folder)
    check_folder(folder)
    parts = split(pictures, held_out=held_out, unseen=unseen, seed=seed)
    form = replace(form or Form(), hidden=len(set(parts["train"].names)))
    dtype = dtype or _quick_dtype(device)
    settings = {
        "form": asdict(form),
        "pictures": len(pictures),
        "held_out": held_out,
        "unseen": unseen,
        "views": view_count,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
    }
    settings = json.loads(json.dumps(settings))
    history = so_far(folder / ABOUT, settings, load_named)
    if len(history) == epochs and (folder / "model").exists():
        return load_named(folder)
    # Fused attention's backward pass in bfloat16 is many times slower than the plain one on CPUs.
    options = {"dtype": dtype, "attn_implementation": "eager"}
    model, tokenizer = tiny_vlm.assemble(form, seed=step_seed(seed, 0), **options)
    model.to(device)
    looks = {"folder": folder / "views", "count": view_count, "seed": seed, "progress": progress}
    lessons = Lessons.of(model, tokenizer, parts, _seen(model, parts, **looks))
    projector = model.projector.requires_grad_(True)
    optimizer = torch.optim.AdamW(projector.parameters(), weight_decay=weight_decay, fused=True)
    if history:
        checkpoint.restore(folder, len(history), projector, optimizer)
    else:
        _begin(model, tokenizer, lessons.seen["train"], parts["train"].names)
    _train(model, optimizer, lessons, settings, history, folder, progress)
    if not (folder / "model").exists():
        tiny_vlm.save(projector, form, folder / "model")
    return load_named(folder)


def _seen(
    model: Any,
    parts: Mapping[str, Pictures],
    *,
    folder: Path,
    count: int,
    seed: int,
    progress: bool,
) -> dict[str, States]:
    """The encoder's states by part: of several views for training, of the picture on white else."""
    return {
        name: views(
            model.eye,
            part,
            folder=folder / name,
            count=count if name == "train" else 1,
            seed=seed,
            progress=progress,
        )
        for name, part in parts.items()
    }


def _train(
    model: Any,
    optimizer: torch.optim.Optimizer,
    lessons: Lessons,
    settings: Mapping[str, Any],
    history: list[dict[str, Any]],
    folder: Path,
    progress: bool,
) -> None:
    """The epochs that the history lacks; each ends with a record and a checkpoint."""
    epochs, batch_size, seed = settings["epochs"], settings["batch_size"], settings["seed"]
    count, done = len(lessons.names["train"]), len(history)
    per_epoch = math.ceil(count / batch_size)
    steps, hidden = epochs * per_epoch, None if progress else True
    with tqdm(total=steps, initial=done * per_epoch, desc="naming", disable=hidden) as bar:
        for epoch in range(done + 1, epochs + 1):
            began = time.perf_counter()
            plan = plan_of(epoch, count, batch_size, settings["views"], seed)
            begun = (epoch - 1) * per_epoch
            rates = [cosine(begun + k, steps, settings["lr"]) for k in range(per_epoch)]
            drawn = step_seed(seed, epoch)
            with torch.random.fork_rng():
                torch.manual_seed(drawn)
                cost = pass_over(model, optimizer, lessons, plan, rates, drawn, bar)
            record = {"epoch": epoch, "loss": cost} | accuracies(model, lessons)
            check_finite(record, cure="a lower lr")
            record["seconds"] = round(time.perf_counter() - began, 1)
            history.append(record)
            checkpoint.save(folder, epoch, model.projector, optimizer)
            write(folder / ABOUT, told(settings, history))
            checkpoint.path_at(folder, epoch - 1).unlink(missing_ok=True)
            bar.write(_line(record))


def _begin(model: Any, tokenizer: Any, seen: States, names: Sequence[str]) -> None:
    """The projector's start, from all views of the training pictures."""
    things = sorted(set(names))
    (space,) = tokenizer(" ", add_special_tokens=False)["input_ids"]
    tokens = model.projector.tokens
    ids = [padded(named_ids(tokenizer, thing), tokens, space) for thing in things]
    words = model.get_input_embeddings()(torch.tensor(ids, device=model.device)).float()
    which = torch.tensor([things.index(name) for name in names]).repeat_interleave(seen.shape[1])
    begin(model.projector, seen.flatten(0, 1).to(model.device).float(), which, words)


def _quick_dtype(device: str | torch.device) -> torch.dtype:
    """Half precision where it is the quicker one."""
    on_cpu = torch.device(device).type == "cpu"
    quick = torch.cpu.get_capabilities().get("amx_bf16", False) if on_cpu else True
    return torch.bfloat16 if quick else torch.float32


def _line(record: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.3f}" if k != "epoch" else f"epoch {v}" for k, v in record.items())
