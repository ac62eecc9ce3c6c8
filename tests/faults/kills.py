"""Kills at random moments, pairs of processes in one folder, signals to process groups."""

import math
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .children import Child, ChildEnd, kill_at_random, list_leftovers, run
from .commands import Command

Trial = tuple[str, str | None]


def run_uninterrupted(command: Command, out: Path) -> tuple[Any, float]:
    """Return the result of an uninterrupted run and its duration."""
    ended = run(command.run(out))
    if ended.status:
        raise RuntimeError(f"{command.name} fails without any fault: {ended.output[-2000:]}")
    return command.result(out), ended.seconds


def kills(
    command: Command, work: Path, count: int, uninterrupted: tuple[Any, float]
) -> Iterator[Trial]:
    """Kill a command with SIGKILL, run it again, and compare."""
    rng = random.Random(f"kills {command.name}")
    for i in range(count):
        out = work / f"killed-{i}"
        kill_at_random(command.run(out), uninterrupted[1], rng)
        if i % 2:  # twice, now and then
            kill_at_random(command.run(out), uninterrupted[1], rng)
        yield f"kill -9: {command.name}", _find_fault_after_resuming(command, out, uninterrupted[0])
        shutil.rmtree(out, ignore_errors=True)


def pairs(
    command: Command, work: Path, count: int, uninterrupted: tuple[Any, float]
) -> Iterator[Trial]:
    """Start two processes in one folder: each must succeed or refuse in one line."""
    for i in range(count):
        out = work / f"pair-{i}"
        both = [Child(command.run(out)) for _ in range(2)]
        ended = [child.wait() for child in both]
        fault = next((f for child_end in ended if (f := child_end.fault(0, 2))), None)
        if fault is None and all(child_end.status for child_end in ended):
            fault = f"neither ends well: {ended[0].output.strip()[-160:]}"
        yield (
            f"two processes: {command.name}",
            fault or _find_fault_after_resuming(command, out, uninterrupted[0]),
        )
        shutil.rmtree(out, ignore_errors=True)


def signals(
    command: Command, work: Path, count: int, uninterrupted: tuple[Any, float]
) -> Iterator[Trial]:
    """Signal a process group: one line, exit status 130, no remaining process."""
    rng = random.Random(f"signals {command.name}")
    for i in range(count):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[i % 3]
        out = work / f"signalled-{i}"
        child, ended = _interrupt(command, out, uninterrupted[1], rng, number)
        fault = ended.fault(0, 130)
        if fault is None and not child.group_is_gone():
            fault = "a process of the group lives on"
        if fault is None and (left := list_leftovers(out)):
            fault = f"left behind: {left[0]}"
        kind = f"{number.name} to the group: {command.name}"
        yield kind, fault or _find_fault_after_resuming(command, out, uninterrupted[0])
        shutil.rmtree(out, ignore_errors=True)


def _interrupt(
    command: Command, out: Path, seconds: float, rng: random.Random, number: int
) -> tuple[Child, ChildEnd]:
    child = Child(command.run(out))
    time.sleep(rng.uniform(0.05, 0.9 * seconds))
    child.send(number, group=True)
    return child, child.wait(timeout=60)


def _find_fault_after_resuming(command: Command, out: Path, expected: Any) -> str | None:
    """Run a command again in its folder and describe what is wrong; None if nothing is."""
    ended = run(command.run(out))
    if fault := ended.fault(0):
        return f"run again: {fault}"
    if not _is_close(command.result(out), expected):
        return "another result than without the fault"
    left = list_leftovers(out)
    return f"left behind: {left[0]}" if left else None


def _is_close(actual: Any, expected: Any) -> bool:
    """Whether nested data are equal up to rounding of floats.

    Not every computation gives the same last bit twice: sums depend on where tensors lie in memory.
    """
    if isinstance(actual, float) and isinstance(expected, float):
        close = math.isclose(actual, expected, rel_tol=1e-9, abs_tol=1e-12)
        return close or actual == expected or (math.isnan(actual) and math.isnan(expected))
    if isinstance(actual, dict) and isinstance(expected, dict):
        return actual.keys() == expected.keys() and all(
            _is_close(actual[k], expected[k]) for k in actual
        )
    if isinstance(actual, list | tuple) and isinstance(expected, list | tuple):
        pairs = zip(actual, expected, strict=False)
        return len(actual) == len(expected) and all(_is_close(a, b) for a, b in pairs)
    return actual == expected
