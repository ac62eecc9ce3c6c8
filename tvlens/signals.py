"""Signal handlers: SIGINT, SIGTERM and SIGHUP stop workers and exit with status 130.

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
    """State of the handler."""

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
    """Raise KeyboardInterrupt on a signal inside the `with` block, for work with cleanup.

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
    """Defer signals inside the `with` block, and block them in processes started there.

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
    """Print the last line of an interrupted command."""
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
    """End this worker soon after its parent process has ended.

    Args:
        parent: its process id.
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
    """Handle a signal: raise inside `interruptible`, otherwise exit."""
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
    """Repeat an interrupt that Python could not raise, such as in `__del__`."""
    if not isinstance(error.exc_value, KeyboardInterrupt):
        if _State.received is None:
            sys.__unraisablehook__(error)
        return

    def raise_again() -> None:
        _State.received = None
        # Sent to the main thread itself, which may be asleep.
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)

    threading.Timer(0.05, raise_again).start()


def _end_workers() -> None:
    """Kill the worker processes of this process, whose files are written atomically."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is None:
        return
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError, ValueError):
            # By number: joblib's processes have no `kill` of their own.
            os.kill(worker.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
