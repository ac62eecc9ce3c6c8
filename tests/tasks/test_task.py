import csv
import hashlib
import json

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvlens import Task, TvlensError, deprecation

pytestmark = pytest.mark.no_arithmetic

NAMES = Task.names()


def test_catalogue_has_enough_tasks():
    assert len(NAMES) >= 16
    assert {"singular-plural", "irregular-past", "first-letter", "country-capital"} <= set(NAMES)
    assert all(len(Task.load(name)) >= 60 for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_catalogue_task_is_stripped_and_described(name):
    task = Task.load(name)
    assert task.description and task.kind and task.instruction.endswith(":")
    for x, y in task:
        assert x == x.strip() and y == y.strip() and x != y


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("first-letter", lambda x: x[0]),
        ("last-letter", lambda x: x[-1]),
        ("lower-upper", str.upper),
        ("capitalize", str.capitalize),
    ],
)
def test_catalogue_tasks_with_a_rule_follow_it(name, rule):
    assert all(rule(x) == y for x, y in Task.load(name))


def test_catalogue_tasks_contain_known_facts():
    facts = {
        "singular-plural": ("child", "children"),
        "irregular-past": ("go", "went"),
        "country-capital": ("France", "Paris"),
        "animal-young": ("cat", "kitten"),
        "antonym": ("hot", "cold"),
        "english-french": ("dog", "chien"),
    }
    for name, pair in facts.items():
        assert pair in Task.load(name).pairs


@given(seed=st.integers(0, 10_000), size=st.integers(4, 200))
def test_split_parts_are_disjoint_and_complete(seed, size):
    task = Task("t", tuple((f"x{i}", f"y{i}") for i in range(size)))
    parts = task.split(seed=seed)
    together = [pair for part in parts for pair in part]
    assert sorted(together) == sorted(task.pairs)
    assert all(len(part) > 0 for part in parts)
    assert [p.pairs for p in task.split(seed=seed)] == [p.pairs for p in parts]


def test_split_without_duplicates_keeps_its_parts():
    """Digests of the parts, recorded before duplicates were kept together."""
    wanted = {"singular-plural": "601e75ebd8ecc051", "antonym": "5a81eae68feb601d"}
    wanted["country-capital"] = "9c6db4fce8bdf001"
    for name, digest in wanted.items():
        parts = repr([part.pairs for part in Task.load(name).split(seed=3)])
        assert hashlib.sha256(parts.encode()).hexdigest()[:16] == digest


@given(seed=st.integers(0, 1000))
def test_split_keeps_equal_words_in_one_part(seed):
    """Words are compared up to case, white space and Unicode form."""
    words = [f"word{i}" for i in range(20)]
    twice = [("Cat", "cats"), ("cat", "cats"), ("CAT", "CATS"), ("ca\u00adt", "other")]
    accents = [("caf\u00e9", "cafés"), ("cafe\u0301", "cafés"), ("Café", "x")]
    spaces = [("ice cream", "a"), ("ice  Cream", "b"), ("ice\u00a0cream", "c")]
    task = Task("t", [(w, w) for w in words] + twice + accents + spaces)
    parts = task.split(seed=seed)
    together = [pair for part in parts for pair in part]
    assert sorted(together) == sorted(task.pairs) and all(len(part) for part in parts)
    for group in (twice[:3], accents, spaces):
        assert sum(not set(group).isdisjoint(part.pairs) for part in parts) == 1
    for part, share in zip(parts, (0.35, 0.2, 0.45), strict=True):
        assert abs(len(part) - share * len(task)) <= 3


def test_split_refuses_empty_parts():
    task = Task("tiny", (("a", "b"), ("c", "d")))
    with pytest.raises(TvlensError, match="tiny has 2 pairs: extract/validation/test would be"):
        task.split()


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "needs at least one pair"),
        ([("a", "")], "has an empty side"),
        ([("a", "b"), ("a", "c")], "'a' occurs more than once, with 'b' and 'c'"),
        ([("a", "b"), ("a", "b")], "the same output twice"),
        ([("a", "b", "c")], r"pair 0 is \('a', 'b', 'c'\)"),
        ([("a", 3)], "not .input, output. strings"),
    ],
)
def test_task_refuses_invalid_pairs(pairs, message):
    with pytest.raises(TvlensError, match=message):
        Task("t", tuple(pairs))


def test_load_suggests_the_nearest_task():
    with pytest.raises(TvlensError, match="did you mean 'singular-plural'"):
        Task.load("singular-plurals")


def test_task_survives_json_and_csv(tmp_path):
    task = Task.load("antonym")
    task.to_json(tmp_path / "a.json")
    assert Task.from_json(tmp_path / "a.json") == task
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("word", "opposite"), *task.pairs])
    assert Task.from_csv(tmp_path / "a.csv", input="word", output="opposite").pairs == task.pairs
    for data in ([["a", "b"]], {"a": "b"}, [{"input": "a", "output": "b"}]):
        (tmp_path / "b.json").write_text(json.dumps(data))
        assert Task.load(str(tmp_path / "b.json")).pairs == (("a", "b"),)


@pytest.mark.parametrize("text", ["", "3", '"words"', "[1, 2]", '{"pairs": 3}', "\x00"])
def test_from_json_and_from_csv_refuse_other_files(tmp_path, text):
    (tmp_path / "no.json").write_text(text)
    with pytest.raises(TvlensError):
        Task.from_json(tmp_path / "no.json")
    (tmp_path / "no.csv").write_text(text)
    with pytest.raises(TvlensError):
        Task.from_csv(tmp_path / "no.csv")


def test_from_dataset_reads_objects_folders_and_files(tmp_path):
    rows = {"word": ["cat", "run"], "label": [0, 1]}
    features = datasets.Features(
        {"word": datasets.Value("string"), "label": datasets.ClassLabel(names=["noun", "verb"])}
    )
    dataset = datasets.Dataset.from_dict(rows, features=features)
    wanted = (("cat", "noun"), ("run", "verb"))
    assert Task.from_dataset(dataset, input="word", output="label").pairs == wanted
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert Task.from_dataset(tmp_path / "saved", input="word", output="label").pairs == wanted
    dataset.to_parquet(str(tmp_path / "words.parquet"))
    task = Task.from_dataset(str(tmp_path / "words.parquet"), input="word", output="label")
    assert task.name == "words" and task.pairs[0][0] == "cat"
    with pytest.raises(TvlensError, match="has no column 'kind'; it has word, label"):
        Task.from_dataset(dataset, input="word", output="kind")


def test_load_ignores_a_byte_order_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfinput,output\ncat,cats\n")
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf[["cat", "cats"]]')
    for name in ("a.csv", "a.json"):
        assert Task.load(str(tmp_path / name)).pairs == (("cat", "cats"),)


PAIRS = {"pairs": [["cat", "cats"]]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        (PAIRS | {"images": [1]}, "images is .1., not an object"),
        (PAIRS | {"images": {"cat": 3}}, "the image of 'cat' is 3, not a file"),
        (PAIRS | {"images": {"cat": None}}, "the image of 'cat' is None, not a file"),
        (PAIRS | {"texts": "no"}, "texts is 'no', not true or false"),
        (PAIRS | {"description": [1]}, "description is .1., not a text"),
    ],
)
def test_load_refuses_invalid_json(tmp_path, data, message):
    path = tmp_path / "a.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(TvlensError, match=rf"a\.json is no task: .*{message}"):
        Task.load(str(path))


def test_load_treats_null_as_absent(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(PAIRS | {"images": None, "texts": None, "kind": None}))
    task = Task.load(str(path))
    assert (task.images, task.texts, task.kind) == ({}, True, "")


def test_split_accepts_select_as_a_deprecated_name_of_validation(monkeypatch):
    monkeypatch.setattr(deprecation, "_warned", set())
    task = Task("letters", [(letter, letter.upper()) for letter in "abcdefghij"])
    with pytest.warns(DeprecationWarning, match=r"use split\(validation=\)"):
        parts = task.split(extract=0.3, select=0.4)
    assert parts == task.split(extract=0.3, validation=0.4)
