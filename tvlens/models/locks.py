"""One thread at a time on a model: hooks and skipped blocks are states of the model itself."""

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

# model -> its lock; gone with the model
_locks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_making = threading.Lock()


def lock_of(model: Any) -> Any:
    """The model's own lock, which one thread can take several times."""
    with _making:
        return _locks.setdefault(model, threading.RLock())


def exclusive(manager: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
    """For a generator of a context manager whose first argument is a model: others wait outside.

    Two threads that each hold a model and wait for the other's wait forever: take several models
    in the same order everywhere.
    """

    @functools.wraps(manager)
    def held(model: Any, *args: Any, **options: Any) -> Iterator[None]:
        with lock_of(model):
            yield from manager(model, *args, **options)

    return held


@contextlib.contextmanager
@exclusive
def locked(model: Any) -> Iterator[None]:
    """Within, no other thread runs tvlens on this model."""
    yield
