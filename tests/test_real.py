"""Real weights: what the toolkit must show on SmolLM2-135M."""

import pytest
import torch

import tvlens as tv
from tvlens import zoo
from tvlens.models import classify

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real")]


@pytest.fixture(scope="module")
def wrong(smollm2):
    tasks = [tv.Task.load(n).split(seed=0)[0] for n in ("country-capital", "lower-upper")]
    return [tv.extract(smollm2, task) for task in tasks]


@pytest.mark.parametrize(
    ("name", "least"), [("singular-plural", 0.6), ("irregular-past", 0.55), ("first-letter", 0.55)]
)
def test_task_vectors_work_on_smollm2(smollm2, wrong, name, least):
    train, select, test = tv.Task.load(name).split(seed=0)
    vector = tv.extract(smollm2, train, shots=6, contexts=20, seed=0)
    others = [other for other in wrong if other.meta["kind"] != vector.meta["kind"]]
    report = tv.evaluate(smollm2, vector, select=select, test=test, wrong=others)
    assert len(test) >= 40
    assert report.zero_shot <= 0.05
    assert report.accuracy >= least
    assert report.accuracy >= report.few_shot - 0.15
    assert max(report.controls["random"], report.controls["wrong_task"]) <= 0.10
    assert 18 <= report.layer <= 23


def test_the_zoo_reads_bert_from_its_wheel():
    model = tv.load("minilm-l6")
    assert (model.cfg.n_layers, model.cfg.d_model) == (6, 384)
    states = tv.collect(model, ["a cat", "a much longer sentence"], positions=0, progress=False)
    assert states.stack("resid_post").shape == (6, 2, 1, 384)
    assert zoo.at_hand("minilm-l6")


def test_the_zoo_reads_dinov2_from_its_onnx_graph():
    model = tv.load("dinov2-small")
    assert (model.cfg.n_layers, model.cfg.d_model, model.cfg.n_ctx) == (12, 384, 257)
    pictures = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    states = tv.collect(model, pictures, positions=0, progress=False)
    assert states.stack("resid_post").shape == (12, 2, 1, 384)


def test_the_readme_example_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    import pathlib
    import re

    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", readme, re.DOTALL))
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert list(zip(*(names["result"].top(2)[a] for a in ("layer", "head")), strict=True)) == [
        (20, 5),
        (27, 6),
    ]
    assert names["guess"].rank_correlation(names["result"]) > 0.9
    assert "' tigers'" in capsys.readouterr().out
    assert (tmp_path / "plural.safetensors").exists()


def test_minilm_is_finetuned_and_opens_again(tmp_path):
    train, validation, test = tv.Labelled.load("emoji-words").split(0)
    tuned = tv.finetune("minilm-l6", train, validation, folder=tmp_path / "tuned", epochs=2)
    logits = classify(tuned.model(), test.inputs)
    accuracy = (logits.argmax(1) == torch.tensor(test.labels)).double().mean()
    assert min(tuned.accuracy, accuracy) >= 0.8


def test_dinov2_is_finetuned_and_opens_again(tmp_path):
    train, validation, test = tv.Labelled.load("digits").split(0)
    few = train.subset(range(0, len(train), 4))
    options = dict(folder=tmp_path / "tuned", frozen=6, epochs=3)
    tuned = tv.finetune("dinov2-small-56", few, validation, **options)
    logits = classify(tuned.model(), test.inputs)
    accuracy = (logits.argmax(1) == torch.tensor(test.labels)).double().mean()
    assert min(tuned.accuracy, accuracy) >= 0.5  # 27 updates; chance is .1
