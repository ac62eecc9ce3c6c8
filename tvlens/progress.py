"""`progress_bar`: progress bars that follow the argument `progress`."""

from typing import Any

from tqdm.auto import tqdm


def progress_bar(*args: Any, progress: bool | None = None, **options: Any) -> tqdm:
    """Create a tqdm bar that is shown or hidden by the argument `progress`.

    Args:
        args, options: for `tqdm`.
        progress: True shows the bar and False hides it; None shows it on a terminal, unless
            another bar is being shown.
    """
    disable = None if progress is None else not progress  # None: tqdm asks for a terminal
    if progress is None and len(getattr(tqdm, "_instances", ())) > 0:
        disable = True
    return tqdm(*args, disable=disable, **options)
