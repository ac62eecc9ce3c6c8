"""Signals end a command with one line at any moment."""

import multiprocessing
import signal
import subprocess
import sys
import time

import joblib
import pytest
from helpers import restore_signal_handlers

from tvlens.signals import defer_signals, interruptible

pytestmark = pytest.mark.no_arithmetic

MESSAGE = "tvlens: interrupted; run the same command again to go on"

SLOW = """
import sys, time
sys.argv = ["tvlens", "tasks"]
from tvlens.__main__ import main
import tvlens.tasks

def busy():
    from tvlens.signals import interruptible
    print("here", flush=True)
    {body}

tvlens.tasks.Task.names = staticmethod(busy)
main()
"""
BODIES = {
    "before work": "time.sleep(60)",
    "in work": """with interruptible(): time.sleep(60)""",
    "where a library makes another error of it": """
    with interruptible():
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise ImportError("cannot import torch")
""",
    "where Python cannot raise it": """
    class Deaf:
        def __del__(self):
            time.sleep(3)
    with interruptible():
        deaf = Deaf()
        del deaf
        time.sleep(60)
""",
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_a_command_with_one_line_and_status_130(body, number):
    command = [sys.executable, "-c", SLOW.format(body=BODIES[body])]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, preexec_fn=restore_signal_handlers, **pipes) as process:
        assert process.stdout.readline() == "here\n"
        time.sleep(0.3)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip() == MESSAGE


@pytest.mark.parametrize("after", [0.15, 0.4, 1.0, 2.0])
def test_signal_during_start_ends_a_command_with_one_line(after, tmp_path):
    command = [sys.executable, "-m", "tvlens", "latent", "-o", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(after)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    if process.returncode == -signal.SIGTERM:
        pytest.skip("Python itself had not started on this machine")
    assert process.returncode == 130 and MESSAGE in errors
    assert "Traceback" not in errors


@pytest.fixture
def heard_signals():
    """Install a terminal's signal handlers, since background processes ignore some signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    restore_signal_handlers()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("heard_signals")
def test_defer_signals_handles_a_signal_after_the_block():
    completed = []
    with pytest.raises(KeyboardInterrupt), defer_signals():
        signal.raise_signal(signal.SIGINT)
        completed.append("a process")
    assert completed


@pytest.mark.usefixtures("heard_signals")
def test_processes_started_in_defer_signals_inherit_blocked_signals():
    show = "import signal; print(sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))))"
    with defer_signals():
        blocked = subprocess.check_output([sys.executable, "-c", show], text=True)
    numbers = sorted(map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
    assert blocked.strip() == str(numbers)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(numbers)


def test_interrupt_ends_the_workers_of_joblib():
    with pytest.raises(KeyboardInterrupt), interruptible():
        joblib.Parallel(2)(joblib.delayed(len)("ab") for _ in range(2))
        workers = multiprocessing.active_children()
        raise KeyboardInterrupt
    assert workers
    for worker in workers:
        worker.join(timeout=10)
        assert not worker.is_alive()
