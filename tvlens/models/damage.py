"""Damaged models: weights with missing tensors, and unreadable files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import TvlensError
from ..files import one_line


def load_weights(
    cls: Any, name: str, *, is_new: Callable[[str], bool] | None = None, **options: Any
) -> Any:
    """Load a Hugging Face model whose weights are complete.

    Hugging Face gives random values to what the files lack. A pooler that they lack is left out
    where the model works without one; tied weights are not missing.

    Args:
        cls: class with `from_pretrained`.
        is_new: whether a tensor of this name may be missing, such as a classifier to be trained.
        options: for `from_pretrained`.

    Raises:
        TvlensError: the files lack a tensor; names it.
    """
    model, report = cls.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(key for key in report["missing_keys"] if is_new is None or not is_new(key))
    if missing and all(key.startswith("pooler.") for key in missing):
        model.pooler = None
        missing = []
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise TvlensError(f"the weights of {name} are incomplete: they lack {missing[0]}{more}")
    return model


def find_damaged_file(folder: str | Path) -> str | None:
    """Find the first unreadable JSON or safetensors file of a folder, and the reason.

    Cost: the JSON files are read whole, of the weights only their headers.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(Path(folder).iterdir()):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="pt"):
                    pass
        except (OSError, ValueError, RecursionError, SafetensorError) as error:
            return f"{path.name} is damaged: {one_line(error)}"
    return None


def not_loaded(folder: str | Path, error: Exception) -> TvlensError:
    """Create the error for a folder that does not open as a model; names the damaged file."""
    reason = find_damaged_file(folder) if Path(folder).is_dir() else None
    if reason is None and not (Path(folder) / "config.json").is_file():
        reason = "it has no config.json"
    reason = reason or f"{type(error).__name__}: {one_line(error)}"
    return TvlensError(f"cannot load the model in {folder}: {reason}")
