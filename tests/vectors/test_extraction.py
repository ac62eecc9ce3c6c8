import json

import pytest
import tiny
import torch

import tvlens as tv
from tvlens import Task, TaskVector, TvlensError
from tvlens.tasks import TEMPLATES, build, contexts

pytestmark = pytest.mark.tl3


def test_extract_state_equals_the_mean_of_run_with_cache(causal, parts):
    """The reference runs single unpadded prompts through run_with_cache."""
    train, _, _ = parts
    vector = tv.extract(causal, train, shots=2, contexts=4, seed=5)
    states = []
    for shots, (query, _) in contexts(train, shots=2, count=4, seed=5):
        prompt = build(causal.tokenizer, TEMPLATES["qa"], shots, query)
        _, cache = causal.run_with_cache(torch.tensor([prompt.tokens]))
        states.append(torch.stack([cache["resid_post", l][0, -1] for l in range(3)]))
    torch.testing.assert_close(vector.values, torch.stack(states).mean(0))


def test_save_and_load_keep_provenance(tmp_path, parts):
    model = tiny.model("gpt2")
    vector = tv.extract(model, parts[0], template="arrow", shots=3, contexts=2, seed=7)
    vector.save(tmp_path / "v.safetensors")
    loaded = TaskVector.load(tmp_path / "v.safetensors")
    assert torch.equal(loaded.values, vector.values)
    assert loaded.meta == json.loads(json.dumps(vector.meta))
    assert loaded.examples == list(parts[0].pairs)
    provenance = {k: loaded.meta[k] for k in ("template", "shots", "contexts", "seed", "processed")}
    assert provenance == {
        "template": "{x} -> {y}\n", "shots": 3, "contexts": 2, "seed": 7, "processed": False
    }  # fmt: skip
    assert loaded.meta["versions"]["torch"] and len(loaded.meta["prompts"]) == 2


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
def test_extract_refuses_invalid_options(unchecked, parts, options, message):
    with pytest.raises(TvlensError, match=message):
        tv.extract(tiny.model("gpt2"), **{"task": parts[0], "shots": 2, "contexts": 2, **options})


def test_extract_refuses_unknown_methods_and_too_few_examples(parts):
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match="did you mean 'state'"):
        tv.extract(model, parts[0], method="stat")
    with pytest.raises(TvlensError, match="shots and a query need"):
        tv.extract(model, parts[0].subset([0, 1]), shots=6)
    with pytest.raises(TvlensError, match="the model's context is 96"):
        tv.extract(model, parts[0], shots=9)


def test_vector_records_processed_weights():
    raw, folded = tiny.model("gpt2"), tiny.model("gpt2", processed=True)
    assert tv.models.is_processed(folded) and not tv.models.is_processed(raw)
    vector = tv.extract(folded, Task.load("antonym").subset(range(9)), shots=2, contexts=2)
    assert vector.meta["processed"] is True
