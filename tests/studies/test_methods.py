"""The study of extraction methods: results, cache and page."""

import json

import pytest
import tiny
from helpers import fail_if_called

from tvlens import Task, TvlensError
from tvlens.studies import methods

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*cannot resume at a position"),
    pytest.mark.xdist_group("studies"),  # one worker makes them, once
]


@pytest.fixture(scope="module")
def tasks():
    names = ("singular-plural", "antonym")
    return [Task.load(name).subset(range(40)) for name in names]


@pytest.fixture(scope="module")
def small_run(tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    options = dict(shots=2, contexts=3, items=5, folder=folder, progress=False)
    model = tiny.model("llama")
    return methods.run(model, tasks, methods=["state", "function"], **options), folder, options


def test_run_evaluates_every_method_on_every_task(small_run):
    study, folder, _ = small_run
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


def test_run_reads_cached_vectors_and_reports(small_run, tasks, monkeypatch):
    study, _, options = small_run

    monkeypatch.setattr(methods, "extract", fail_if_called)
    monkeypatch.setattr(methods, "evaluate", fail_if_called)
    repeated = methods.run(tiny.model("llama"), tasks, methods=["state", "function"], **options)
    assert repeated.accuracy.tolist() == study.accuracy.tolist()
    # Other settings are other work.
    with pytest.raises(AssertionError, match="must not be"):
        methods.run(tiny.model("llama"), tasks, methods=["state"], **options | {"seed": 1})


def test_check_names_unknown_methods_and_too_few_kinds(tasks):
    with pytest.raises(TvlensError, match="did you mean 'function'"):
        methods.load_tasks(tasks, methods=["functoin"])
    with pytest.raises(TvlensError, match="at least two kinds"):
        methods.load_tasks(tasks[:1])
    assert len(methods.load_tasks(None)) == len(Task.names())
