"""Names of files, and writing them so that an interrupted run leaves the old or the new one."""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the place of `path`.

    After an exception (Ctrl-C included) the temporary file is gone and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a result is an ordinary file of this user.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit it becomes `path`, whole.

    Where another process has made `path` meanwhile, that one is kept.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def replacing_files(folder: str | os.PathLike, *, marker: str) -> Iterator[Path]:
    """Yield a temporary folder; on a clean exit its files take their places in `folder`, as one.

    They belong together: without the file `marker`, which is removed first and placed last, none
    of them counts. After an exception before that, `folder` is as it was. Other files of the
    folder stay. One process at a time.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".{marker}."
    for left in folder.glob(f"{prefix}*"):  # of a killed run
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
    try:
        yield temporary
        names = sorted(path.name for path in temporary.iterdir() if path.name != marker)
        (folder / marker).unlink(missing_ok=True)
        for name in [*names, marker]:
            os.replace(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a whole file at once, as `replacing` does; returns its path."""
    with replacing(path) as temporary:
        if isinstance(content, str):
            # A lone surrogate has no bytes of its own: its escape is the one that JSON reads.
            content = content.encode("utf-8", "backslashreplace")
        temporary.write_bytes(content)
    return Path(path)


# What Windows keeps for devices, and what studies and trainings themselves write into a folder.
_DEVICES = {"con", "prn", "aux", "nul", *(f"{x}{i}" for x in ("com", "lpt") for i in range(10))}
_OWN_FILES = {
    *("about", "case", "checkpoints", "checks", "done", "finetune", "index", "metrics", "model"),
    *("naming", "patches", "report", "run", "steps", "twins", "vectors", "views"),
}
_OWN_SUFFIXES = (".html", ".json", ".jsonl", ".lock", ".part", ".safetensors", ".unfinished")
# Most file systems end at 255 bytes, of which suffixes and temporary names need some.
_LONGEST = 120


def file_name(label: str) -> str:
    """Make the name of a file or folder, without its suffix, of any label.

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
    kept = re.sub(r"[^A-Za-z0-9_-]+", "-", label).strip("-")[: _LONGEST - 9].rstrip("-")
    return f"{kept or 'name'}-{digest}"


def _is_plain(label: str) -> bool:
    """Whether a label means the same as a file name on every system, and is nobody else's."""
    if not re.fullmatch(r"\w(?:[\w .,+-]*[\w+-])?", label) or ".." in label:
        return False
    if len(label.encode()) > _LONGEST or unicodedata.normalize("NFC", label) != label:
        return False
    small = label.casefold()
    return small.split(".")[0].strip() not in _DEVICES | _OWN_FILES and not small.endswith(
        _OWN_SUFFIXES
    )
