"""`train`: the training loop, from top to bottom."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from ..errors import TvlensError
from ..folder_lock import one_writer
from . import checkpoint
from .cuda_graphs import with_cuda_graphs
from .data import as_batch, fingerprint, step_seed
from .objective import loss
from .run import Run, append_metrics, cut_metrics, open_run
from .schedules import Schedule, log_steps, triangular
from .shape import Shape
from .transformer import Transformer

# What a report itself says.
_RECORD_KEYS = ("step", "loss", "lr", "seconds")


@one_writer
def train(
    shape: Shape,
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
    every: int = 100,
    evaluate: Callable[[Transformer, int], Mapping[str, float]] | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: bool = True,
    device: str | torch.device | None = None,
) -> Run:
    """Train a transformer from scratch with AdamW, or go on where the folder's run was stopped.

    On a CPU, with the same number of threads, an interrupted run that goes on ends with the same
    bits as one that was never stopped. At most `every` steps are made again. On a GPU the forward
    and backward passes of small models are launched as CUDA graphs.

    Args:
        shape: architecture.
        sample: seed -> batch, the same one for the same seed: tokens `Int[batch pos]`, of which
            all but the last are read, or `(inputs Float[batch pair input], targets
            Float[batch pair])`. Every step has its own seed, `step_seed(seed, step)`.
        steps: number of updates.
        folder: where settings, metrics and checkpoints are kept.
        lr: peak of the learning rate.
        weight_decay: of all weights, decoupled (Loshchilov and Hutter 2019).
        max_grad_norm: gradients of a larger total norm are scaled down to it; None clips none.
        schedule: (step, steps, lr) -> learning rate of that update.
        seed: of the weights and of the data.
        checkpoints: "log" for 0, 1, 2, 4, ..., or steps; the last step is always kept.
        every: report, and save what a restart needs, every so many steps.
        evaluate: (model, step) -> numbers by name, such as the divergence from a reference
            predictor; called without gradients at every report and every checkpoint.
        meta: anything else that tells this run from others, as JSON, such as the data's settings.
        progress: show a bar with the loss and what `evaluate` gave.
        device: the GPU if there is one.

    Raises:
        TvlensError: the folder holds a run of other settings; a batch does not fit the shape or
            changes with the same seed; the loss, a weight or a metric is not finite.
    """
    checkpoint_steps = _checkpoint_steps(checkpoints, steps)
    if every < 1:
        raise TvlensError(f"every must be at least 1, not {every}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise TvlensError(f"max_grad_norm must be above 0, not {max_grad_norm}")
    settings = {
        "steps": steps,
        "lr": lr,
        # A schedule is any function, and its name says little: compare what it gives.
        "rates": [schedule(int(steps * share), steps, lr) for share in (0, 0.25, 0.5, 0.75)],
        "weight_decay": weight_decay,
        "seed": seed,
        "checkpoints": checkpoint_steps,
        "every": every,
        "data": fingerprint(shape, sample, seed),
        "meta": dict(meta or {}),
    }
    if max_grad_norm is not None:
        settings["max_grad_norm"] = max_grad_norm
    run = open_run(folder, shape, settings)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = Transformer(shape, seed=seed).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=weight_decay, fused=True)

    start = run.steps[-1] if run.steps else 0
    if run.steps:
        checkpoint.restore(folder, start, model, optimizer)
    past = cut_metrics(run, start if run.steps else -1)
    start_time = time.perf_counter() - (past[-1]["seconds"] if past else 0)
    compute: Callable[[torch.Tensor], torch.Tensor] = model
    reports = {*checkpoint_steps, *range(0, steps, every)}
    losses: list[torch.Tensor] = []

    def report(step: int, rate: float) -> None:
        record = {"step": step, "loss": _mean_loss(losses, step), "lr": rate}
        _check_weights(model, step)
        with torch.no_grad():
            record |= _check_metrics(evaluate(model, step), step) if evaluate else {}
        append_metrics(run, record | {"seconds": time.perf_counter() - start_time})
        checkpoint.save(folder, step, model, optimizer)
        _remove_restart_checkpoints(run, checkpoint_steps, step)
        losses.clear()
        postfix = {k: v for k, v in record.items() if k not in ("step", "lr") and v is not None}
        bar.set_postfix({k: f"{v:.4g}" for k, v in postfix.items()})

    hidden = None if progress else True
    with tqdm(total=steps, initial=start, desc="training", disable=hidden) as bar:
        if not run.steps:
            report(0, 0.0)
        for step in range(start, steps):
            rate = schedule(step, steps, lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batch = as_batch(shape, sample(step_seed(seed, step)))
            if step == start and device.type == "cuda":
                compute = with_cuda_graphs(model, batch)
            cost = loss(compute, batch)
            cost.backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(cost.detach())  # read at the next report: a GPU is not waited for
            if step + 1 in reports:
                report(step + 1, rate)
            bar.update()
    return run


def _checkpoint_steps(checkpoints: Literal["log"] | Iterable[int], steps: int) -> list[int]:
    """The steps whose checkpoints stay."""
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
    """The mean loss of the updates up to `step`; None where there were none."""
    if not losses:
        return None
    values = torch.stack(losses).double()
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        failed_step = step - len(values) + int(bad[0])
        raise TvlensError(
            f"the loss is {values[bad[0]].item()} at step {failed_step}: a lower lr may help; "
            "checkpoints from before are whole"
        )
    return values.mean().item()


def _check_weights(model: Transformer, step: int) -> None:
    for name, weight in model.named_parameters():
        if not bool(weight.isfinite().all()):
            raise TvlensError(f"{name} is not finite at step {step}: a lower lr may help")


def _check_metrics(metrics: Mapping[str, Any], step: int) -> dict[str, float]:
    """What `evaluate` gave, as numbers.

    Raises:
        TvlensError: a name that a report uses itself, or a number that is not finite.
    """
    numbers = {name: float(value) for name, value in metrics.items()}
    for name, value in numbers.items():
        if name in _RECORD_KEYS:
            raise TvlensError(f"evaluate may not give {name!r}: a report says it itself")
        if not math.isfinite(value):
            raise TvlensError(f"evaluate gave {value} for {name!r} at step {step}")
    return numbers


def _remove_restart_checkpoints(run: Run, checkpoint_steps: list[int], step: int) -> None:
    """Remove the checkpoints that were only there for a restart, now that there is a newer one."""
    for old in run.steps:
        if old < step and old not in checkpoint_steps:
            checkpoint.checkpoint_path(run.folder, old).unlink(missing_ok=True)
