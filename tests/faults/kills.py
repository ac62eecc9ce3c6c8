"""Kills at random moments, pairs of processes in one folder, signals to process groups."""

import math
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .children import Child, Ended, kill_at_random, left_behind, run
from .commands import Command

Trial = tuple[str, str | None]


def reference(command: Command, out: Path) -> tuple[Any, float]:
    """What an uninterrupted run gives, and how long it takes."""
    ended = run(command.run(out))
    if ended.status:
        raise RuntimeError(f"{command.name} fails without any fault: {ended.output[-2000:]}")
    return command.result(out), ended.seconds


def kills(command: Command, work: Path, count: int, known: tuple[Any, float]) -> Iterator[Trial]:
    """Kill a command with SIGKILL, run it again, and compare."""
    rng = random.Random(f"kills {command.name}")
    for i in range(count):
        out = work / f"killed-{i}"
        kill_at_random(command.run(out), known[1], rng)
        if i % 2:  # twice, now and then
            kill_at_random(command.run(out), known[1], rng)
        yield f"kill -9: {command.name}", _after(command, out, known[0])
        shutil.rmtree(out, ignore_errors=True)


def pairs(command: Command, work: Path, count: int, known: tuple[Any, float]) -> Iterator[Trial]:
    """Two processes in one folder: both end well, or one refuses in one line."""
    for i in range(count):
        out = work / f"pair-{i}"
        both = [Child(command.run(out)) for _ in range(2)]
        ended = [child.wait() for child in both]
        fault = next((f for one in ended if (f := one.fault(0, 2))), None)
        if fault is None and all(one.status for one in ended):
            fault = f"neither ends well: {ended[0].output.strip()[-160:]}"
        yield f"two processes: {command.name}", fault or _after(command, out, known[0])
        shutil.rmtree(out, ignore_errors=True)


def signals(command: Command, work: Path, count: int, known: tuple[Any, float]) -> Iterator[Trial]:
    """SIGINT, SIGTERM and SIGHUP to a process group: one line, exit 130, nobody left."""
    rng = random.Random(f"signals {command.name}")
    for i in range(count):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[i % 3]
        out = work / f"signalled-{i}"
        child, ended = _interrupted(command, out, known[1], rng, number)
        fault = ended.fault(0, 130)
        if fault is None and not child.group_is_gone():
            fault = "a process of the group lives on"
        if fault is None and (left := left_behind(out)):
            fault = f"left behind: {left[0]}"
        kind = f"{number.name} to the group: {command.name}"
        yield kind, fault or _after(command, out, known[0])
        shutil.rmtree(out, ignore_errors=True)


def _interrupted(
    command: Command, out: Path, seconds: float, rng: random.Random, number: int
) -> tuple[Child, Ended]:
    child = Child(command.run(out))
    time.sleep(rng.uniform(0.05, 0.9 * seconds))
    child.send(number, group=True)
    return child, child.wait(timeout=60)


def _after(command: Command, out: Path, known: Any) -> str | None:
    """What is wrong after a command was run again in a folder, if anything."""
    ended = run(command.run(out))
    if fault := ended.fault(0):
        return f"run again: {fault}"
    if not _is_same(command.result(out), known):
        return "another result than without the fault"
    left = left_behind(out)
    return f"left behind: {left[0]}" if left else None


def _is_same(one: Any, other: Any) -> bool:
    """Whether nested data are the same, but for the rounding of floats.

    Not every computation gives the same last bit twice: sums depend on where tensors lie in memory.
    """
    if isinstance(one, float) and isinstance(other, float):
        close = math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
        return close or one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_is_same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_is_same(a, b) for a, b in pairs)
    return one == other
