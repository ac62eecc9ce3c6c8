"""One writer per folder: locks between threads and real processes."""

import json
import subprocess
import sys
import threading
import time

import pytest
import tiny

import tvlens as tv
from tvlens import TvlensError
from tvlens.folder_lock import HOLDER, LOCK, folder_lock, one_writer
from tvlens.training import TransformerConfig, load_run, train

pytestmark = pytest.mark.no_arithmetic

CONFIG = TransformerConfig(context=8, vocab=5, layers=1, d_model=8, heads=1)

HOLD = """
import sys, time
from tvlens.folder_lock import folder_lock
with folder_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A real process that holds `tmp_path / "out"`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def short_release(monkeypatch):
    monkeypatch.setattr("tvlens.folder_lock._RELEASE_SECONDS", 0.2)


def test_locked_folder_refuses_runs_and_names_the_holder(holder, tmp_path):
    out = tmp_path / "out"
    holder_record = json.loads((out / HOLDER).read_text())
    assert holder_record["pid"] == holder.pid and set(holder_record) == {
        "pid",
        "host",
        "command",
        "since",
    }
    task = tv.Task("t", [(x, 2 * x) for x in "abcdefghijklmnopqrst"])
    runs = [
        lambda: tv.studies.vectors.run(tiny.model("llama"), [task], folder=out, progress=False),
        lambda: tv.studies.latent.run(folder=out, progress=False),
        lambda: train(CONFIG, None, steps=1, folder=out),
    ]
    for run in runs:
        with pytest.raises(TvlensError, match=rf"is in use: process {holder.pid} on ") as caught:
            run()
        assert "\n" not in str(caught.value)
    assert {path.name for path in out.iterdir()} == {LOCK, HOLDER}


def test_command_on_a_locked_folder_exits_2(holder, tmp_path):
    command = [sys.executable, "-m", "tvlens", "latent", "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and f"process {holder.pid}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_lock_of_a_killed_process_is_released(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / HOLDER).exists()
    with folder_lock(tmp_path / "out"):
        pass
    assert not (tmp_path / "out" / LOCK).exists() and not (tmp_path / "out" / HOLDER).exists()


def test_locked_folder_can_be_read(tmp_path):
    sample = tv.bayes.Dice(tasks=2, faces=4, seed=0)
    train(CONFIG, lambda s: sample.sample(2, 8, seed=s).tokens, steps=2, folder=tmp_path,
          progress=False)  # fmt: skip
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()
        assert load_run(tmp_path).steps
        process.kill()


def test_lock_is_reentrant_within_one_thread(tmp_path):
    @one_writer
    def write(value, *, folder=None):
        return value

    messages = []

    def write_from_thread():
        try:
            write(2, folder=tmp_path)
        except TvlensError as error:
            messages.append(str(error))

    with folder_lock(tmp_path):
        assert write(1, folder=tmp_path) == 1
        began = time.monotonic()
        thread = threading.Thread(target=write_from_thread)
        thread.start()
        thread.join()
        assert "in use" in messages[0] and time.monotonic() - began < 5
    write_from_thread()
    assert len(messages) == 1
    assert write(3) == 3, "no folder, no lock"


def test_lock_removes_empty_folders(tmp_path):
    with pytest.raises(KeyboardInterrupt), folder_lock(tmp_path / "a" / "b"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with folder_lock(tmp_path / "a"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_lock_on_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(TvlensError, match=r"cannot write to .*file"),
        folder_lock(tmp_path / "file"),
    ):
        pass
