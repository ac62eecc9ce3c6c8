from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvlens import LabelledDataset, Task
from tvlens.file_names import file_name
from tvlens.files import write
from tvlens.vectors import METHODS

pytestmark = pytest.mark.no_arithmetic

ODD_LABELS = ["", ".", "..", "../../escaped", "/some/where/run", "a/b", "a\\b", "C:x", "a\0b"]
ODD_LABELS += ["\ud800", ".hidden", "a.", "a ", "a\nb", "CON", "con.txt", "lpt1", "e\u0301"]
ODD_LABELS += ["report", "Report", "run", "index", "finetuned", "report.json", "a.lock", "*", "~"]
ODD_LABELS += ["-", "x" * 300]


def is_one_component(name):
    """Whether a name is one path component on every system."""
    plain = all(kind(name).parts == (name,) for kind in (PurePosixPath, PureWindowsPath))
    return plain and name not in (".", "..") and not name.startswith((".", "~"))


def test_file_name_keeps_ordinary_labels():
    labels = [*Task.names(), *LabelledDataset.names(), *METHODS]
    labels += ["v1.2", "a_b", "two words", "a+b,c", "é", "x" * 120]
    assert [file_name(label) for label in labels] == labels


def test_file_name_replaces_odd_labels_by_distinct_names(tmp_path):
    names = [file_name(label) for label in ODD_LABELS]
    assert not set(names) & {*ODD_LABELS}
    assert len({name.casefold() for name in names}) == len(ODD_LABELS)
    for name in names:
        assert is_one_component(name) and len(name.encode()) <= 120
        write(tmp_path / f"{name}-language-model-100.safetensors", "")
    assert len(list(tmp_path.iterdir())) == len(names)


@given(st.text(st.characters(exclude_categories=[]), max_size=20))
def test_file_name_of_any_label_is_one_path_component(label):
    name = file_name(label)
    assert is_one_component(name) and file_name(label) == name
    assert "\0" not in name and name.encode()
