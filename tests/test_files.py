import pytest

from tvlens.files import replacing, replacing_folder, write


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "deep" / "page.html", "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_is_an_ordinary_one(tmp_path):
    (tmp_path / "plain").write_text("")
    path = write(tmp_path / "ours", b"bytes")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert path.read_bytes() == b"bytes"


def test_a_folder_is_whole_or_not_there(tmp_path):
    with pytest.raises(OSError, match="no"), replacing_folder(tmp_path / "model") as temporary:
        (temporary / "half").write_text("")
        raise OSError("no")
    assert list(tmp_path.iterdir()) == []
    with replacing_folder(tmp_path / "model") as temporary:
        (temporary / "all").write_text("")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["all"]
    with replacing_folder(tmp_path / "model") as temporary:  # somebody was faster: theirs is kept
        (temporary / "other").write_text("")
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["all"]
