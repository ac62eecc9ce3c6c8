"""Run tvlens in a forked child process, which saves the imports, and return how it ended."""

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tvlens import TvlensError
from tvlens.cli import main


@dataclass(frozen=True)
class ChildEnd:
    """How a child ended: exit status (negative for a signal), output, duration in seconds."""

    status: int
    output: str
    seconds: float

    def fault(self, *accepted: int) -> str | None:
        """Describe a raw traceback or a status that is not accepted; None if neither."""
        last = " ".join(self.output.strip().splitlines()[-1:])[:160]
        if "Traceback (most recent call last)" in self.output:
            return f"raw traceback: {last}"
        if self.status not in accepted:
            return f"exit {self.status}: {last}"
        if self.status == 2 and self.output.count("tvlens: ") > 1:
            return f"more than one line: {self.output.strip()[-300:]!r}"
        return None


class Child:
    """A child process that runs a function in a new session."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.log = tempfile.TemporaryFile()  # noqa: SIM115
        self.began = time.perf_counter()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run(call, self.log.fileno())

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the child, or to its process group, once it has one."""
        try:
            (os.killpg if group else os.kill)(self.pid, number)
        except ProcessLookupError:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> ChildEnd:
        """Wait for the child's end; after the timeout it is killed, with status -9."""
        until = time.perf_counter() + timeout
        while time.perf_counter() < until:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.005)
        else:
            self.send(signal.SIGKILL, group=True)
            _, status = os.waitpid(self.pid, 0)
        seconds = time.perf_counter() - self.began
        self.log.seek(0)
        output = self.log.read().decode(errors="replace")
        return ChildEnd(os.waitstatus_to_exitcode(status), output, seconds)

    def group_is_gone(self, patience: float = 5) -> bool:
        """Whether all processes of the group end within `patience` seconds."""
        until = time.perf_counter() + patience
        while time.perf_counter() < until:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        self.send(signal.SIGKILL, group=True)
        return False


def run(call: Callable[[], object], **options: float) -> ChildEnd:
    """Run a function in a child process and wait for its end."""
    return Child(call).wait(**options)


def command_line(*arguments: object) -> Callable[[], None]:
    """Return a function that runs the command line `tvlens ...`."""

    def call() -> None:
        sys.argv = ["tvlens", *map(str, arguments)]
        main()

    return call


def kill_at_random(
    call: Callable[[], object], seconds: float, rng: random.Random, *, number: int = signal.SIGKILL
) -> ChildEnd:
    """Run a function that takes about `seconds`, and kill it at a random moment."""
    for _ in range(5):
        child = Child(call)
        time.sleep(rng.uniform(0, 0.95 * seconds))
        child.send(number, group=True)
        ended = child.wait()
        if ended.status != 0:
            break
    return ended


def list_leftovers(folder: Path) -> list[str]:
    """List temporary files below a folder, except locks."""
    hidden = (p for p in folder.rglob(".*") if "lock" not in p.name)
    return sorted(str(p.relative_to(folder)) for p in hidden)


def _run(call: Callable[[], object], log: int) -> None:
    """Run the function in the child process; never returns."""
    os.setsid()
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 0
    try:
        call()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except (TvlensError, OSError) as error:  # as `tvlens.cli.main` does
        print(f"tvlens: {error}", file=sys.stderr)
        status = 2
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
