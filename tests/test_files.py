import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tvlens import TvlensError, files
from tvlens.files import (
    NotWrittenError,
    atomic_write,
    atomic_write_folder,
    check_folder,
    prepare_folder,
    write,
)

pytestmark = pytest.mark.no_arithmetic


def test_failed_atomic_write_keeps_the_old_file(tmp_path):
    path = write(tmp_path / "deep" / "page.html", "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_write_gives_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    path = write(tmp_path / "ours", b"bytes")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert path.read_bytes() == b"bytes"


def test_atomic_write_folder_is_complete_or_absent(tmp_path):
    with pytest.raises(OSError, match="no"), atomic_write_folder(tmp_path / "model") as temporary:
        (temporary / "half").write_text("")
        raise OSError("no")
    assert list(tmp_path.iterdir()) == []
    with atomic_write_folder(tmp_path / "model") as temporary:
        (temporary / "all").write_text("")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["all"]
    with atomic_write_folder(
        tmp_path / "model"
    ) as temporary:  # somebody was faster: theirs is kept
        (temporary / "other").write_text("")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["all"]


def test_write_escapes_lone_surrogates_in_json(tmp_path):
    path = write(tmp_path / "a.json", '["\ud800"]')
    assert path.read_bytes() == b'["\\ud800"]'


def write_leftover(path, process, *, machine=None, age=0.0):
    """Write a temporary file of `path` as a killed process leaves it."""
    token = f"{process}-{machine or files._machine()}-0123abcd"
    temporary = path.with_name(f"{files._prefix(path)}{token}{path.suffix}")
    temporary.write_bytes(b"half")
    os.utime(temporary, (time.time() - age,) * 2)
    return temporary


def test_write_removes_leftovers_of_killed_processes(tmp_path):
    path = tmp_path / "states.safetensors"
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead = write_leftover(path, process.pid)
    same_number = write_leftover(path, os.getpid())
    live = write_leftover(path, os.getppid())
    other_target = write_leftover(tmp_path / "states.b.safetensors", process.pid)
    elsewhere = write_leftover(path, 1, machine="ffffffff")
    old_elsewhere = write_leftover(path, 2, machine="ffffffff", age=90_000)
    write(path, "new")
    assert path.read_text() == "new"
    assert {p: p.exists() for p in (dead, same_number, old_elsewhere)} == {
        dead: False, same_number: False, old_elsewhere: False
    }  # fmt: skip
    assert live.exists() and other_target.exists() and elsewhere.exists()


def test_nested_write_keeps_open_temporary_files(tmp_path):
    with atomic_write(tmp_path / "a") as first:
        write(tmp_path / "a", "second")
        assert first.exists()
        first.write_text("first")
    assert (tmp_path / "a").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_write_accepts_file_names_of_maximal_length(tmp_path):
    name = "ä" * 125
    assert write(tmp_path / name, "x").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_atomic_write_folder_replaces_incomplete_folders(tmp_path):
    def is_whole(path):
        return (path / "marker").exists()

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "half").write_text("")
    with atomic_write_folder(tmp_path / "model", is_whole=is_whole) as temporary:
        (temporary / "marker").write_text("")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["marker"]
    (tmp_path / "file").write_text("in place of a folder")
    with atomic_write_folder(tmp_path / "file", is_whole=is_whole) as temporary:
        (temporary / "marker").write_text("")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "model"]


def test_check_folder_names_the_fault_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    faults = {"file": "a file, not a folder", "file/below": "a file, not a folder"}
    faults |= {
        "o" * 300: "name too long",
        "link": "a broken link",
        "link/below": "a broken link",
        "loop": "a broken link",
    }
    for name, message in faults.items():
        for function in (check_folder, prepare_folder):
            with pytest.raises(TvlensError, match=message):
                function(tmp_path / name)
    check_folder(tmp_path / "new" / "deep")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link", "loop"]
    prepare_folder(tmp_path / "new" / "deep")
    assert list((tmp_path / "new" / "deep").iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_check_folder_refuses_a_folder_that_takes_no_files():
    with pytest.raises(NotWrittenError, match=r"cannot write to /proc/self/out: no such file"):
        check_folder("/proc/self/out")


def raise_disk_full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(files.os, "fsync", raise_disk_full)
    with pytest.raises(NotWrittenError, match=r"cannot write to .*out: no space left"):
        prepare_folder(tmp_path / "out")
    with pytest.raises(NotWrittenError, match=r"/a: no space"), atomic_write(tmp_path / "a"):
        raise_disk_full()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fallback", [False, True])
def test_reserve_allocates_the_whole_size(tmp_path, monkeypatch, fallback):
    if fallback:
        monkeypatch.delattr(files.os, "posix_fallocate", raising=False)
    with (tmp_path / "a").open("w+b") as file:
        file.write(b"head")
        file.flush()
        files.reserve(file.fileno(), 20_000_000, tmp_path / "a")
        assert os.fstat(file.fileno()).st_size == 20_000_000
        assert os.fstat(file.fileno()).st_blocks * 512 >= 20_000_000
    assert (tmp_path / "a").read_bytes()[:6] == b"head\0\0"


def test_reserve_reports_needed_and_free_space(tmp_path, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=3_100_000))
    with (
        (tmp_path / "a").open("wb") as file,
        pytest.raises(NotWrittenError, match=r"9\.8 MB are needed and 3\.1 MB are free"),
    ):
        files.reserve(file.fileno(), 9_800_000, tmp_path / "a")
