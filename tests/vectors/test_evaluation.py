import json
import warnings

import pytest
import tiny
import torch
from helpers import random_vector

import tvlens as tv
from tvlens import Task, TaskVector, TvlensError, deprecation
from tvlens.tasks import TEMPLATES, build
from tvlens.vectors.evaluation import _Evaluation

pytestmark = pytest.mark.tl3


def test_evaluate_with_baseline_reuses_conditions_without_vector(parts, monkeypatch):
    model = tiny.model("llama")
    train, validation, test = parts
    state, other = (
        tv.extract(model, train, method=method, shots=2, contexts=3)
        for method in ("state", "difference")
    )
    options = dict(validation=validation, test=test, wrong=[other * 0.5])
    alone = tv.evaluate(model, other, **options)
    first = tv.evaluate(model, state, **options)
    assert tv.evaluate(model, other, baseline=first, **options).to_json() == alone.to_json()
    with pytest.raises(TvlensError, match="another seed"):
        tv.evaluate(model, other, baseline=first, seed=3, **options)
    fewer = tv.extract(model, train.subset(range(8)), shots=2, contexts=3)
    with pytest.raises(TvlensError, match="other demonstrations"):
        tv.evaluate(model, fewer, baseline=first, **options)


def test_evaluate_selects_the_layer_of_a_planted_vector(parts):
    """The planted vector makes one token likely at layer 1 only."""
    model = tiny.model("llama")
    _, validation, test = parts
    constant = tuple((x, " cat") for x, _ in (*validation, *test))
    validation, test = (
        Task("c", constant[: len(validation)]),
        Task("c", constant[len(validation) :]),
    )
    target = build(model.tokenizer, TEMPLATES["qa"], [], "x", "cat").answer[0]
    values = torch.zeros(3, 32)
    prompt = torch.tensor([build(model.tokenizer, TEMPLATES["qa"], [], "dog").tokens])
    values[1] = optimize_state(model, prompt, target, layer=1)
    vector = TaskVector(values, meta={"model": tv.models.model_name(model), "task": "c"})
    report = tv.evaluate(model, vector, validation=validation, test=test, wrong=vector * 0.0)
    assert report.layer == 1
    assert report.accuracy > 0.9 > 0.1 >= max(report.zero_shot, report.controls["random"])


def optimize_state(model, prompt, target, *, layer):
    """Optimize a state at `layer` that makes `target` the answer."""
    state = torch.zeros(32, requires_grad=True)
    optimiser = torch.optim.Adam([state], lr=0.1)

    def write(value, hook):
        return torch.cat([value[:, :-1], state.expand(1, 1, -1)], dim=1)

    for _ in range(60):
        logits = model.run_with_hooks(
            prompt, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", write)]
        )
        loss = -logits[0, -1].log_softmax(-1)[target]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.zero_grad()
    return state.detach()


def test_evaluate_reports_every_control_and_is_saved(causal, parts, tmp_path):
    train, validation, test = parts
    vector = tv.extract(causal, train, shots=2, contexts=3)
    other = tv.extract(causal, Task.load("antonym").subset(range(12)), shots=2, contexts=3)
    report = tv.evaluate(causal, vector, validation=validation, test=test, wrong=[other, other])
    assert list(report.conditions) == [
        "zero_shot", "vector", "few_shot", "random", "wrong_task", "shuffled_labels", "most_common"
    ]  # fmt: skip
    assert report.by_layer.shape == (3,) and 0 <= report.layer < 3
    low, high = report.interval
    assert 0 <= low <= report.accuracy <= high <= 1
    assert set(report.controls) == {"random", "wrong_task", "shuffled_labels", "most_common"}
    frame = report.to_dataframe()
    assert len(frame) == 7 and frame.n[0] == len(test)
    report.save(tmp_path / "r.safetensors")
    loaded = tv.vectors.VectorReport.load(tmp_path / "r.safetensors")
    assert json.loads(json.dumps(loaded.to_json())) == json.loads(json.dumps(report.to_json()))
    repeated = tv.evaluate(causal, vector, validation=validation, test=test, wrong=[other, other])
    assert repeated.to_json() == report.to_json()


def test_report_notes_a_first_token_shared_by_all_answers(parts):
    """All answers are numbers, which begin with a token of a space."""
    model = tiny.model("llama")
    years = Task("years", [(w, str(2001 + i)) for i, w in enumerate("abcdefghijklmnopqrst")])
    train, validation, test = years.split(seed=0)
    vector = tv.extract(model, train, shots=2, contexts=2)
    options = dict(validation=validation, test=test, wrong=vector)
    report = tv.evaluate(model, vector, **options)
    assert report.shared_first_token == " " and report.controls["most_common"] == 1.0
    assert report.conditions["most_common"].full < 1
    assert "all test answers begin with the same token ' '" in repr(report)
    assert "read the whole answer" in report._repr_html_()
    loaded = tv.vectors.VectorReport.from_json(json.loads(json.dumps(report.to_json())))
    assert loaded.note == report.note
    # A line end in front of the answer is the prompt's, and the answers' first digits are theirs.
    letters = Task("letters", [(w, "abc"[i % 3] + w) for i, (w, _) in enumerate(years)])
    train, validation, test = letters.split(seed=0)
    vector = tv.extract(model, train, shots=2, contexts=2, template="{x} is\n{y}\n")
    report = tv.evaluate(model, vector, validation=validation, test=test, wrong=vector)
    assert report.shared_first_token is None and report.note == ""
    assert "same token" not in repr(report)


def test_line_end_before_the_answer_is_not_scored(causal):
    """An untrained model knows no answer: it scores what its one favourite token gives it, and not
    the 1.00 of a line end that follows every question."""
    task = Task("t", list(zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrsta", strict=True)))
    train, validation, test = task.split(seed=0)
    vector = tv.extract(causal, train, shots=2, contexts=2, template="<u>{x}<a>\n{y}")
    assert all(prompt.endswith("<a>\n") for prompt in vector.meta["prompts"])
    report = tv.evaluate(causal, vector, validation=validation, test=test, wrong=vector)
    assert report.zero_shot < 0.5 and report.conditions["most_common"].first < 0.5


def test_evaluate_refuses_tasks_with_one_label(parts):
    model = tiny.model("gpt2")
    train, validation, test = parts
    constant = Task("same", [(x, "yes") for x, _ in train])
    vector = tv.extract(model, constant, shots=2, contexts=2)
    with pytest.raises(TvlensError, match="all examples of same have the label 'yes'"):
        tv.evaluate(model, vector, validation=validation, test=test)


def test_shuffled_labels_control_changes_a_single_shot(parts):
    model = tiny.model("gpt2")
    train, _, test = parts
    vector = tv.extract(model, train, shots=1, contexts=2)
    evaluation = _Evaluation(
        model,
        vector,
        template=TEMPLATES["qa"],
        mode="replace",
        modality="text",
        demonstrations=vector.examples,
        seed=0,
        batch_tokens=512,
        progress=False,
    )
    prompts = evaluation._few_shot(test)
    for right, wrong in zip(prompts["few_shot"], prompts["shuffled_labels"], strict=True):
        assert right.text != wrong.text


def test_evaluate_refuses_overlapping_parts(parts):
    model = tiny.model("gpt2")
    train, validation, test = parts
    vector = tv.extract(model, train, shots=2, contexts=2)
    with pytest.raises(TvlensError, match="the vector's examples and validation share"):
        tv.evaluate(model, vector, validation=train, test=test)
    with pytest.raises(TvlensError, match="validation and test share"):
        tv.evaluate(model, vector, validation=validation, test=validation)
    uppercase = Task("again", [(x.upper(), y.upper()) for x, y in train])
    with pytest.raises(TvlensError, match="examples and test share"):
        tv.evaluate(model, vector, validation=validation, test=uppercase)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(vector=torch.rand(3, 32)), "vector must be a TaskVector.*not Tensor"),
        (dict(validation=None), "validation must be a Task, not NoneType"),
        (dict(test="antonym"), "test must be a Task, not str"),
        (dict(wrong=3), "wrong must be a TaskVector.*not int"),
        (dict(wrong=TaskVector(torch.rand(2, 32))), "the vector has 2 layers of width 32"),
        (dict(mode="swap"), "unknown mode 'swap'"),
        (dict(baseline=3), "baseline must be a VectorReport, not int"),
        (dict(seed=-1), "seed must be 0 or more"),
        (dict(batch_tokens=0), "batch_tokens must be 1 or more"),
    ],
)
def test_evaluate_refuses_invalid_options(unchecked, parts, options, message):
    model = tiny.model("gpt2")
    valid = dict(
        vector=random_vector(model), validation=parts[1], test=parts[2], wrong=random_vector(model)
    )
    with pytest.raises(TvlensError, match=message):
        tv.evaluate(model, **valid | options)


def test_evaluate_accepts_select_as_a_deprecated_name_of_validation(monkeypatch, parts):
    monkeypatch.setattr(deprecation, "_warned", set())
    model, (_, validation, test) = tiny.model("gpt2"), parts
    options = dict(test=test, wrong=random_vector(model))
    with pytest.warns(DeprecationWarning, match=r"use evaluate\(validation=\)"):
        renamed = tv.evaluate(model, random_vector(model), select=validation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a second use does not warn
        repeated = tv.evaluate(model, random_vector(model), select=validation, **options)
    assert renamed.to_json() == repeated.to_json()
    assert (
        renamed.to_json()
        == tv.evaluate(model, random_vector(model), validation=validation, **options).to_json()
    )
