import dataclasses

import numpy as np
import pytest
import tiny
import torch
from helpers import random_vector

import tvlens as tv
from tvlens import TaskVector, TvlensError, deprecation

pytestmark = pytest.mark.tl3


def test_applied_replaces_and_adds(causal):
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    vector = random_vector(causal)
    for mode in ("replace", "add"):
        logits = {}
        name = "blocks.1.hook_resid_post"

        def edit(value, hook, mode=mode):
            value = value.clone()
            base = value[:, -1] if mode == "add" else 0
            value[:, -1] = base + 2 * vector.values[1]
            return value

        with torch.no_grad():
            wanted = causal.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
            with vector.applied(causal, layer=1, mode=mode, scale=2.0):
                logits = causal(tokens)
        torch.testing.assert_close(logits, wanted)


def test_applied_removes_its_hooks_after_an_exception(causal):
    tokens = torch.tensor(tiny.ragged("text", (6,)))
    with torch.no_grad():
        before = causal(tokens)
        with pytest.raises(RuntimeError), random_vector(causal).applied(causal, layer=-1):
            assert not torch.equal(causal(tokens), before)
            raise RuntimeError
        assert torch.equal(causal(tokens), before)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"junk" * 9]
)
def test_load_refuses_files_without_a_vector(tmp_path, content):
    (tmp_path / "no.safetensors").write_bytes(content)
    with pytest.raises(TvlensError, match="holds no TaskVector"):
        TaskVector.load(tmp_path / "no.safetensors")
    with pytest.raises(TvlensError, match="holds no TaskVector"):
        TaskVector.load(tmp_path / "missing.safetensors")


def test_vectors_can_be_added_scaled_and_averaged():
    model = tiny.model("gpt2")
    a, b = random_vector(model), random_vector(model, 3.0)
    torch.testing.assert_close((a + b - a).values, b.values)
    torch.testing.assert_close(TaskVector.average([a, b]).values, 2 * a.values)
    torch.testing.assert_close((-a).scale(2).values, -2 * a.values)
    torch.testing.assert_close(a.cosine(b), torch.ones(3))
    with pytest.raises(TvlensError, match="different models or sites"):
        a + TaskVector(torch.zeros(2, 32))


def test_vector_operations_refuse_other_types_and_sites(unchecked):
    model = tiny.model("gpt2")
    for wrong in (lambda v: v + 3, lambda v: v.cosine(None), lambda v: TaskVector.average([3, v])):
        with pytest.raises(TvlensError, match="TaskVector"):
            wrong(random_vector(model))
    with pytest.raises(TvlensError, match=r"a vector is \[layer, d_model\], not \[3\]"):
        TaskVector(torch.rand(3)).applied(model, layer=1).__enter__()
    with pytest.raises(TvlensError, match="z is not one vector of the model's width"):
        TaskVector(torch.rand(3, 32), "z").applied(model, layer=1).__enter__()


def test_applied_refuses_vectors_of_other_models():
    model = tiny.model("gpt2")
    with (
        pytest.raises(TvlensError, match="3 layers of width 8"),
        TaskVector(torch.zeros(3, 8)).applied(model, layer=0),
    ):
        pass
    foreign = TaskVector(torch.zeros(3, 32), meta={"model": "another"})
    with (
        pytest.raises(TvlensError, match="comes from 'another'"),
        foreign.applied(model, layer=0),
    ):
        pass
    with foreign.applied(model, layer=0, other_model=True):
        model(torch.tensor([[1, 2]]))
    with (
        pytest.raises(TvlensError, match="layer 3 does not exist"),
        random_vector(model).applied(model, layer=3),
    ):
        pass
    with (
        pytest.raises(TvlensError, match="unknown mode"),
        random_vector(model).applied(model, layer=0, mode="mul"),
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
def test_applied_refuses_invalid_options(unchecked, options, message):
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match=message), random_vector(model).applied(model, **options):
        model(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]))


@pytest.mark.parametrize("layer", [1, np.int64(1), torch.tensor(1), -2])
@pytest.mark.parametrize("positions", [[2, 0], np.array([2, 0]), torch.tensor([2, 0])])
def test_applied_accepts_integers_of_every_library(layer, positions):
    model, tokens = tiny.model("gpt2"), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    vector = random_vector(model)
    with vector.applied(model, layer=layer, positions=positions, mode="replace"):
        states = tv.collect(model, tokens, layers=1, progress=False)["resid_post.1"]
    for row, position in enumerate([2, 0]):
        torch.testing.assert_close(states[row, position], vector.values[1])


def test_mode_turn_is_a_deprecated_name_of_add_preserving_norm(monkeypatch, tmp_path):
    monkeypatch.setattr(deprecation, "_warned", set())
    model = tiny.model("gpt2")
    vector = random_vector(model)
    with pytest.warns(DeprecationWarning, match='use mode="add_preserving_norm"'):
        _, renamed = vector.hook(model, 1, mode="turn")
    _, current = vector.hook(model, 1, mode="add_preserving_norm")
    states = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(renamed(states, None), current(states, None))
    old = dataclasses.replace(vector, meta=vector.meta | {"mode": "turn"})
    old.save(tmp_path / "old.safetensors")
    assert tv.TaskVector.load(tmp_path / "old.safetensors").mode == "add_preserving_norm"
