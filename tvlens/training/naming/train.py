"""`train_vlm`: the projector of a tiny vision-language model, trained to name pictures."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...errors import TvlensError
from ...files import write
from ...models import tiny_vlm
from ...models.tiny_vlm import Form
from ...pictures import HELD_OUT, Pictures
from .. import checkpoint
from ..data import step_seed
from ..run import check_same
from ..schedules import cosine
from .captions import TEMPLATES, Names, Phrase, loss, named, named_ids
from .hands import lent, same_thing
from .start import begin, padded
from .views import States, views

ABOUT = "naming.json"


@dataclass(frozen=True)
class Named:
    """A trained model.

    Attributes:
        folder: what `tvlens.load` opens, when training has ended.
        settings: everything that decides the numbers, as JSON.
        history: one record per epoch: loss, and accuracy of whole names under "new_artist"
            (trained things, the held-out hand; its kinds of things apart as well), "new_things"
            (things that no training saw, by known hands) and "new_both".
    """

    folder: Path
    settings: dict
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        return f"Named({str(self.folder)!r}: {len(self.history)} of {self.settings['epochs']})"

    def _repr_html_(self) -> str:
        from ..show import named_figures

        return named_figures(self)._repr_html_()

    def to_dataframe(self):
        """One row per epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def model(self, **options: Any) -> Any:
        """The TransformerLens model, with its processor."""
        from ...models.load import load

        return load(self.folder / "model", **options)


def load_named(folder: str | os.PathLike) -> Named:
    """Open the folder of a training, ended or not.

    Raises:
        TvlensError: the folder holds none.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text())
        return Named(folder, about["settings"], about["history"])
    except (OSError, ValueError, KeyError) as error:
        raise TvlensError(f"{folder} holds no training of a tiny-vlm ({error})") from error


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
    pictures, folder = pictures or Pictures.load(), Path(folder)
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
    history = _history(folder, settings)
    if len(history) == epochs and (folder / "model").exists():
        return load_named(folder)
    # Fused attention's backward pass in bfloat16 is many times slower than the plain one on CPUs.
    options = {"dtype": dtype, "attn_implementation": "eager"}
    model, tokenizer = tiny_vlm.assemble(form, seed=step_seed(seed, 0), **options)
    model.to(device)
    seen = {
        name: views(
            model.eye,
            part,
            folder=folder / "views" / name,
            count=view_count if name == "train" else 1,
            seed=seed,
            progress=progress,
        )
        for name, part in parts.items()
    }
    phrases = [Phrase.of(model, tokenizer, template) for template in TEMPLATES]
    names = {
        part: [named_ids(tokenizer, name) for name in one.names] for part, one in parts.items()
    }
    pairs = same_thing(parts["train"].names)
    projector = model.projector.requires_grad_(True)
    optimizer = torch.optim.AdamW(projector.parameters(), weight_decay=weight_decay, fused=True)
    if history:
        checkpoint.restore(folder, len(history), projector, optimizer)
    else:
        _begin(model, tokenizer, seen["train"], parts["train"].names)
    count = len(parts["train"])
    per_epoch, done = math.ceil(count / batch_size), len(history)
    steps, hidden = epochs * per_epoch, None if progress else True
    with tqdm(total=steps, initial=done * per_epoch, desc="naming", disable=hidden) as bar:
        for epoch in range(done + 1, epochs + 1):
            began = time.perf_counter()
            plan = _plan(epoch, count, batch_size, view_count, seed)
            rates = [cosine((epoch - 1) * per_epoch + k, steps, lr) for k in range(per_epoch)]
            with torch.random.fork_rng():
                torch.manual_seed(step_seed(seed, epoch))
                taught = (seen["train"], names["train"], phrases, pairs)
                cost = _epoch(model, optimizer, *taught, plan, rates, step_seed(seed, epoch), bar)
            record = {"epoch": epoch, "loss": cost} | accuracies(
                model, seen, names, parts["new_artist"].kinds, phrases[0]
            )
            _check_finite(record)
            record["seconds"] = round(time.perf_counter() - began, 1)
            history.append(record)
            checkpoint.save(folder, epoch, projector, optimizer)
            write(folder / ABOUT, json.dumps({"settings": settings, "history": history}, indent=1))
            checkpoint.path_at(folder, epoch - 1).unlink(missing_ok=True)
            bar.write(_line(record))
    if not (folder / "model").exists():
        tiny_vlm.save(projector, form, folder / "model")
    return load_named(folder)


def _begin(model: Any, tokenizer: Any, seen: States, names: Sequence[str]) -> None:
    """The projector's start, from all views of the training pictures."""
    things = sorted(set(names))
    (space,) = tokenizer(" ", add_special_tokens=False)["input_ids"]
    tokens = model.projector.tokens
    ids = [padded(named_ids(tokenizer, thing), tokens, space) for thing in things]
    words = model.get_input_embeddings().weight[torch.tensor(ids)].float()
    which = torch.tensor([things.index(name) for name in names]).repeat_interleave(seen.shape[1])
    begin(model.projector, seen.flatten(0, 1).to(model.device).float(), which, words)


def _plan(
    epoch: int, count: int, batch_size: int, views: int, seed: int
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Rows, their views and the phrase of every batch: every row once."""
    rng = np.random.default_rng(step_seed(seed, epoch))
    order, looks = rng.permutation(count), rng.integers(views, size=count)
    starts = range(0, count, batch_size)
    said = rng.integers(len(TEMPLATES), size=len(starts)).tolist()
    parts = ((order[i : i + batch_size], looks[i : i + batch_size]) for i in starts)
    return [(*part, phrase) for part, phrase in zip(parts, said, strict=True)]


def _epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    seen: States,
    names: Names,
    phrases: Sequence[Phrase],
    pairs: np.ndarray,
    plan: Sequence[tuple[np.ndarray, np.ndarray, int]],
    rates: Sequence[float],
    seed: int,
    bar: tqdm,
) -> float:
    """One pass over the training pictures, in hands that others lend; returns the mean loss."""
    model.projector.train()
    total = 0.0
    for k, ((rows, looks, said), rate) in enumerate(zip(plan, rates, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = rate
        states = seen[rows, looks].float() + lent(seen, pairs, len(rows), seed=(seed, k))
        soft = model.projector(states.to(model.device))
        cost = loss(model, soft, phrases[said], [names[row] for row in rows])
        cost.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += len(rows) * cost.item()
        bar.update()
        bar.set_postfix(loss=f"{cost.item():.3f}")
    return total / sum(len(rows) for rows, _, _ in plan)


def split(
    pictures: Pictures, *, held_out: str = HELD_OUT, unseen: float = 0.1, seed: int = 0
) -> dict[str, Pictures]:
    """Four parts without a common picture: "train", and the three that tests name.

    Raises:
        TvlensError: no such artist, or a part would be empty.
    """
    pictures.where(artist=held_out)  # an unknown artist is an error
    things = pictures.held_out_things(share=unseen, seed=seed)
    cells: dict[tuple[bool, bool], list[int]] = {(a, t): [] for a in (0, 1) for t in (0, 1)}
    for i, (name, artist) in enumerate(zip(pictures.names, pictures.artists, strict=True)):
        cells[artist == held_out, name in things].append(i)
    names = {"train": (0, 0), "new_artist": (1, 0), "new_things": (0, 1), "new_both": (1, 1)}
    for name, cell in names.items():
        if not cells[cell]:
            raise TvlensError(f"no picture would be in the part {name!r}")
    return {name: pictures.subset(cells[cell]) for name, cell in names.items()}


def accuracies(
    model: Any,
    seen: Mapping[str, States],
    names: Mapping[str, Names],
    kinds: Sequence[str],
    phrase: Phrase,
    *,
    batch_size: int = 64,
) -> dict[str, float]:
    """Share of whole names right in each of the test parts, from the picture on white.

    Args:
        kinds: of the pictures under "new_artist", whose shares are given apart too.
    """
    model.projector.eval()
    found = {}
    for part in ("new_artist", "new_things", "new_both"):
        right = []
        for start in range(0, len(seen[part]), batch_size):
            rows = slice(start, start + batch_size)
            with torch.no_grad():
                soft = model.projector(seen[part][rows, 0].to(model.device).float())
            right.append(named(model, soft, phrase, names[part][rows]))
        right = torch.cat(right)
        found[part] = _share(right)
        if part == "new_artist":
            for kind in sorted(set(kinds)):
                found[kind] = _share(right[torch.tensor([k == kind for k in kinds])])
    return found


def _quick_dtype(device: str | torch.device) -> torch.dtype:
    """Half precision where it is the quicker one."""
    on_cpu = torch.device(device).type == "cpu"
    quick = torch.cpu.get_capabilities().get("amx_bf16", False) if on_cpu else True
    return torch.bfloat16 if quick else torch.float32


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _history(folder: Path, settings: dict) -> list[dict[str, float]]:
    """The epochs that a run of these settings has behind it."""
    if not (folder / ABOUT).exists():
        return []
    there = load_named(folder)
    check_same(folder, there.settings, settings)
    checkpoint.remove_leftovers(folder)
    return there.history


def _check_finite(record: Mapping[str, float]) -> None:
    for name, value in record.items():
        if not math.isfinite(value):
            raise TvlensError(f"{name} is {value} in epoch {record['epoch']}: a lower lr may help")


def _line(record: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.3f}" if k != "epoch" else f"epoch {v}" for k, v in record.items())
