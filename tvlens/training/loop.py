"""`train`: the training loop of a small transformer."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from ..deprecation import warn_renamed
from ..errors import TvlensError
from ..folder_lock import one_writer
from ..progress import progress_bar
from . import checkpoint
from .config import TransformerConfig
from .cuda_graphs import with_cuda_graphs
from .data import as_batch, compute_loss, fingerprint, step_seed
from .run import Run, append_metrics, cut_metrics, open_run
from .schedules import Schedule, log_steps, triangular
from .transformer import Transformer

# Keys of a record that are not metrics of `evaluate`.
_RECORD_KEYS = ("step", "loss", "lr", "seconds")

Evaluate = Callable[[Transformer, int], Mapping[str, float]]


@one_writer
def train(
    config: TransformerConfig,
    sample: Callable[[int], Any],
    *,
    steps: int,
    folder: str | os.PathLike,
    lr: float = 4e-4,
    weight_decay: float = 4e-4,
    max_grad_norm: float | None = None,
    schedule: Schedule = triangular,
    seed: int = 0,
    checkpoints: Literal["log"] | Iterable[int] = "log",
    report_every: int = 100,
    evaluate: Evaluate | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    device: str | torch.device | None = None,
    every: int | None = None,
) -> Run:
    """Train a transformer from scratch with AdamW, or resume the run in the folder.

    On a CPU with the same number of threads, a resumed run ends with the same bits as an
    uninterrupted one; at most `report_every` steps are repeated. On a GPU the forward and backward
    passes of small models are launched as CUDA graphs.

    Args:
        config: architecture.
        sample: seed -> batch, the same one for the same seed: tokens `Int[batch pos]`, of which
            all but the last are read, or `(inputs Float[batch pair input], targets
            Float[batch pair])`. The seed of each step is `step_seed(seed, step)`.
        steps: number of updates.
        folder: folder of settings, metrics and checkpoints.
        lr: peak learning rate.
        weight_decay: decoupled weight decay of all weights (Loshchilov and Hutter 2019).
        max_grad_norm: gradients of a larger total norm are scaled down to it; by default none are.
        schedule: (step, steps, lr) -> learning rate of that update.
        seed: seed of the weights and of the data.
        checkpoints: "log" for the steps 0, 1, 2, 4, ..., or steps; the last step is always saved.
        report_every: number of steps between reports, each of which saves what a resumed run needs.
        evaluate: (model, step) -> metrics by name, such as the divergence from a reference
            predictor; called without gradients at every report and every checkpoint.
        meta: further settings that identify the run, as JSON, such as those of the data.
        progress: whether to show a progress bar with loss and metrics; by default on a terminal.
        device: by default the GPU if there is one.
        every: deprecated name of `report_every`.

    Raises:
        TvlensError: the folder holds a run of other settings; a batch does not fit the model or
            changes with the same seed; the loss, a weight or a metric is not finite.
    """
    if every is not None:
        warn_renamed("train(every=)", "train(report_every=)")
        report_every = every
    checkpoint_steps = _checkpoint_steps(checkpoints, steps)
    if report_every < 1:
        raise TvlensError(f"report_every must be at least 1, not {report_every}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise TvlensError(f"max_grad_norm must be above 0, not {max_grad_norm}")
    settings = {
        "steps": steps,
        "lr": lr,
        # A schedule is any function without a unique name: compare its values.
        "rates": [schedule(int(steps * share), steps, lr) for share in (0, 0.25, 0.5, 0.75)],
        "weight_decay": weight_decay,
        "seed": seed,
        "checkpoints": checkpoint_steps,
        "report_every": report_every,
        "data": fingerprint(config, sample, seed),
        "meta": dict(meta or {}),
    }
    if max_grad_norm is not None:
        settings["max_grad_norm"] = max_grad_norm
    run = open_run(folder, config, settings)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = Transformer(config, seed=seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, fused=True)
    start, seconds = _restore(run, model, optimizer)
    start_time = time.perf_counter() - seconds
    with progress_bar(total=steps, initial=start or 0, desc="training", progress=progress) as bar:
        training = _Training(run, model, optimizer, sample, schedule, evaluate, start_time, bar)
        _train_steps(training, start)
    return run


def _restore(
    run: Run, model: Transformer, optimizer: torch.optim.Optimizer
) -> tuple[int | None, float]:
    """Restore the last checkpoint of an interrupted run: its step, and the seconds until then."""
    start = run.steps[-1] if run.steps else None
    if start is not None:
        checkpoint.restore(run.folder, start, model, optimizer)
    records = cut_metrics(run, -1 if start is None else start)
    return start, records[-1]["seconds"] if records else 0.0


@dataclass(frozen=True)
class _Training:
    """A training in progress.

    Attributes:
        start_time: when it started, less the seconds of the interrupted run.
    """

    run: Run
    model: Transformer
    optimizer: torch.optim.Optimizer
    sample: Callable[[int], Any]
    schedule: Schedule
    evaluate: Evaluate | None
    start_time: float
    bar: tqdm

    def report(self, step: int, rate: float, losses: list[torch.Tensor]) -> None:
        """Evaluate the model, append a record to the metrics, and save a checkpoint."""
        record = {"step": step, "loss": _mean_loss(losses, step), "lr": rate}
        _check_weights(self.model, step)
        if self.evaluate:
            with torch.no_grad():
                record |= _check_metrics(self.evaluate(self.model, step), step)
        append_metrics(self.run, record | {"seconds": time.perf_counter() - self.start_time})
        checkpoint.save(self.run.folder, step, self.model, self.optimizer)
        _remove_restart_checkpoints(self.run, step)
        postfix = {k: v for k, v in record.items() if k not in ("step", "lr") and v is not None}
        self.bar.set_postfix({k: f"{v:.4g}" for k, v in postfix.items()})


def _train_steps(training: _Training, start: int | None) -> None:
    """Make the steps from a checkpoint on; None is a new run, whose step 0 is reported too."""
    settings, model, optimizer = training.run.settings, training.model, training.optimizer
    steps, lr, seed = settings["steps"], settings["lr"], settings["seed"]
    max_grad_norm = settings.get("max_grad_norm")
    reports = {*settings["checkpoints"], *range(0, steps, settings["report_every"])}
    losses: list[torch.Tensor] = []
    compute: Callable[[torch.Tensor], torch.Tensor] = model
    if start is None:
        training.report(0, 0.0, losses)
    for step in range(start or 0, steps):
        rate = training.schedule(step, steps, lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = as_batch(training.run.config, training.sample(step_seed(seed, step)))
        if step == (start or 0) and model.unembed.weight.is_cuda:
            compute = with_cuda_graphs(model, batch)
        loss = compute_loss(compute, batch)
        loss.backward()
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())  # read at the next report, without waiting for a GPU
        if step + 1 in reports:
            training.report(step + 1, rate, losses)
            losses.clear()
        training.bar.update()


def _checkpoint_steps(checkpoints: Literal["log"] | Iterable[int], steps: int) -> list[int]:
    """Return the steps whose checkpoints are permanent."""
    if steps < 1:
        raise TvlensError(f"steps must be at least 1, not {steps}")
    if checkpoints == "log":
        return log_steps(steps)
    if isinstance(checkpoints, str):
        raise TvlensError(f"checkpoints must be 'log' or steps, not {checkpoints!r}")
    steps_to_save = sorted({*map(int, checkpoints), steps})
    if steps_to_save[0] < 0 or steps_to_save[-1] > steps:
        outside = steps_to_save[0] if steps_to_save[0] < 0 else steps_to_save[-1]
        raise TvlensError(f"no checkpoint can be kept at step {outside} of 0 to {steps}")
    return steps_to_save


def _mean_loss(losses: list[torch.Tensor], step: int) -> float | None:
    """Compute the mean loss of the updates up to `step`; None without updates."""
    if not losses:
        return None
    values = torch.stack(losses).double()
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        failed_step = step - len(values) + int(bad[0])
        raise TvlensError(
            f"the loss is {values[bad[0]].item()} at step {failed_step}: a lower lr may help; "
            "earlier checkpoints are valid"
        )
    return values.mean().item()


def _check_weights(model: Transformer, step: int) -> None:
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise TvlensError(f"{name} is not finite at step {step}: a lower lr may help")


def _check_metrics(metrics: Mapping[str, Any], step: int) -> dict[str, float]:
    """Convert the metrics of `evaluate` to numbers.

    Raises:
        TvlensError: a reserved name, or a number that is not finite.
    """
    numbers = {name: float(value) for name, value in metrics.items()}
    for name, value in numbers.items():
        if name in _RECORD_KEYS:
            raise TvlensError(f"evaluate must not return {name!r}: the name is reserved")
        if not math.isfinite(value):
            raise TvlensError(f"evaluate returned {value} for {name!r} at step {step}")
    return numbers


def _remove_restart_checkpoints(run: Run, step: int) -> None:
    """Remove checkpoints before `step` that served resuming only."""
    for saved_step in run.steps:
        if saved_step < step and saved_step not in run.settings["checkpoints"]:
            checkpoint.checkpoint_path(run.folder, saved_step).unlink(missing_ok=True)
