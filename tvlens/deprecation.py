"""Deprecated public names, which work and warn once."""

import warnings

_warned: set[str] = set()


def warn_renamed(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn, once per process, that the public name `old` is now `new`.

    Args:
        old, new: the names as users write them, such as "tvlens.Labelled".
        stacklevel: as in `warnings.warn`; by default the caller of the function that calls this.
    """
    if old not in _warned:
        _warned.add(old)
        message = f"{old} is deprecated: use {new}"
        warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)
