"""Studies of patching and of methods: what they find, keep and show."""

import json

import pytest
import tiny

import tvlens as tv
from tvlens import Task, TvlensError
from tvlens.studies import methods, patching

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot resume at a position"),
    pytest.mark.xdist_group("studies"),  # one worker makes them, once
]


@pytest.fixture(scope="module")
def tasks():
    names = ("singular-plural", "antonym")
    return [Task.load(name).subset(range(40)) for name in names]


@pytest.fixture(scope="module")
def small(tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    options = dict(shots=2, contexts=3, items=5, folder=folder, progress=False)
    model = tiny.model("llama")
    return methods.run(model, tasks, methods=["state", "function"], **options), folder, options


def test_every_method_on_every_task(small):
    study, folder, _ = small
    assert study.accuracy.shape == (2, 2) and study.by_layer.shape == (2, 2, 3)
    assert study.head_effects.shape == (2, 3, 4)
    table = study.table()
    assert list(table.columns) == ["state", "function", "zero-shot", "few-shot"]
    for task in study.tasks:
        for method in study.methods:
            report = study.reports[task][method]
            assert table.loc[task, method] == pytest.approx(report.accuracy)
            assert report.conditions["vector"].count == 5
            assert report.meta["wrong_tasks"] == [t for t in study.tasks if t != task]
    numbers = json.loads((folder / "report.json").read_text())
    assert set(numbers["tasks"]) == set(study.tasks)
    assert "indirect effect by head" in (folder / "index.html").read_text()


def test_finished_work_is_not_done_again(small, tasks, monkeypatch):
    study, _, options = small

    def never(*_, **__):
        raise AssertionError("made again")

    monkeypatch.setattr(methods, "extract", never)
    monkeypatch.setattr(methods, "evaluate", never)
    again = methods.run(tiny.model("llama"), tasks, methods=["state", "function"], **options)
    assert again.accuracy.tolist() == study.accuracy.tolist()
    # Other settings are other work.
    with pytest.raises(AssertionError, match="made again"):
        methods.run(tiny.model("llama"), tasks, methods=["state"], **options | {"seed": 1})


def test_names_are_checked_before_any_work(tasks):
    with pytest.raises(TvlensError, match="did you mean 'function'"):
        methods.check(tasks, methods=["functoin"])
    with pytest.raises(TvlensError, match="at least two kinds"):
        methods.check(tasks[:1])
    assert len(methods.check(None)) == len(Task.names())


def test_patching_a_task(tasks, tmp_path):
    model = tiny.model("llama")
    pairs = patching.from_task(model, tasks[0], shots=2, count=4)
    assert len(pairs.clean) == len(pairs.corrupted) == 4
    study = patching.run(model, pairs, folder=tmp_path, progress=False)
    assert study.result.axes == ("layer", "head") and study.result.values.shape == (3, 4, 4)
    again = tv.PatchResult.load(tmp_path / "patches.safetensors")
    assert again.values.tolist() == study.result.values.tolist()
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert len(numbers["patches"]) == 12 and numbers["settings"]["task"] == "singular-plural"
    page = (tmp_path / "index.html").read_text()
    assert "patching z" in page and "Result: " in page


def test_answers_that_begin_alike_are_not_patched():
    model = tiny.model("llama")
    years = Task("years", [(x, str(1990 + i)) for i, x in enumerate("abcdefghijkl")])
    with pytest.raises(TvlensError, match="all 4 different answers begin with the same token ' '"):
        patching.from_task(model, years, shots=2, count=4)
    codes = Task("codes", [(x, f"{i}{x}") for i, (x, _) in enumerate(years)])
    pairs = patching.from_task(model, codes, shots=1, count=4, template="{x} A\n{y};\n")
    # A single demonstration is corrupted, too.
    assert all(a != b for a, b in zip(pairs.clean, pairs.corrupted, strict=True))


def test_patching_texts():
    model = tiny.model("llama")
    ids = [model.tokenizer(letter)["input_ids"][-1] for letter in "zx"]
    pairs = patching.from_texts(model, ["Q: cat A:"], ["Q: dog A:"], right="z", wrong="x")
    study = patching.run(model, pairs, site="resid_post", positions="all", progress=False)
    length = len(pairs.clean[0])
    assert study.result.values.shape == (3, length, 1)
    exact = tv.patch(
        model,
        pairs.clean,
        pairs.corrupted,
        site="resid_post",
        metric=tv.logit_difference(*ids),
    )
    assert study.result.values.tolist() == exact.values.tolist()
    assert "intervals and p-values say little" in study.page().html()
    assert "one prompt: no interval" in study.page().html()
    assert "NaN" not in json.dumps(study.to_dict()) and study.to_dict()["patches"][0]["low"] is None
    with pytest.raises(TvlensError, match=r"tokens, \[.*give one token"):
        patching.from_texts(model, ["a"], ["b"], right="several words here")
