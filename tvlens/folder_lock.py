"""One writer per folder, by a lock that the operating system releases when its process ends."""

import contextlib
import functools
import inspect
import json
import os
import platform
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from .errors import TvlensError
from .files import check_folder, convert_disk_errors

P = ParamSpec("P")
R = TypeVar("R")

LOCK, HOLDER = ".tvlens.lock", ".tvlens.lock.json"

# How long the processes of a killed run may take to end before their folder counts as in use.
_RELEASE_SECONDS = 3.0

# Folders locked by this process: the thread that holds each.
_holders: dict[Path, int] = {}


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike | None) -> Iterator[None]:
    """Lock a folder against other processes and threads that write results to it.

    The folder is made if it is missing, and removed again if nothing was written. The thread that
    holds it may ask again. A lock ends with its process.

    Args:
        folder: None holds nothing.

    Raises:
        TvlensError: another process writes there, named with host, command and start; or the
            folder cannot be written.
    """
    if folder is not None:
        check_folder(folder)  # a broken link, which a resolved path would hide
    place = None if folder is None else Path(folder).resolve()
    if place is None or _holders.get(place) == threading.get_ident():
        yield
        return
    created = [one for one in (place, *place.parents) if not os.path.lexists(one)]
    try:
        lock = _acquire(place)
        _holders[place] = threading.get_ident()
        try:
            with convert_disk_errors(place, "cannot write to"):
                (place / HOLDER).write_text(json.dumps(_describe_process()), encoding="utf-8")
            yield
        finally:
            _holders.pop(place, None)
            # Both go while the lock is held: who waits for it sees that its file has no name.
            with contextlib.suppress(OSError):
                (place / HOLDER).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                (place / LOCK).unlink(missing_ok=True)
            lock.release()
    finally:
        for empty in created:
            with contextlib.suppress(OSError):
                empty.rmdir()


def one_writer(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to hold the lock of its argument `folder`."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def run_locked(*args: P.args, **options: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **options)
        except TypeError:
            return function(*args, **options)  # raises for missing arguments
        bound.apply_defaults()
        with folder_lock(bound.arguments["folder"]):
            return function(*args, **options)

    return run_locked


def _acquire(place: Path) -> FileLock:
    """Acquire the lock of a folder, which is created if it is missing."""
    lock = FileLock(place / LOCK, thread_local=False)
    # Another thread of this process would be a deadlock to wait for.
    patience = 0 if place in _holders else _RELEASE_SECONDS
    try:
        with convert_disk_errors(place, "cannot write to"):
            for last in (False, False, True):
                place.mkdir(parents=True, exist_ok=True)
                try:
                    lock.acquire(timeout=patience, poll_interval=0.05)
                    break
                except FileNotFoundError:  # whoever held it has just removed the folder
                    if last:
                        raise
    except Timeout:
        raise TvlensError(f"{place} is in use: {_describe_holder(place)}") from None
    return lock


def _describe_process() -> dict[str, Any]:
    """Describe this process for others: id, host, command and time."""
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "command": shlex.join(sys.orig_argv)[:400],
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _describe_holder(place: Path) -> str:
    """Describe the holder of a folder, for an error message."""
    try:
        info = json.loads((place / HOLDER).read_text(encoding="utf-8"))
        who = f"process {info['pid']} on {info['host']} has written there since {info['since']}"
        command = " ".join(str(info["command"]).split())
        return f"{who} ({command}); wait for it, or give another folder"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process writes there; wait for it, or give another folder"
