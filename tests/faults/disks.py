"""Output folders that cannot be written to, and disks that are or become full."""

import contextlib
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from .children import left_behind, run
from .commands import Command

Trial = tuple[str, str | None]


def disks(command: Command, work: Path, count: int) -> Iterator[Trial]:
    """Every fault of an output folder, as many sizes of a disk as `count`."""
    for name, make in _PLACES.items():
        with contextlib.ExitStack() as stack:
            out = make(work / "place", stack)
            if out is not None:
                yield f"{name}: {command.name}", _refused(command, out)
        shutil.rmtree(work / "place", ignore_errors=True)
    for i in range(count):
        size = 1 << (12 + i % 10)
        out = work / f"limited-{i}"
        ended = run(_limited(command.run(out), size))
        fault = ended.fault(0, 2)
        if fault is None and (left := left_behind(out)):
            fault = f"left behind: {left[0]}"
        yield f"RLIMIT_FSIZE: {command.name}", fault
        shutil.rmtree(out, ignore_errors=True)
        with tmpfs(work / f"small-{i}", size) as disk:
            if disk is not None:
                ended = run(command.run(disk / "out"))
                fault = ended.fault(0, 2)
                if fault is None and (left := left_behind(disk)):
                    fault = f"left behind: {left[0]}"
                yield f"tmpfs that fills up: {command.name}", fault


@contextlib.contextmanager
def tmpfs(folder: Path, size: int, *, options: str = "") -> Iterator[Path | None]:
    """A small disk of its own; None where none can be mounted."""
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


def _limited(call: Callable[[], object], size: int) -> Callable[[], object]:
    def limited() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return call()

    return limited


def _refused(command: Command, out: Path) -> str | None:
    """What is wrong with how a command refuses a folder: before the work, in one line."""
    before = sorted(p.name for p in out.parent.iterdir()) if out.parent.is_dir() else []
    ended = run(command.run(out))
    if fault := ended.fault(2):
        return fault
    if "cannot write" not in ended.output:
        return f"another reason: {ended.output.strip()[-160:]}"
    after = sorted(p.name for p in out.parent.iterdir()) if out.parent.is_dir() else []
    return None if before == after else f"left behind: {set(after) - set(before)}"


def _file(place: Path, stack: contextlib.ExitStack) -> Path:
    place.mkdir()
    (place / "out").write_text("not a folder")
    return place / "out"


def _below_a_file(place: Path, stack: contextlib.ExitStack) -> Path:
    return _file(place, stack) / "below"


def _broken_link(place: Path, stack: contextlib.ExitStack) -> Path:
    place.mkdir()
    (place / "out").symlink_to(place / "nowhere")
    return place / "out"


def _loop(place: Path, stack: contextlib.ExitStack) -> Path:
    place.mkdir()
    (place / "out").symlink_to(place / "out")
    return place / "out"


def _proc(place: Path, stack: contextlib.ExitStack) -> Path | None:
    return Path("/proc/self/out") if Path("/proc/self").exists() else None


def _read_only(place: Path, stack: contextlib.ExitStack) -> Path | None:
    disk = stack.enter_context(tmpfs(place, 1 << 20, options=",ro"))
    return None if disk is None else disk / "out"


def _full(place: Path, stack: contextlib.ExitStack) -> Path | None:
    disk = stack.enter_context(tmpfs(place, 1 << 16))
    if disk is None:
        return None
    with contextlib.suppress(OSError), (disk / "filler").open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    return disk / "out"


def _too_long(place: Path, stack: contextlib.ExitStack) -> Path:
    place.mkdir()
    return place / ("o" * 300)


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
