"""What other libraries say or ask for while they open a model, and nobody wants."""

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars of Hugging Face about reading and writing a folder, which takes a moment and
    would stay on the page of every notebook.
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
    """TransformerLens refuses models that also watch videos where torchvision is missing; images
    do without, by way of Pillow.
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
