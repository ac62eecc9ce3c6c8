"""Output folders that cannot be written to, and disks that are or become full."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .children import list_leftovers, run
from .commands import Command

Trial = tuple[str, str | None]


def disks(command: Command, work: Path, count: int) -> Iterator[Trial]:
    """Try every fault of an output folder, and `count` sizes of a small disk."""
    for name, make in _PLACES.items():
        with contextlib.ExitStack() as stack:
            out = make(work / "place", stack)
            if out is not None:
                yield f"{name}: {command.name}", _find_fault_of_refusal(command, out)
        shutil.rmtree(work / "place", ignore_errors=True)
    for i in range(count):
        size = 1 << (12 + i % 10)
        out = work / f"limited-{i}"
        ended = run(_with_file_size_limit(command.run(out), size))
        fault = ended.fault(0, 2)
        if fault is None and (left := list_leftovers(out)):
            fault = f"left behind: {left[0]}"
        yield f"RLIMIT_FSIZE: {command.name}", fault
        shutil.rmtree(out, ignore_errors=True)
        with tmpfs(work / f"small-{i}", size) as disk:
            if disk is not None:
                ended = run(command.run(disk / "out"))
                fault = ended.fault(0, 2)
                if fault is None and (left := list_leftovers(disk)):
                    fault = f"left behind: {left[0]}"
                yield f"tmpfs that fills up: {command.name}", fault


@contextlib.contextmanager
def tmpfs(folder: Path, size: int, *, options: str = "") -> Iterator[Path | None]:
    """Mount a small disk; None where this is not permitted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}{options}", "tmpfs", str(folder)]
    done = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(mount, check=False)
    mounted = bool(done) and done.returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _with_file_size_limit(call: Callable[[], object], size: int) -> Callable[[], object]:
    def call_with_limit() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return call()

    return call_with_limit


def _find_fault_of_refusal(command: Command, out: Path) -> str | None:
    """Describe what is wrong with a refusal; None if it is one line before any work."""
    before = sorted(p.name for p in out.parent.iterdir()) if out.parent.is_dir() else []
    ended = run(command.run(out))
    if fault := ended.fault(2):
        return fault
    if "cannot write" not in ended.output:
        return f"another reason: {ended.output.strip()[-160:]}"
    after = sorted(p.name for p in out.parent.iterdir()) if out.parent.is_dir() else []
    return None if before == after else f"left behind: {set(after) - set(before)}"


def _file(folder: Path, stack: contextlib.ExitStack) -> Path:
    folder.mkdir()
    (folder / "out").write_text("not a folder")
    return folder / "out"


def _below_a_file(folder: Path, stack: contextlib.ExitStack) -> Path:
    return _file(folder, stack) / "below"


def _broken_link(folder: Path, stack: contextlib.ExitStack) -> Path:
    folder.mkdir()
    (folder / "out").symlink_to(folder / "nowhere")
    return folder / "out"


def _loop(folder: Path, stack: contextlib.ExitStack) -> Path:
    folder.mkdir()
    (folder / "out").symlink_to(folder / "out")
    return folder / "out"


def _proc(folder: Path, stack: contextlib.ExitStack) -> Path | None:
    return Path("/proc/self/out") if Path("/proc/self").exists() else None


def _read_only(folder: Path, stack: contextlib.ExitStack) -> Path | None:
    disk = stack.enter_context(tmpfs(folder, 1 << 20, options=",ro"))
    return None if disk is None else disk / "out"


def _full(folder: Path, stack: contextlib.ExitStack) -> Path | None:
    disk = stack.enter_context(tmpfs(folder, 1 << 16))
    if disk is None:
        return None
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    return disk / "out"


def _too_long(folder: Path, stack: contextlib.ExitStack) -> Path:
    folder.mkdir()
    return folder / ("o" * 300)


_PLACES: dict[str, Callable[[Path, contextlib.ExitStack], Path | None]] = {
    "a file for a folder": _file,
    "below a file": _below_a_file,
    "a broken link": _broken_link,
    "a link to itself": _loop,
    "/proc": _proc,
    "a read-only disk": _read_only,
    "a full disk": _full,
    "a name of 300 letters": _too_long,
}
