import dataclasses
import json
import warnings

import numpy as np
import pytest
import tiny
import torch

import tvlens as tv
from tvlens import Task, TaskVector, TvlensError, deprecation
from tvlens.tasks import TEMPLATES, build, contexts
from tvlens.vectors import Row, score, top_tokens
from tvlens.vectors.evaluation import _Evaluation
from tvlens.vectors.logit_lens import vector_logits
from tvlens.vectors.scoring import layer_sweep

pytestmark = pytest.mark.tl3


@pytest.fixture(scope="module")
def parts():
    return Task.load("singular-plural").subset(range(30)).split(seed=0)


def vector_of(model, scale=1.0):
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(3, 32, generator=generator) * scale
    return TaskVector(values, meta={"model": tv.models.model_name(model), "task": "t"})


def test_state_is_the_mean_of_the_librarys_cache(causal, parts):
    """One prompt at a time, unpadded, through run_with_cache."""
    train, _, _ = parts
    vector = tv.extract(causal, train, shots=2, contexts=4, seed=5)
    states = []
    for shown, (query, _) in contexts(train, shots=2, count=4, seed=5):
        prompt = build(causal.tokenizer, TEMPLATES["qa"], shown, query)
        _, cache = causal.run_with_cache(torch.tensor([prompt.tokens]))
        states.append(torch.stack([cache["resid_post", l][0, -1] for l in range(3)]))
    torch.testing.assert_close(vector.values, torch.stack(states).mean(0))


def test_applied_replaces_and_adds(causal):
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    vector = vector_of(causal)
    for mode in ("replace", "add"):
        seen = {}
        name = "blocks.1.hook_resid_post"

        def edit(value, hook, mode=mode):
            value = value.clone()
            base = value[:, -1] if mode == "add" else 0
            value[:, -1] = base + 2 * vector.values[1]
            return value

        with torch.no_grad():
            wanted = causal.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
            with vector.applied(causal, layer=1, mode=mode, scale=2.0):
                seen = causal(tokens)
        torch.testing.assert_close(seen, wanted)


def test_hooks_are_gone_afterwards_even_after_an_exception(causal):
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    with torch.no_grad():
        before = causal(tokens)
        with pytest.raises(RuntimeError), vector_of(causal).applied(causal, layer=-1):
            assert not torch.equal(causal(tokens), before)
            raise RuntimeError
        assert torch.equal(causal(tokens), before)


def test_scores_equal_greedy_decoding_one_row_at_a_time(causal, parts):
    """The batched sweep over rows, layers and answers against plain loops."""
    _, _, test = parts
    vector = vector_of(causal)
    prompts = [build(causal.tokenizer, TEMPLATES["qa"], [], x, y) for x, y in test.pairs[:4]]
    # Answers of up to three tokens that are right by construction for half of the rows.
    rows = []
    for i, prompt in enumerate(prompts):
        for layer in (None, 0, 2):
            answer = _greedy(causal, prompt.tokens, vector, layer, 1 + i % 3)
            if i % 2:
                answer = (*answer[:-1], (answer[-1] + 1) % 384)
            told = type(prompt)(**vars(prompt) | {"answer": answer})
            rows.append(Row(told, layer, None if layer is None else vector.values[layer]))
    got = score(causal, rows, batch_tokens=64)
    assert got.full.tolist() == [i % 2 == 0 for i in range(4) for _ in range(3)]
    one = [len(r.prompt.answer) == 1 for r in rows]
    assert got.first.tolist() == [f or not o for f, o in zip(got.full.tolist(), one, strict=True)]


@pytest.mark.filterwarnings("ignore:.*cannot")
@pytest.mark.parametrize("mode", ["replace", "add", "add_preserving_norm"])
def test_a_layer_sweep_is_the_scores_of_its_rows(causal, parts, mode):
    """The shared passes of the engine against one written row per layer and prompt."""
    prompts = [build(causal.tokenizer, TEMPLATES["qa"], [], x, y) for x, y in parts[2].pairs[:6]]
    vector = vector_of(causal)
    # Answers that are right by construction for one layer each, of one to three tokens.
    told = []
    for i, prompt in enumerate(prompts):
        moded = TaskVector(vector.values, meta=vector.meta | {"mode": mode})
        answer = _greedy(causal, prompt.tokens, moded, i % 3, 1 + i % 3)
        told.append(type(prompt)(**vars(prompt) | {"answer": answer}))
    found = layer_sweep(causal, vector, told, mode=mode, batch_tokens=20)
    rows = [Row(prompt, l, vector.values[l]) for prompt in told for l in range(3)]
    wanted = score(causal, rows, mode=mode)
    assert found[..., 0].flatten().tolist() == wanted.first.float().tolist()
    assert found[..., 1].flatten().tolist() == wanted.full.float().tolist()
    assert all(found[i, i % 3].tolist() == [1, 1] for i in range(6))


def test_a_baseline_spares_the_conditions_without_a_vector(parts, monkeypatch):
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


def _greedy(model, tokens, vector, layer, count):
    at = len(tokens) - 1
    found = []
    for _ in range(count):
        inputs = torch.tensor([[*tokens, *found]])
        hooks = [] if layer is None else [vector.hook(model, layer, positions=torch.tensor([at]))]
        with torch.no_grad():
            logits = model.run_with_hooks(inputs, fwd_hooks=hooks)
        found.append(int(logits[0, -1].argmax()))
    return tuple(found)


def test_a_planted_vector_is_found_at_its_layer(parts):
    """A vector that makes one token likely from layer 1 on only: evaluation finds the layer."""
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
    values[1] = _steer(model, prompt, target, layer=1)
    vector = TaskVector(values, meta={"model": tv.models.model_name(model), "task": "c"})
    report = tv.evaluate(model, vector, validation=validation, test=test, wrong=vector * 0.0)
    assert report.layer == 1
    assert report.accuracy > 0.9 > 0.1 >= max(report.zero_shot, report.controls["random"])


def _steer(model, prompt, target, *, layer):
    """A state that, put at `layer`, makes `target` the answer; found by gradient ascent."""
    state = torch.zeros(32, requires_grad=True)
    optimiser = torch.optim.Adam([state], lr=0.1)

    def put(value, hook):
        return torch.cat([value[:, :-1], state.expand(1, 1, -1)], dim=1)

    for _ in range(60):
        logits = model.run_with_hooks(prompt, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", put)])
        loss = -logits[0, -1].log_softmax(-1)[target]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.zero_grad()
    return state.detach()


def test_a_report_has_every_control_and_survives_a_file(causal, parts, tmp_path):
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
    again = tv.vectors.VectorReport.load(tmp_path / "r.safetensors")
    assert json.loads(json.dumps(again.to_json())) == json.loads(json.dumps(report.to_json()))
    same = tv.evaluate(causal, vector, validation=validation, test=test, wrong=[other, other])
    assert same.to_json() == report.to_json()


def test_a_first_token_that_all_answers_share_is_said(parts):
    """Numbers begin with a space of their own: every first token is right, whatever the task."""
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
    again = tv.vectors.VectorReport.from_json(json.loads(json.dumps(report.to_json())))
    assert again.note == report.note
    # A line end in front of the answer is the prompt's, and the answers' first digits are theirs.
    letters = Task("letters", [(w, "abc"[i % 3] + w) for i, (w, _) in enumerate(years)])
    train, validation, test = letters.split(seed=0)
    vector = tv.extract(model, train, shots=2, contexts=2, template="{x} is\n{y}\n")
    report = tv.evaluate(model, vector, validation=validation, test=test, wrong=vector)
    assert report.shared_first_token is None and report.note == ""
    assert "same token" not in repr(report)


def test_a_line_end_before_the_answer_is_no_answer(causal):
    """An untrained model knows no answer: it scores what its one favourite token gives it, and not
    the 1.00 of a line end that follows every question."""
    task = Task("t", list(zip("abcdefghijklmnopqrst", "bcdefghijklmnopqrsta", strict=True)))
    train, validation, test = task.split(seed=0)
    vector = tv.extract(causal, train, shots=2, contexts=2, template="<u>{x}<a>\n{y}")
    assert all(prompt.endswith("<a>\n") for prompt in vector.meta["prompts"])
    report = tv.evaluate(causal, vector, validation=validation, test=test, wrong=vector)
    assert report.zero_shot < 0.5 and report.conditions["most_common"].first < 0.5


def test_one_label_is_no_task(parts):
    model = tiny.model("gpt2")
    train, validation, test = parts
    same = Task("same", [(x, "yes") for x, _ in train])
    vector = tv.extract(model, same, shots=2, contexts=2)
    with pytest.raises(TvlensError, match="all examples of same have the label 'yes'"):
        tv.evaluate(model, vector, validation=validation, test=test)


def test_a_single_shot_is_shuffled_too(parts):
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


def test_parts_that_overlap_are_an_error(parts):
    model = tiny.model("gpt2")
    train, validation, test = parts
    vector = tv.extract(model, train, shots=2, contexts=2)
    with pytest.raises(TvlensError, match="the vector's examples and validation share"):
        tv.evaluate(model, vector, validation=train, test=test)
    with pytest.raises(TvlensError, match="validation and test share"):
        tv.evaluate(model, vector, validation=validation, test=validation)
    again = Task("again", [(x.upper(), y.upper()) for x, y in train])
    with pytest.raises(TvlensError, match="examples and test share"):
        tv.evaluate(model, vector, validation=validation, test=again)


def test_save_and_load_keep_provenance(tmp_path, parts):
    model = tiny.model("gpt2")
    vector = tv.extract(model, parts[0], template="arrow", shots=3, contexts=2, seed=7)
    vector.save(tmp_path / "v.safetensors")
    again = TaskVector.load(tmp_path / "v.safetensors")
    assert torch.equal(again.values, vector.values)
    assert again.meta == json.loads(json.dumps(vector.meta))
    assert again.examples == list(parts[0].pairs)
    about = {k: again.meta[k] for k in ("template", "shots", "contexts", "seed", "processed")}
    assert about == {
        "template": "{x} -> {y}\n", "shots": 3, "contexts": 2, "seed": 7, "processed": False
    }  # fmt: skip
    assert again.meta["versions"]["torch"] and len(again.meta["prompts"]) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"junk" * 9]
)
def test_a_file_that_holds_no_vector(tmp_path, content):
    (tmp_path / "no.safetensors").write_bytes(content)
    with pytest.raises(TvlensError, match="holds no TaskVector"):
        TaskVector.load(tmp_path / "no.safetensors")
    with pytest.raises(TvlensError, match="holds no TaskVector"):
        TaskVector.load(tmp_path / "missing.safetensors")


def test_arithmetic():
    model = tiny.model("gpt2")
    a, b = vector_of(model), vector_of(model, 3.0)
    torch.testing.assert_close((a + b - a).values, b.values)
    torch.testing.assert_close(TaskVector.average([a, b]).values, 2 * a.values)
    torch.testing.assert_close((-a).scale(2).values, -2 * a.values)
    torch.testing.assert_close(a.cosine(b), torch.ones(3))
    with pytest.raises(TvlensError, match="different models or sites"):
        a + TaskVector(torch.zeros(2, 32))


def test_vectors_go_with_vectors_of_the_stream(unchecked):
    model = tiny.model("gpt2")
    for wrong in (lambda v: v + 3, lambda v: v.cosine(None), lambda v: TaskVector.average([3, v])):
        with pytest.raises(TvlensError, match="TaskVector"):
            wrong(vector_of(model))
    with pytest.raises(TvlensError, match=r"a vector is \[layer, d_model\], not \[3\]"):
        TaskVector(torch.rand(3)).applied(model, layer=1).__enter__()
    with pytest.raises(TvlensError, match="z is not one vector of the model's width"):
        TaskVector(torch.rand(3, 32), "z").applied(model, layer=1).__enter__()


def test_vectors_of_other_models_are_refused():
    model = tiny.model("gpt2")
    with (
        pytest.raises(TvlensError, match="3 layers of width 8"),
        TaskVector(torch.zeros(3, 8)).applied(model, layer=0),
    ):
        pass
    stranger = TaskVector(torch.zeros(3, 32), meta={"model": "another"})
    with (
        pytest.raises(TvlensError, match="comes from 'another'"),
        stranger.applied(model, layer=0),
    ):
        pass
    with stranger.applied(model, layer=0, other_model=True):
        model(torch.tensor([[1, 2]]))
    with (
        pytest.raises(TvlensError, match="layer 3 does not exist"),
        vector_of(model).applied(model, layer=3),
    ):
        pass
    with (
        pytest.raises(TvlensError, match="unknown mode"),
        vector_of(model).applied(model, layer=0, mode="mul"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(layer=[18, 19]), r"layer must be one integer, not \[18, 19\]"),
        (dict(layer="last"), "layer must be one integer, not 'last'"),
        (dict(layer=True), "layer must be one integer, not True"),
        (dict(layer=None), "resid_post needs a layer"),
        (dict(layer=1, mode="add!"), "unknown mode 'add!': did you mean 'add'"),
        (dict(layer=1, scale="x"), "scale must be one number, not 'x'"),
        (dict(layer=1, positions=99), "position 99 does not exist: there are 0 to 3"),
        (dict(layer=1, positions=[1, 2, 3]), "3 positions for 2 rows"),
        (dict(layer=1, positions="all"), "positions must be one integer or several"),
    ],
)
def test_what_cannot_be_applied_is_named(unchecked, options, message):
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match=message), vector_of(model).applied(model, **options):
        model(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))


@pytest.mark.parametrize("layer", [1, np.int64(1), torch.tensor(1), -2])
@pytest.mark.parametrize("positions", [[2, 0], np.array([2, 0]), torch.tensor([2, 0])])
def test_integers_of_every_library_say_where_a_vector_is_written(layer, positions):
    model, tokens = tiny.model("gpt2"), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    vector = vector_of(model)
    with vector.applied(model, layer=layer, positions=positions, mode="replace"):
        got = tv.collect(model, tokens, layers=1, progress=False)["resid_post.1"]
    for row, position in enumerate([2, 0]):
        torch.testing.assert_close(got[row, position], vector.values[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(task="antonym"), r"task must be a Task, not str: give tvlens.Task.load\('antonym'\)"),
        (dict(task=[("a", "b")]), "task must be a Task, not list"),
        (dict(method=3), "unknown method '3': choose from state"),
        (dict(template=3), "a template is a name or a text"),
        (dict(shots=-1), "shots must be 0 or more, not -1"),
        (dict(shots=1.5), r"shots must be one integer, not 1.5"),
        (dict(contexts=0), "contexts must be 1 or more, not 0"),
        (dict(seed="x"), "seed must be one integer"),
        (dict(batch_size=0), "batch_size must be 1 or more"),
        (dict(site="z"), "z is not one vector of the model's width: choose from resid_pre"),
        (dict(site="blocks.1.hook_resid_post"), "names layer 1, but here every layer is read"),
    ],
)
def test_what_cannot_be_extracted_is_named(unchecked, parts, options, message):
    with pytest.raises(TvlensError, match=message):
        tv.extract(tiny.model("gpt2"), **{"task": parts[0], "shots": 2, "contexts": 2, **options})


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
def test_what_cannot_be_evaluated_is_named(unchecked, parts, options, message):
    model = tiny.model("gpt2")
    given = dict(
        vector=vector_of(model), validation=parts[1], test=parts[2], wrong=vector_of(model)
    )
    with pytest.raises(TvlensError, match=message):
        tv.evaluate(model, **given | options)


def test_unknown_method_and_too_few_examples(parts):
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match="did you mean 'state'"):
        tv.extract(model, parts[0], method="stat")
    with pytest.raises(TvlensError, match="shots and a query need"):
        tv.extract(model, parts[0].subset([0, 1]), shots=6)
    with pytest.raises(TvlensError, match="the model's context is 96"):
        tv.extract(model, parts[0], shots=9)


def test_lens_is_the_models_own_head(causal):
    """The last layer's vector, put where it came from, gives the model's own logits."""
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    with torch.no_grad():
        logits, cache = causal.run_with_cache(tokens)
    values = torch.stack([cache["resid_post", l][0, -1] for l in range(3)])
    vector = TaskVector(values, meta={"model": tv.models.model_name(causal)})
    torch.testing.assert_close(vector_logits(causal, vector)[-1], logits[0, -1])
    tops = top_tokens(causal, vector, k=3)
    assert len(tops) == 3 and all(len(row) == 3 for row in tops)
    assert tops[-1][0][1] == pytest.approx(float(logits[0, -1].softmax(-1).max()), rel=1e-4)


def test_processed_weights_are_told_apart():
    raw, folded = tiny.model("gpt2"), tiny.model("gpt2", processed=True)
    assert tv.models.is_processed(folded) and not tv.models.is_processed(raw)
    vector = tv.extract(folded, Task.load("antonym").subset(range(9)), shots=2, contexts=2)
    assert vector.meta["processed"] is True


def test_evaluate_accepts_select_as_a_deprecated_name_of_validation(monkeypatch, parts):
    monkeypatch.setattr(deprecation, "_warned", set())
    model, (_, validation, test) = tiny.model("gpt2"), parts
    options = dict(test=test, wrong=vector_of(model))
    with pytest.warns(DeprecationWarning, match=r"use evaluate\(validation=\)"):
        renamed = tv.evaluate(model, vector_of(model), select=validation, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a second use does not warn
        again = tv.evaluate(model, vector_of(model), select=validation, **options)
    assert renamed.to_json() == again.to_json()
    assert (
        renamed.to_json()
        == tv.evaluate(model, vector_of(model), validation=validation, **options).to_json()
    )


def test_mode_turn_is_a_deprecated_name_of_add_preserving_norm(monkeypatch, tmp_path):
    monkeypatch.setattr(deprecation, "_warned", set())
    model = tiny.model("gpt2")
    vector = vector_of(model)
    with pytest.warns(DeprecationWarning, match='use mode="add_preserving_norm"'):
        _, renamed = vector.hook(model, 1, mode="turn")
    _, current = vector.hook(model, 1, mode="add_preserving_norm")
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(renamed(states, None), current(states, None))
    old = dataclasses.replace(vector, meta=vector.meta | {"mode": "turn"})
    old.save(tmp_path / "old.safetensors")
    assert tv.TaskVector.load(tmp_path / "old.safetensors").mode == "add_preserving_norm"
