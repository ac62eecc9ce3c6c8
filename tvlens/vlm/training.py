"""`train_vlm`: train the projector of a tiny vision-language model to name images."""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ..errors import TvlensError
from ..files import check_folder, write
from ..folder_lock import one_writer
from ..models.placement import check_device
from ..progress import progress_bar
from ..results import Result
from ..training import checkpoint as steps
from ..training.data import step_seed
from ..training.history import check_finite, dump_history, load_history, resume_history
from ..training.schedules import cosine
from . import checkpoint
from .augmentation import style_offsets
from .captions import TEMPLATES, caption_loss, is_named
from .data import TEST_SPLITS, TrainingData, encode_views, split_images
from .image_pack import HELD_OUT_ARTIST, ImagePack
from .initialization import initialize_from_views
from .model import TinyVLMConfig

if TYPE_CHECKING:
    import pandas

_HISTORY_FILE = "training.json"
_FORMER_HISTORY_FILE = "naming.json"


@dataclass(frozen=True)
class VLMRun(Result):
    """A training run of a tiny vision-language model.

    Attributes:
        folder: folder of the run; `tvlens.load` opens its `model` folder once training has ended.
        settings: everything that determines the numbers, as JSON.
        history: one record per epoch: the loss, and the accuracy of whole names for
            "new_artist" (also by kind), "new_categories" and "new_artist_and_category".
    """

    folder: Path
    settings: dict
    history: list[dict[str, float]]

    def __repr__(self) -> str:
        epochs = f"{len(self.history)} of {self.settings['epochs']} epochs"
        return f"VLMRun({str(self.folder)!r}: {epochs})"

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per epoch."""
        import pandas as pd

        return pd.DataFrame(self.history)

    def load_model(self, **options: Any) -> Any:
        """Load the trained model with its processor; options as in `tvlens.load`."""
        from ..models.loading import load

        return load(self.folder / "model", **options)


def load_vlm_run(folder: str | os.PathLike) -> VLMRun:
    """Open the folder of a training run, complete or not.

    Raises:
        TvlensError: the folder holds no run, or one of an earlier version.
    """
    folder = Path(folder)
    _check_version(folder)
    return VLMRun(folder, *load_history(folder / _HISTORY_FILE, "training of a tiny-vlm"))


@one_writer
def train_vlm(
    folder: str | os.PathLike,
    *,
    config: TinyVLMConfig | None = None,
    images: ImagePack | None = None,
    held_out_artist: str = HELD_OUT_ARTIST,
    held_out_share: float = 0.1,
    views: int = 4,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-4,
    weight_decay: float = 0.01,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> VLMRun:
    """Train the projector with AdamW; vision encoder and language model are frozen.

    The projector is initialized by ridge regression to classify the training categories and to
    output the word embeddings of their names. Training then minimizes the language model's
    cross-entropy of the names. The encoder's states of all views are cached in the folder. An
    interrupted run continues after its last cached view or its last complete epoch, and gives the
    same weights to the bit.

    Args:
        folder: folder of the run.
        config: the parts of the model; its `hidden_size` becomes the number of categories.
        images: images of named categories; the packaged ones by default.
        held_out_artist: artist whose images are for tests only.
        held_out_share: share of the categories of every kind that are for tests only.
        views: number of views of every training image: one on white, the others random.
        epochs: each names every training image once, in a random view and template.
        batch_size: images per step.
        lr: peak of the cosine schedule.
        weight_decay: weight decay of AdamW.
        seed: seed of the projector, the views, the held-out categories and the order.
        dtype: dtype of the frozen parts; by default bfloat16 if the device multiplies matrices in
            it (a GPU, a CPU with AMX), else float32.
        device: device of the computation.
        progress: whether to show progress bars; by default on a terminal.

    Cost: by default 17,000 views and 38,000 names; on one CPU core 0.1 s each in float32, and
    0.03 s each in bfloat16 with AMX.

    Raises:
        TvlensError: the folder holds a run of other settings, or a loss is not finite.

    Example:
        >>> run = tv.train_vlm("out/tiny-vlm", epochs=10)  # doctest: +SKIP
        >>> model = tv.load("out/tiny-vlm/model")  # doctest: +SKIP
    """
    check_device(device)
    images, folder = images or ImagePack.load(), Path(folder)
    check_folder(folder)
    _check_version(folder)
    splits = split_images(
        images, held_out_artist=held_out_artist, held_out_share=held_out_share, seed=seed
    )
    config = replace(config or TinyVLMConfig(), hidden_size=len(set(splits["train"].names)))
    dtype = dtype or _fastest_dtype(device)
    settings = {
        "config": asdict(config),
        "images": len(images),
        "held_out_artist": held_out_artist,
        "held_out_share": held_out_share,
        "views": views,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "weight_decay": weight_decay,
        "seed": seed,
        "dtype": str(dtype).removeprefix("torch."),
    }
    settings = json.loads(json.dumps(settings))
    history = resume_history(folder / _HISTORY_FILE, settings, load_vlm_run)
    if len(history) < epochs or not (folder / "model").exists():
        run = VLMRun(folder, settings, history)
        _train(run, config, splits, dtype=dtype, device=device, progress=progress)
    return load_vlm_run(folder)


def _train(
    run: VLMRun,
    config: TinyVLMConfig,
    splits: Mapping[str, ImagePack],
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    progress: bool | None,
) -> None:
    """Build the model, encode the images, train the epochs that the history lacks, and save."""
    folder, settings, history = run.folder, run.settings, run.history
    # On CPUs the backward pass of fused attention in bfloat16 is many times slower than eager.
    options = {"dtype": dtype, "attn_implementation": "eager"}
    seed = settings["seed"]
    model, tokenizer = checkpoint.build_model(config, seed=step_seed(seed, 0), **options)
    model.to(device)
    states = {
        split: encode_views(
            model.vision_encoder,
            part,
            folder=folder / "views" / split,
            count=settings["views"] if split == "train" else 1,
            seed=seed,
            progress=progress,
        )
        for split, part in splits.items()
    }
    data = TrainingData.of(model, tokenizer, splits, states)
    projector = model.projector.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        projector.parameters(), weight_decay=settings["weight_decay"], fused=True
    )
    if history:
        steps.restore(folder, len(history), projector, optimizer)
    else:
        initialize_from_views(model, tokenizer, states["train"], splits["train"].names)
    _train_epochs(run, model, optimizer, data, progress=progress)
    if not (folder / "model").exists():
        checkpoint.save_checkpoint(projector, config, folder / "model")


class Batch(NamedTuple):
    """A training step: rows of the images, a view of each, a template, the learning rate."""

    rows: np.ndarray
    views: np.ndarray
    template: int
    lr: float


def plan_epoch(epoch: int, count: int, settings: Mapping[str, Any]) -> list[Batch]:
    """Draw the batches of an epoch: every row once.

    Args:
        epoch: from 1 on.
        count: training images.
        settings: settings of the run.
    """
    batch_size = settings["batch_size"]
    rng = np.random.default_rng(step_seed(settings["seed"], epoch))
    rows, views = rng.permutation(count), rng.integers(settings["views"], size=count)
    starts = range(0, count, batch_size)
    templates = rng.integers(len(TEMPLATES), size=len(starts)).tolist()
    total, first = settings["epochs"] * len(starts), (epoch - 1) * len(starts)
    return [
        Batch(
            rows[start : start + batch_size],
            views[start : start + batch_size],
            template,
            cosine(first + k, total, settings["lr"]),
        )
        for k, (start, template) in enumerate(zip(starts, templates, strict=True))
    ]


def train_epoch(
    model: Any,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    batches: Sequence[Batch],
    *,
    seed: int,
    bar: tqdm,
) -> float:
    """Train on all batches, with style offsets added to the states; returns the mean loss."""
    model.projector.train()
    states, names, total = data.states["train"], data.names["train"], 0.0
    for k, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = batch.lr
        count = len(batch.rows)
        inputs = states[batch.rows, batch.views].float()
        inputs = inputs + style_offsets(states, data.pairs, count, seed=(seed, k))
        soft_tokens = model.projector(inputs.to(model.device))
        targets = [names[row] for row in batch.rows]
        loss = caption_loss(model, soft_tokens, data.prompts[batch.template], targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total += count * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return total / sum(len(batch.rows) for batch in batches)


def evaluate_naming(model: Any, data: TrainingData, *, batch_size: int = 64) -> dict[str, float]:
    """Compute the accuracy of whole names in each test split, for the view on white."""
    model.projector.eval()
    accuracies = {}
    for split in TEST_SPLITS:
        states, names, batches = data.states[split], data.names[split], []
        for start in range(0, len(states), batch_size):
            rows = slice(start, start + batch_size)
            with torch.no_grad():
                soft_tokens = model.projector(states[rows, 0].to(model.device).float())
            batches.append(is_named(model, soft_tokens, data.prompts[0], names[rows]))
        correct = torch.cat(batches)
        accuracies[split] = _mean(correct)
        if split == "new_artist":
            for kind in sorted(set(data.kinds)):
                accuracies[kind] = _mean(correct[torch.tensor([k == kind for k in data.kinds])])
    return accuracies


def _train_epochs(
    run: VLMRun,
    model: Any,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    *,
    progress: bool | None,
) -> None:
    """Train the epochs that the history lacks; each ends with a record and a checkpoint."""
    settings, history, folder = run.settings, run.history, run.folder
    epochs, count, start_epoch = settings["epochs"], len(data.names["train"]), len(history)
    per_epoch = math.ceil(count / settings["batch_size"])
    with progress_bar(
        total=epochs * per_epoch,
        initial=start_epoch * per_epoch,
        desc="training",
        progress=progress,
    ) as bar:
        for epoch in range(start_epoch + 1, epochs + 1):
            start = time.perf_counter()
            batches = plan_epoch(epoch, count, settings)
            seed = step_seed(settings["seed"], epoch)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                loss = train_epoch(model, optimizer, data, batches, seed=seed, bar=bar)
            record = {"epoch": epoch, "loss": loss} | evaluate_naming(model, data)
            check_finite(record, cure="a lower lr")
            record["seconds"] = round(time.perf_counter() - start, 1)
            history.append(record)
            steps.save(folder, epoch, model.projector, optimizer)
            write(folder / _HISTORY_FILE, dump_history(settings, history))
            steps.checkpoint_path(folder, epoch - 1).unlink(missing_ok=True)
            bar.write(_format_record(record))


def _check_version(folder: Path) -> None:
    if (folder / _FORMER_HISTORY_FILE).exists():
        raise TvlensError(
            f"{folder} holds a run that tvlens wrote before December 2026 "
            f"({_FORMER_HISTORY_FILE}): it cannot be continued, but tvlens.load opens its model"
        )


def _fastest_dtype(device: str | torch.device) -> torch.dtype:
    """Return bfloat16 if matrix products are faster in it, else float32."""
    is_cpu = torch.device(device).type == "cpu"
    is_fast = torch.cpu.get_capabilities().get("amx_bf16", False) if is_cpu else True
    return torch.bfloat16 if is_fast else torch.float32


def _mean(correct: Tensor) -> float:
    return correct.double().mean().item()


def _format_record(record: Mapping[str, float]) -> str:
    return ", ".join(f"{k} {v:.3f}" if k != "epoch" else f"epoch {v}" for k, v in record.items())
