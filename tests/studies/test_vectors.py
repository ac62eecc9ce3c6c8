"""The study of task vectors: comparison of tasks, claims, cache."""

import pytest
import tiny
import torch
from helpers import fail_if_called

import tvlens as tv
from tvlens import TvlensError
from tvlens.studies import vectors as study


@pytest.fixture(scope="module")
def study_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    tasks = [tv.Task.load(n).subset(range(24)) for n in ("antonym", "first-letter")]
    options = dict(shots=2, contexts=4, folder=out, progress=False)
    return study.run(tiny.model("llama"), tasks, **options), out, tasks, options


def test_run_compares_tasks(study_run):
    result, out, _, _ = study_run
    assert result.cosines.shape == (2, 2)
    torch.testing.assert_close(result.cosines.diagonal(), torch.ones(2))
    assert len(result.to_dataframe()) == 14
    assert len(result.prompt) == result.alignment.shape[0] == result.patterns.shape[-1]
    assert {p.name for p in out.iterdir()} >= {"index.html", "report.json", "antonym.safetensors"}


def test_run_reads_cached_reports(study_run, monkeypatch):
    result, _, tasks, options = study_run

    monkeypatch.setattr(study, "evaluate", fail_if_called)
    repeated = study.run(tiny.model("llama"), tasks, **options)
    assert repeated.reports["antonym"].to_json() == result.reports["antonym"].to_json()
    with pytest.raises(AssertionError, match="must not be"):
        study.run(tiny.model("llama"), tasks, **options | {"seed": 1})


def test_run_rejects_no_tasks_and_equal_names():
    task = tv.Task.load("antonym")
    with pytest.raises(TvlensError, match="no task to study"):
        study.run(tiny.model("llama"), [])
    with pytest.raises(TvlensError, match="same name"):
        study.run(tiny.model("llama"), [task, task])


def test_claims_compare_vectors_with_controls(study_run):
    result, *_ = study_run
    for claim, report in zip(result.claims, result.reports.values(), strict=True):
        assert claim.where == {"task": report.task, "layer": report.layer}
        assert claim.value == report.accuracy and "shuffled_labels" not in claim.nulls
        assert claim.bound == max(claim.nulls.values()) + 0.1
