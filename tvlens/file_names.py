"""`file_name`: a safe file name for any label."""

import hashlib
import re
import unicodedata

# What Windows keeps for devices, and what studies and trainings themselves write into a folder.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{x}{i}" for x in ("com", "lpt") for i in range(10))}
_OWN_FILES = {
    *("about", "case", "checkpoints", "checks", "done", "finetune", "index", "metrics", "model"),
    *("patches", "report", "run", "steps", "training", "finetuned", "vectors", "views"),
}
_OWN_SUFFIXES = (".html", ".json", ".jsonl", ".lock", ".part", ".safetensors", ".unfinished")
# Most file systems end at 255 bytes, of which suffixes and temporary names need some.
_LONGEST = 120


def file_name(label: str) -> str:
    """Convert any label to the name of a file or folder, without suffix.

    An ordinary label (letters, digits, and ` `, `-`, `_`, `.`, `,`, `+` inside) is its own name.
    Of any other one (separators, `..`, control characters, names that studies or Windows use
    themselves, very long ones) the plain characters stay, with a short hash of the whole label
    behind them, so that different labels are different files.

    Args:
        label: name of a task, a model, a dataset, a method ...

    Returns:
        One component of a path that means nothing else: it never leads out of a folder.
    """
    if _is_plain(label):
        return label
    digest = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    prefix = re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-")[: _LONGEST - 9].rstrip("-")
    return f"{prefix or 'name'}-{digest}"


def _is_plain(label: str) -> bool:
    """Whether a label is a valid and unambiguous file name on every system."""
    if not re.fullmatch(r"\w(?:[\w .,+-]*[\w+-])?", label) or ".." in label:
        return False
    if len(label.encode()) > _LONGEST or unicodedata.normalize("NFC", label) != label:
        return False
    small = label.casefold()
    return small.split(".")[0].strip() not in _DEVICES | _OWN_FILES and not small.endswith(
        _OWN_SUFFIXES
    )
