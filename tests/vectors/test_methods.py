"""Extraction methods, each compared with its definition."""

import functools

import numpy as np
import pytest
import tiny
import torch

import tvlens as tv
from tvlens import Task, TaskVector, TvlensError
from tvlens.tasks import TEMPLATES, build, contexts, plain
from tvlens.vectors.function_vectors import function, sum_heads
from tvlens.vectors.methods import ExtractionContext
from tvlens.vectors.vector import apply_vector

pytestmark = [
    pytest.mark.tl3,
    pytest.mark.filterwarnings("ignore:.*cannot resume at a layer"),
]

SHOTS = dict(shots=3, contexts=4)


@pytest.fixture(scope="module")
def task():
    return Task.load("singular-plural").subset(range(20))


def read_last_states(model, prompts):
    """Last states of single prompts by TransformerLens' own cache, `[layer, prompt, d_model]`."""
    states_by_prompt = []
    for tokens in prompts:
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([list(tokens)]))
        names = [tv.Site("resid_post", l).hook(model) for l in range(3)]
        states_by_prompt.append(torch.stack([cache[name][0, -1] for name in names]))
    return torch.stack(states_by_prompt, 1)


def build_prompts(model, task, *, bare=False):
    sampled = contexts(task, shots=3, count=4, seed=0)
    template = TEMPLATES["qa"]
    return [
        build(model.tokenizer, template, [] if bare else shots, *query).tokens
        for shots, query in sampled
    ]


def test_state_and_difference_equal_means_of_run_with_cache(causal, task):
    with_shots, without = (
        read_last_states(causal, build_prompts(causal, task, bare=b)) for b in (False, True)
    )
    state = tv.extract(causal, task, **SHOTS)
    torch.testing.assert_close(state.values, with_shots.mean(1), rtol=1e-4, atol=1e-5)
    assert state.mode == "replace"
    difference = tv.extract(causal, task, method="difference", **SHOTS)
    torch.testing.assert_close(
        difference.values, (with_shots - without).mean(1), rtol=1e-4, atol=1e-4
    )
    assert difference.mode == "add"


def test_instruction_equals_the_state_of_the_instruction(causal, task):
    vector = tv.extract(causal, task, method="instruction", **SHOTS)
    tokens = plain(causal.tokenizer, "The plural of the word:")
    torch.testing.assert_close(
        vector.values, read_last_states(causal, [tokens])[:, 0], rtol=1e-4, atol=1e-5
    )
    assert vector.meta["prompts"] == ["The plural of the word:"]
    with pytest.raises(TvlensError, match="has no instruction"):
        tv.extract(causal, Task("t", task.pairs), method="instruction", **SHOTS)


def test_in_context_equals_the_first_principal_direction(causal, task):
    vector = tv.extract(causal, task, method="in-context", **SHOTS)
    sides = [
        read_last_states(causal, [plain(causal.tokenizer, " " + pair[i]) for pair in task])
        for i in (0, 1)
    ]
    change = (sides[1] - sides[0]).movedim(1, 0).flatten(1).double().numpy()
    _, directions = np.linalg.eigh(change.T @ change)
    first = directions[:, -1].reshape(3, -1)
    first *= np.sign((change.mean(0) * first.ravel()).sum())
    cosine = torch.cosine_similarity(vector.values.double(), torch.tensor(first), dim=-1)
    torch.testing.assert_close(cosine, torch.ones(3).double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(vector.norms, sides[0].norm(dim=-1).mean(1), rtol=1e-4, atol=1e-4)
    assert vector.mode == "add_preserving_norm"


def test_apply_vector_in_each_mode_equals_its_definition():
    state, value = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([4.0, 3.0])
    assert torch.equal(apply_vector(state, value, "replace"), value.expand(2, 2))
    assert torch.equal(apply_vector(state, value, "add"), state + value)
    rescaled = apply_vector(state, value, "add_preserving_norm")
    torch.testing.assert_close(rescaled.norm(dim=-1), state.norm(dim=-1))
    torch.testing.assert_close(
        torch.cosine_similarity(rescaled, state + value, dim=-1), torch.ones(2)
    )


def test_function_selects_heads_of_largest_indirect_effect(causal, task):
    """The heads are those of the largest effects, and all layers have the same vector."""
    context = ExtractionContext.draw(
        causal,
        task,
        TEMPLATES["qa"],
        shots=3,
        count=4,
        site="resid_post",
        seed=0,
        batch_size=2,
        progress=False,
    )
    values, metadata = function(context, heads=3, trials=3)
    effects = torch.tensor(metadata["effects"])
    assert effects.shape == (3, 4) and len(metadata["heads"]) == 3
    ranked = effects.flatten().argsort(descending=True)[:3].tolist()
    assert [l * 4 + h for l, h in metadata["heads"]] == ranked
    assert torch.equal(values[0], values[2])


def test_sum_of_heads_equals_products_with_the_output_matrix(causal):
    means = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    heads = [(0, 1), (2, 3), (2, 0)]
    output = sum_heads(causal, means, heads)
    if hasattr(causal.blocks[0], "ln1_post"):
        # A norm follows: what the heads write together is not a sum of matrix products.
        return
    wanted = sum(means[l, h] @ causal.W_O[l, h] for l, h in heads)
    torch.testing.assert_close(output, wanted.detach(), rtol=1e-3, atol=1e-4)


def test_indirect_effects_equal_plain_forwards(causal, task):
    from tvlens.tasks import shuffled_labels
    from tvlens.vectors.function_vectors import measure_indirect_effects

    context = ExtractionContext.draw(
        causal, task, TEMPLATES["qa"], shots=3, count=2, site="resid_post",
        seed=0, batch_size=2, progress=False,
    )  # fmt: skip
    means = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    result = measure_indirect_effects(context, means, trials=3)
    for i, (shots, query) in enumerate(contexts(task, shots=3, count=3, seed=1)):
        prompt = build(causal.tokenizer, TEMPLATES["qa"], shuffled_labels(shots, seed=i), *query)
        tokens = torch.tensor([prompt.tokens])
        for layer, head in [(0, 0), (1, 2), (2, 3)]:

            def write(z, hook, layer=layer, head=head):
                z = z.clone()
                z[:, -1, head] = means[layer, head]
                return z

            name = tv.Site("z", layer).hook(causal)
            with torch.no_grad():
                logits = causal.run_with_hooks(tokens, fwd_hooks=[(name, write)])
            wanted = logits[0, -1].softmax(-1)[prompt.answer[0]]
            torch.testing.assert_close(result.values[layer, head, i], wanted, rtol=1e-3, atol=1e-6)


def test_function_vector_is_saved_and_plotted_with_its_heads(task, tmp_path):
    model = tiny.model("llama")
    vector = tv.extract(model, task, method="function", **SHOTS)
    vector.save(tmp_path / "v.safetensors")
    loaded = TaskVector.load(tmp_path / "v.safetensors")
    assert loaded.mode == "add" and len(loaded.meta["heads"]) == 10
    assert loaded.meta["effects"] == vector.meta["effects"]
    assert "indirect effect by head" in loaded._repr_html_()


def test_extract_accepts_a_function_as_method(task):
    model = tiny.model("gpt2")
    vector = tv.extract(model, task, method=functools.partial(function, heads=2), **SHOTS)
    assert vector.meta["method"] == "function" and len(vector.meta["heads"]) == 2
    with pytest.raises(TvlensError, match="did you mean 'function'"):
        tv.extract(model, task, method="functions", **SHOTS)


@pytest.mark.parametrize("method", ["function", "difference", "in-context", "instruction"])
def test_evaluate_uses_the_mode_of_the_method(method):
    model = tiny.model("llama")
    train, validation, test = Task.load("singular-plural").subset(range(40)).split(seed=0)
    vector = tv.extract(model, train, method=method, shots=2, contexts=4)
    report = tv.evaluate(model, vector, validation=validation, test=test)
    assert report.meta["mode"] == vector.mode
    assert set(report.controls) == {"random", "wrong_task", "shuffled_labels", "most_common"}
