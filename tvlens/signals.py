"""Ctrl-C, SIGTERM and SIGHUP end a command alike: workers stopped, one line, exit status 130.

This file imports little, so that a command can be interrupted from its first moment on.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

INTERRUPTED = 130
MESSAGE = "\ntvlens: interrupted; run the same command again to go on\n"

_NUMBERS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
# A signal to a whole group of processes may come twice; asking again is later.
_AGAIN_AFTER = 1.0
# How often a worker looks whether its parent is there.
_LOOK_EVERY = 0.5


class _State:
    """What the handler has to know."""

    working = False
    received: float | None = None
    count = 0


def install_handlers() -> None:
    """Let SIGINT, SIGTERM and SIGHUP end this process in one line.

    What is ignored from the start, as SIGHUP is behind `nohup`, stays ignored.
    """
    for number in _NUMBERS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)
    sys.unraisablehook = _unraisable


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Work that has something to undo: a signal raises KeyboardInterrupt in it.

    Raises:
        KeyboardInterrupt: a signal came, also where a library made another error of it.
    """
    lock_bars_by_thread()
    _State.working = True
    try:
        yield
    except KeyboardInterrupt:
        _end_workers()
        raise
    except BaseException as error:
        if _State.received is None:
            raise
        _end_workers()
        raise KeyboardInterrupt from error
    finally:
        _State.working = False


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Start processes: a signal that comes within is handled at the end, and they never see one.

    Processes inherit the signals that are blocked here, so that the one that started them decides.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    numbers = [n for n in _NUMBERS if signal.getsignal(n) != signal.SIG_IGN]
    received: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        # Another thread of this process may get the signal, which is blocked in this one alone.
        for number in numbers:
            handlers[number] = signal.signal(number, lambda number, _: received.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if received:
            signal.raise_signal(received[0])


def say_interrupted() -> None:
    """Print the line with which an interrupted command ends."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(MESSAGE)
        sys.stderr.flush()


def lock_bars_by_thread() -> None:
    """Let tqdm lock its bars in this process alone.

    By default it makes a semaphore for all processes and one more process that watches it, which
    speaks up when this one is killed.
    """
    from tqdm import tqdm

    tqdm.set_lock(threading.RLock())


def end_with_parent(parent: int) -> None:
    """End this worker soon after the process `parent`, which started it, is gone, however it went.

    Args:
        parent: its process id, as it knows it itself.
    """
    if getattr(_State, "watched", None) == parent:
        return
    _State.watched = parent  # type: ignore[attr-defined]

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY)
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def _handle(number: int, frame: FrameType | None) -> None:
    """What happens on a signal: an exception in work, else the end at once."""
    now = time.monotonic()
    if not _State.working and _State.received is None:
        os.write(2, MESSAGE.encode())
        os._exit(INTERRUPTED)
    if _State.received is not None and now - _State.received < _AGAIN_AFTER:
        return
    _State.received, _State.count = now, _State.count + 1
    if _State.count > 2:  # asked for a third time: no patience with whatever hangs
        _end_workers()
        os.write(2, MESSAGE.encode())
        os._exit(INTERRUPTED)
    if _State.working:
        raise KeyboardInterrupt


def _unraisable(error: Any) -> None:
    """An interrupt that came where Python cannot raise it, such as in `__del__`, comes again."""
    if not isinstance(error.exc_value, KeyboardInterrupt):
        if _State.received is None:
            sys.__unraisablehook__(error)
        return

    def again() -> None:
        _State.received = None
        # Sent to the main thread itself, which may be asleep.
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)

    threading.Timer(0.05, again).start()


def _end_workers() -> None:
    """Kill the processes that this one started for its work; their files are written atomically."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError, ValueError):
            # By number: joblib's processes have no `kill` of their own.
            os.kill(worker.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
