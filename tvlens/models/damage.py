"""Which file of a model's folder is damaged, and what to say of a folder that does not open."""

import json
from pathlib import Path

from ..errors import TvlensError
from ..files import one_line


def damaged_file(folder: str | Path) -> str | None:
    """The first JSON or safetensors file of a folder that cannot be read, and why; None if all can.

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
    """The error for a folder that does not open as a model: names the damaged file, if any."""
    reason = damaged_file(folder) if Path(folder).is_dir() else None
    if reason is None and not (Path(folder) / "config.json").is_file():
        reason = "it has no config.json"
    reason = reason or f"{type(error).__name__}: {one_line(error)}"
    return TvlensError(f"cannot load the model in {folder}: {reason}")
