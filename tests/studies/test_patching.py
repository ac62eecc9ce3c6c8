"""The study of patching: prompts, results and page."""

import json

import pytest
import tiny

import tvlens as tv
from tvlens import Task, TvlensError
from tvlens.studies import patching

pytestmark = pytest.mark.filterwarnings("ignore:.*cannot resume at a position")


@pytest.fixture(scope="module")
def task():
    return Task.load("singular-plural").subset(range(40))


def test_run_patches_every_head_on_a_task(task, tmp_path):
    model = tiny.model("llama")
    pairs = patching.from_task(model, task, shots=2, count=4)
    assert len(pairs.clean) == len(pairs.corrupted) == 4
    study = patching.run(model, pairs, folder=tmp_path, progress=False)
    assert study.result.axes == ("layer", "head") and study.result.values.shape == (3, 4, 4)
    loaded = tv.PatchResult.load(tmp_path / "patches.safetensors")
    assert loaded.values.tolist() == study.result.values.tolist()
    numbers = json.loads((tmp_path / "report.json").read_text())
    assert len(numbers["patches"]) == 12 and numbers["settings"]["task"] == "singular-plural"
    page = (tmp_path / "index.html").read_text()
    assert "patching z" in page and "Result: " in page


def test_from_task_rejects_answers_with_one_first_token():
    model = tiny.model("llama")
    years = Task("years", [(x, str(1990 + i)) for i, x in enumerate("abcdefghijkl")])
    with pytest.raises(TvlensError, match="all 4 different answers begin with the same token ' '"):
        patching.from_task(model, years, shots=2, count=4)
    codes = Task("codes", [(x, f"{i}{x}") for i, (x, _) in enumerate(years)])
    pairs = patching.from_task(model, codes, shots=1, count=4, template="{x} A\n{y};\n")
    # A single demonstration is corrupted, too.
    assert all(a != b for a, b in zip(pairs.clean, pairs.corrupted, strict=True))


def test_run_on_texts_equals_patch():
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
