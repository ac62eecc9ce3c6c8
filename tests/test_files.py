import os
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvlens import Labelled, Task
from tvlens.files import file_name, replacing, replacing_files, replacing_folder, write
from tvlens.vectors import METHODS


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


ODD_LABELS = ["", ".", "..", "../../escaped", "/some/where/run", "a/b", "a\\b", "C:x", "a\0b"]
ODD_LABELS += ["\ud800", ".hidden", "a.", "a ", "a\nb", "CON", "con.txt", "lpt1", "e\u0301"]
ODD_LABELS += ["report", "Report", "run", "index", "twins", "report.json", "a.lock", "*", "~", "-"]
ODD_LABELS += ["x" * 300]


def is_one_component(name):
    """Whether a name leads nowhere but to itself, on any system."""
    plain = all(kind(name).parts == (name,) for kind in (PurePosixPath, PureWindowsPath))
    return plain and name not in (".", "..") and not name.startswith((".", "~"))


def test_ordinary_labels_are_their_own_file_names():
    labels = [*Task.names(), *Labelled.names(), *METHODS]
    labels += ["v1.2", "a_b", "two words", "a+b,c", "é", "x" * 120]
    assert [file_name(label) for label in labels] == labels


def test_odd_labels_get_other_file_names(tmp_path):
    names = [file_name(label) for label in ODD_LABELS]
    assert not set(names) & {*ODD_LABELS}
    assert len({name.casefold() for name in names}) == len(ODD_LABELS)
    for name in names:
        assert is_one_component(name) and len(name.encode()) <= 120
        write(tmp_path / f"{name}-language-model-100.safetensors", "")
    assert len(list(tmp_path.iterdir())) == len(names)


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_any_label_is_one_component(label):
    name = file_name(label)
    assert is_one_component(name) and file_name(label) == name
    assert "\0" not in name and name.encode()


def test_lone_surrogates_are_written_as_json_reads_them(tmp_path):
    path = write(tmp_path / "a.json", '["\ud800"]')
    assert path.read_bytes() == b'["\\ud800"]'


def test_files_that_belong_together_are_replaced_together(tmp_path):
    def replace(names, fail=False):
        with replacing_files(tmp_path, marker="all.json") as new:
            for name in names:
                (new / name).write_text(" ".join(names))
            if fail:
                raise KeyboardInterrupt
            (new / "all.json").write_text("whole")

    def contents():
        return {path.name: path.read_text() for path in tmp_path.iterdir()}

    (tmp_path / "notes.txt").write_text("of the user")
    replace(["a", "b"])
    before = contents()
    assert before["a"] == "a b" and before["notes.txt"] == "of the user"
    with pytest.raises(KeyboardInterrupt):
        replace(["a"], fail=True)
    assert contents() == before
    (tmp_path / ".all.json.left").mkdir()  # of a killed run
    replace(["a"])
    assert contents() == before | {"a": "a"}


def test_a_replacement_that_stops_between_files_counts_as_none(tmp_path, monkeypatch):
    def replace(text):
        with replacing_files(tmp_path, marker="m") as new:
            for name in ("a", "b", "m"):
                (new / name).write_text(text)

    replace("old")
    real = os.replace

    def once(source, target):
        if target == tmp_path / "b":
            raise OSError("no space")
        real(source, target)

    monkeypatch.setattr("os.replace", once)
    with pytest.raises(OSError, match="no space"):
        replace("new")
    assert not (tmp_path / "m").exists()
