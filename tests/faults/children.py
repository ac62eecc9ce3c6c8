"""Run tvlens in a forked child, which costs no import, and say how it ended."""

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
class Ended:
    """How a child ended: exit status (negative: the signal), what it said, seconds it took."""

    status: int
    output: str
    seconds: float

    def fault(self, *accepted: int) -> str | None:
        """What is wrong with the end, if anything: a raw traceback, or a status not accepted."""
        last = " ".join(self.output.strip().splitlines()[-1:])[:160]
        if "Traceback (most recent call last)" in self.output:
            return f"raw traceback: {last}"
        if self.status not in accepted:
            return f"exit {self.status}: {last}"
        if self.status == 2 and self.output.count("tvlens: ") > 1:
            return f"more than one line: {self.output.strip()[-300:]!r}"
        return None


class Child:
    """A child that runs a function in a session of its own."""

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

    def wait(self, timeout: float = 300) -> Ended:
        """Wait for its end; a child that takes too long is killed, and its status is -9."""
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
        return Ended(os.waitstatus_to_exitcode(status), output, seconds)

    def group_is_gone(self, patience: float = 5) -> bool:
        """Whether no process of its group lives on after its end."""
        until = time.perf_counter() + patience
        while time.perf_counter() < until:
            try:
                os.killpg(self.pid, 0)
            except ProcessLookupError:
                return True
            time.sleep(0.05)
        self.send(signal.SIGKILL, group=True)
        return False


def run(call: Callable[[], object], **options: float) -> Ended:
    """Run a function in a child to its end."""
    return Child(call).wait(**options)


def tvlens(*arguments: object) -> Callable[[], None]:
    """The command line `tvlens ...`, for a child."""

    def call() -> None:
        sys.argv = ["tvlens", *map(str, arguments)]
        main()

    return call


def kill_at_random(
    call: Callable[[], object], seconds: float, rng: random.Random, *, number: int = signal.SIGKILL
) -> Ended:
    """Run a function that takes about so long, and kill it somewhere on the way."""
    for _ in range(5):
        child = Child(call)
        time.sleep(rng.uniform(0, 0.95 * seconds))
        child.send(number, group=True)
        ended = child.wait()
        if ended.status != 0:
            break
    return ended


def left_behind(folder: Path) -> list[str]:
    """Temporary files in a folder, at any depth; locks are no leftovers."""
    hidden = (p for p in folder.rglob(".*") if "lock" not in p.name)
    return sorted(str(p.relative_to(folder)) for p in hidden)


def _run(call: Callable[[], object], log: int) -> None:
    """Be the child: never returns."""
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
