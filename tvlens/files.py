"""Atomic writing of files and folders, and checks of output folders."""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from .errors import TvlensError

# Age in seconds at which temporary files of other machines are removed.
_STALE_SECONDS = 86400
# Temporary paths of this process: another thread may be writing to them.
_open_paths: set[str] = set()
# A disk that fails or is full, whoever writes to it.
_FULL = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO")
    if hasattr(errno, name)
}


class NotWrittenError(TvlensError, OSError):
    """A file or folder that cannot be written; an `OSError` too, as callers may expect."""

    __str__ = TvlensError.__str__


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on a clean exit it takes the place of `path`.

    After an exception (Ctrl-C included) the temporary file is removed and `path` is unchanged.
    Temporary files that a killed process left for the same `path` are removed.

    Raises:
        NotWrittenError: the folder is missing and cannot be made, is read-only or full.
    """
    path = Path(path)
    with convert_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_path(path, path.suffix) as temporary:
        with convert_disk_errors(path):
            # Made now, so that two runs never take one name.
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        with convert_disk_errors(path, only=_FULL):
            yield temporary
        with convert_disk_errors(path):
            os.replace(temporary, path)


@contextlib.contextmanager
def atomic_write_folder(
    path: str | os.PathLike, *, is_whole: Callable[[Path], bool] = Path.is_dir
) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on a clean exit it becomes `path`.

    If another process has created `path` in the meantime, that one is kept.

    Args:
        is_whole: whether the present `path` is complete and kept; otherwise it is replaced.

    Raises:
        NotWrittenError: the folder around it cannot be made, is read-only or full.
    """
    path = Path(path)
    with convert_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(path) as temporary:
        with convert_disk_errors(path, only=_FULL):
            yield temporary
        with convert_disk_errors(path):
            _put_in_place(temporary, path, is_whole)


@contextlib.contextmanager
def temporary_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield an empty folder beside `path`, which is removed at the end.

    For libraries that write temporary files of their own, which a later run could not tell from
    those of another process.

    Raises:
        NotWrittenError: the folder around it is read-only or full.
    """
    path = Path(path)
    with _temporary_path(path) as folder:
        with convert_disk_errors(path):
            folder.mkdir()
        yield folder


def write(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a file atomically; returns its path."""
    with atomic_write(path) as temporary:
        if isinstance(content, str):
            # A lone surrogate has no bytes of its own: its escape is the one that JSON reads.
            content = content.encode("utf-8", "backslashreplace")
        temporary.write_bytes(content)
    return Path(path)


def check_folder(folder: str | os.PathLike, *, size: int = 0) -> None:
    """Check that files can be written to a folder, existing or not.

    A file is written and removed, in the nearest folder above where the folder is missing.

    Args:
        size: bytes that are to be written there, where it is known.

    Raises:
        NotWrittenError: it is a file or a broken link, read-only or full; says which, or how much
            room is needed and how much is free.
    """
    folder = Path(folder)
    with convert_disk_errors(folder, "cannot write to"):
        existing = next(p for p in (folder, *folder.parents, Path()) if _exists(p))
    if existing.is_symlink() and not existing.exists():
        target = os.readlink(existing)
        raise NotWrittenError(f"cannot write to {folder}: {existing} is a broken link to {target}")
    if not existing.is_dir():
        raise NotWrittenError(f"cannot write to {folder}: {existing} is a file, not a folder")
    with (
        _temporary_path(existing / "probe") as probe,
        convert_disk_errors(folder, "cannot write to"),
        probe.open("xb") as file,
    ):
        # Full disks take empty files, and some report that they are full only at a sync.
        file.write(bytes(1 << 16))
        file.flush()
        os.fsync(file.fileno())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise NotWrittenError(f"cannot write to {folder}: {_space_message(size, free)}")


def prepare_folder(folder: str | os.PathLike) -> Path:
    """Check a folder and create it if it is missing; returns its path.

    Call it before long work whose results go there.

    Raises:
        NotWrittenError: as `check_folder`.
    """
    folder = Path(folder)
    check_folder(folder)
    with convert_disk_errors(folder, "cannot write to"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def reserve(file: int, size: int, path: str | os.PathLike) -> None:
    """Reserve disk space for a file, so that writing to its memory map cannot fail.

    Args:
        file: number of a file that is open for writing.
        size: bytes from its beginning.
        path: path of the file, for the message.

    Raises:
        NotWrittenError: the disk has less room than that; says how much is needed and free.
    """
    if size <= 0:
        return
    folder = Path(path).parent
    free = shutil.disk_usage(folder).free
    try:
        if free < size - os.fstat(file).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            os.posix_fallocate(file, 0, size)
        except AttributeError:  # not on this system
            _write_zeros(file, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            _write_zeros(file, size)
    except OSError as error:
        problem = f"{_space_message(size, free)} ({_reason(error)})"
        raise NotWrittenError(f"cannot write {path}: {problem}") from error


def sweep(path: Path) -> None:
    """Remove temporary files of `path` whose process has ended.

    Those of other machines are removed after a day.
    """
    prefix = _prefix(path)
    pattern = re.compile(re.escape(prefix) + r"(\d+)-([0-9a-f]{8})-[0-9a-f]{8}(\.[^.]*)?")
    with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
        names = [e.name for e in entries if e.name.startswith(prefix)]
        for name in names:
            stale = path.with_name(name)
            if (match := pattern.fullmatch(name)) and _is_left_behind(stale, *match.groups()[:2]):
                remove(stale)


@contextlib.contextmanager
def convert_disk_errors(
    path: Path, what: str = "cannot write", *, only: Collection[int] | None = None
) -> Iterator[None]:
    """Convert errors of the file system to a one-line error that names the path.

    Args:
        what: beginning of the message.
        only: numbers of the errors meant; all of the system's by default.
    """
    try:
        yield
    except NotWrittenError:
        raise
    except OSError as error:
        # Errors of libraries, such as a timeout, have no number.
        if error.errno is None or (only is not None and error.errno not in only):
            raise
        raise NotWrittenError(f"{what} {path}: {_reason(error)}") from error


def one_line(error: BaseException) -> str:
    """The message of an exception, in one line of at most 300 characters."""
    if isinstance(error, OSError) and error.strerror:
        prefix = f"{error.filename}: " if error.filename is not None else ""
        return f"{prefix}{error.strerror}"
    lines = str(error).split()
    return " ".join(lines)[:300] or type(error).__name__


def _exists(path: Path) -> bool:
    """Whether a path exists, including a broken link; a name that is too long is an error."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _write_zeros(file: int, size: int) -> None:
    """Write zeros from the end of a file up to a size."""
    offset = os.lseek(file, 0, os.SEEK_END)
    block = bytes(1 << 23)
    while offset < size:
        offset += os.write(file, memoryview(block)[: size - offset])


def _put_in_place(temporary: Path, path: Path, is_whole: Callable[[Path], bool]) -> None:
    """Rename a temporary folder to `path`, unless a complete one exists."""
    for _ in range(10):  # another process may do the same at the same time
        try:
            os.replace(temporary, path)
            return
        except OSError:
            if is_whole(path):
                return
            if not os.path.lexists(path):
                raise
        with _temporary_path(path) as aside, contextlib.suppress(FileNotFoundError):
            os.replace(path, aside)
    raise NotWrittenError(f"cannot write {path}: other processes keep writing there")


@contextlib.contextmanager
def _temporary_path(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a new name beside `path`, whose file or folder is removed at the end.

    The name holds the process and the machine, so that a later run can tell what was left behind
    by a process that is gone; that of the same `path` is removed here.
    """
    sweep(path)
    token = f"{os.getpid()}-{_machine()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{_prefix(path)}{token}{suffix}")
    _open_paths.add(str(temporary))
    try:
        yield temporary
    finally:
        remove(temporary)
        _open_paths.discard(str(temporary))


def _is_left_behind(path: Path, process: str, machine: str) -> bool:
    if machine == _machine() and os.name == "posix":
        if int(process) == os.getpid():  # a number may come again, as that of a container's first
            return str(path) not in _open_paths
        return not _is_alive(int(process))
    try:
        return time.time() - path.stat().st_mtime > _STALE_SECONDS
    except OSError:
        return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _prefix(path: Path) -> str:
    """Prefix of the names of temporary files of `path`; long names are truncated."""
    name = path.name
    if len(os.fsencode(name)) > 160:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{name[:24]}~{digest}"
    return f".{name}."


def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _space_message(size: int, free: int) -> str:
    return f"{size / 1e6:,.1f} MB are needed and {free / 1e6:,.1f} MB are free"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
