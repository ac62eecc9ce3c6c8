"""Suppress third-party progress bars and dependency checks."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Suppress the progress bars of Hugging Face for reading and writing a folder.

    They would remain on the page of every notebook.
    """
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextlib.contextmanager
def without_torchvision() -> Iterator[None]:
    """Let TransformerLens load models that also read videos without torchvision.

    Images are read with Pillow.
    """
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    check = ArchitectureAdapter._check_required_libraries

    def check_others(self: Any) -> None:
        self.required_libraries = [n for n in self.required_libraries if n != "torchvision"]
        check(self)

    ArchitectureAdapter._check_required_libraries = check_others
    try:
        yield
    finally:
        ArchitectureAdapter._check_required_libraries = check
