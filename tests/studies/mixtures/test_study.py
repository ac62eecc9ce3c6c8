"""The mixtures study: its report, its cache and its control."""

import numpy as np
import pytest
import tiny
import torch
from helpers import fail_if_called

from tvlens import Task, TvlensError
from tvlens.studies import mixtures

WORDS = [a + b for a in "bcdfghjk" for b in ("an", "el", "ip")]
TASKS = [Task(c, [(w, c + w) for w in WORDS]) for c in "xyz"]
OTHERS = [Task(c, [(w, c + w) for w in WORDS]) for c in "uvw"]
TEMPLATE = "{x}:{y}\n"
SMALL = dict(others=OTHERS, template=TEMPLATE, shots=3, contexts=4, count=30, repeats=2, null=1)


def test_scrambled_weights_permutes_entries_and_restores_them():
    model = tiny.model.__wrapped__("gpt2")  # not the shared one
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    with torch.no_grad():
        before = model(tokens)
        matrix = next(p for p in model.parameters() if p.ndim > 1)
        original = matrix.detach().clone()
        with pytest.raises(RuntimeError), mixtures.scrambled_weights(model):
            assert not torch.equal(matrix, original)
            torch.testing.assert_close(matrix.flatten().sort()[0], original.flatten().sort()[0])
            assert not torch.equal(model(tokens), before)
            raise RuntimeError
        assert torch.equal(model(tokens), before)


def test_run_writes_a_page_and_resumes_from_its_folder(tmp_path, monkeypatch):
    model = tiny.model("llama")
    result = mixtures.run(model, [TASKS], folder=tmp_path, progress=False, **SMALL)
    assert list(result.checks) == ["x + y + z"]
    for claim in result.claims:
        low, high = claim.interval
        assert low <= claim.value <= high and np.isfinite(list(claim.nulls.values())).all()
    ids = [claim.id for claim in result.claims]
    assert len(set(ids)) == len(ids) and "weights-posterior-correlation" in ids
    text = (tmp_path / "index.html").read_text()
    assert "Scrambled weights" in text and "NaN" not in (tmp_path / "report.json").read_text()

    monkeypatch.setattr(mixtures.study, "retrieval_check", fail_if_called)
    repeated = mixtures.run(model, [TASKS], folder=tmp_path, progress=False, **SMALL)
    assert repeated.claims == result.claims
    with pytest.raises(AssertionError, match="must not be"):
        mixtures.run(model, [TASKS], folder=tmp_path, progress=False, **SMALL, seed=1)
    with pytest.raises(TvlensError, match="no tasks to mix"):
        mixtures.run(model, [])
    with pytest.raises(TvlensError, match="same tasks"):
        mixtures.run(model, [TASKS, TASKS])
