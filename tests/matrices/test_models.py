"""Matrices of models: twins made by moving the weights of tiny models."""

import pytest
import tiny
import torch

import tvlens as tv
from tvlens import TaskMatrix, TvlensError
from tvlens.matrices import (
    TaskMatrices,
    gather,
    layer_map,
    states,
    weight_distance,
)
from tvlens.models.forward import Batch, run

NAMES = ["bert", "vit", "gpt2", "native", "llama"] + (["hooked"] if tiny.HAS_HOOKED else [])


def moved(model, seed=0, by=0.02):
    """A twin whose weights are somewhere near."""
    twin = tiny.copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in twin.blocks.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return twin


def batches(name, count=3, rows=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return [torch.randn(rows, 3, 16, 16, generator=generator) for _ in range(count)]
    lengths = torch.randint(3, 14, (count, rows), generator=generator).tolist()
    return [
        [torch.randint(3, 120, (n,), generator=generator).tolist() for n in ns] for ns in lengths
    ]


def readout_of(name):
    return "first" if name in tiny.ENCODERS else "last"


@pytest.fixture(params=NAMES)
def named(request):
    return request.param


@pytest.mark.parametrize("readout", ["first", "mean", "last"])
def test_states_are_those_that_collect_gives(named, readout):
    model, prompts = tiny.model(named), batches(named, count=2, rows=4)
    found = states(model, prompts, readout=readout, progress=False)
    rows = torch.cat(prompts) if named == "vit" else [row for batch in prompts for row in batch]
    whole = tv.collect(model, rows, "resid_post", progress=False)
    for layer in range(3):
        for i, length in enumerate(whole.lengths.tolist()):
            real = whole[f"resid_post.{layer}"][i, :length]
            wanted = {"first": real[0], "last": real[-1], "mean": real.mean(0)}[readout]
            torch.testing.assert_close(found[layer, i], wanted, atol=1e-5, rtol=1e-4)
    lower = states(model, prompts, layers=1, readout=readout, progress=False)
    torch.testing.assert_close(lower[0], found[1])


def test_fit_equals_the_fit_to_collected_states(named):
    base, prompts, readout = tiny.model(named), batches(named), readout_of(named)
    tuned = moved(base)
    found = TaskMatrix.fit(base, tuned, prompts, readout=readout, progress=False)
    x = states(base, prompts, readout=readout, progress=False)
    y = states(tuned, prompts, layers=-1, readout=readout, progress=False)[0]
    assert isinstance(found, TaskMatrices) and list(found) == [0, 1, 2] and found.targets == [2]
    for layer in range(3):
        direct = TaskMatrix.from_states(x[layer], y)
        assert found[layer].ridge == pytest.approx(direct.ridge, rel=1e-6)
        torch.testing.assert_close(found[layer].weight, direct.weight, atol=1e-5, rtol=1e-4)
    one = TaskMatrix.fit(base, tuned, prompts, layers=-2, readout=readout, progress=False)
    assert isinstance(one, TaskMatrix) and one.layer == 1
    torch.testing.assert_close(one.weight, found[1].weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", ["first", "mean", "last"])
def test_attached_models_leave_early_through_the_matrix(named, readout):
    base, prompts = tiny.model(named), batches(named)
    quiet = dict(readout=readout, progress=False)
    matrices = TaskMatrix.fit(base, moved(base), prompts, **quiet)
    reached = states(base, prompts[:1], **quiet)
    before = run(base, Batch.of(base, prompts[0]))
    ran = []
    handles = [
        block.attn.register_forward_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(base.blocks)
    ]
    for layer in range(3):
        ran.clear()
        with matrices.attach(base, layer=layer):
            left = states(base, prompts[:1], layers=-1, **quiet)[0]
        wanted = matrices[layer].predict(reached[layer])
        torch.testing.assert_close(left, wanted, atol=1e-4, rtol=1e-4)
        assert ran == list(range(layer + 1))  # the blocks above did not run
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(run(base, Batch.of(base, prompts[0])), before)  # and all is undone


def test_attaching_is_undone_after_an_exception():
    base = tiny.model("gpt2")
    matrix = TaskMatrix(2 * torch.eye(32), torch.zeros(32))
    before = run(base, Batch.of(base, [[5, 6, 7]]))
    with pytest.raises(RuntimeError), matrix.attach(base, layer=0):
        raise RuntimeError
    torch.testing.assert_close(run(base, Batch.of(base, [[5, 6, 7]])), before)


def test_the_finetuned_model_itself_is_reached_from_its_own_last_layer():
    """A twin that differs by a linear map of the last block's output is matched exactly."""
    base, prompts = tiny.model("gpt2"), batches("gpt2")
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    x = states(base, prompts, layers=-1, readout="last", progress=False)[0]
    matrix = TaskMatrix.from_states(x, x @ weight)
    batch = Batch.of(base, prompts[0])
    hook = ("blocks.2.hook_resid_post", lambda activation, hook: activation @ weight)
    wanted = run(base, batch, hooks=[hook])
    with matrix.attach(base, layer=2):
        found = run(base, batch)
    rows = torch.arange(len(batch))
    at = batch.lengths - 1
    torch.testing.assert_close(found[rows, at], wanted[rows, at], atol=1e-3, rtol=1e-3)


def test_rules_folds_and_shards():
    base, prompts = tiny.model("bert"), batches("bert", count=2)
    tuned = moved(base)
    x = states(base, prompts, progress=False)
    y = states(tuned, prompts, progress=False)
    quiet = dict(progress=False)
    loo = TaskMatrix.fit(base, tuned, prompts, targets="all", ridge="loo", **quiet)
    kfold = TaskMatrix.fit(base, tuned, prompts, targets="all", ridge="kfold", folds=4, **quiet)
    shards = TaskMatrix.fit(base, tuned, prompts, targets="all", ridge=1.0, shard=1, **quiet)
    n = x.shape[1]
    for i in range(3):
        for j in range(3):
            direct = TaskMatrix.from_states(x[i], y[j], ridge="loo")
            torch.testing.assert_close(loo[i, j].weight, direct.weight, atol=1e-5, rtol=1e-3)
            parts = [tv.PairMoments().update(x[i][k:n:4], y[j][k:n:4]) for k in range(4)]
            direct = TaskMatrix.from_moments(parts, ridge="kfold")
            torch.testing.assert_close(kfold[i, j].weight, direct.weight, atol=1e-5, rtol=1e-3)
            direct = TaskMatrix.from_states(x[i], y[j], ridge=1.0)
            torch.testing.assert_close(shards[i, j].weight, direct.weight, atol=1e-5, rtol=1e-3)
    with pytest.raises(TvlensError, match="gone through again"):
        TaskMatrix.fit(base, tuned, iter(prompts), shard=1, **quiet)
    assert len(TaskMatrix.fit(base, tuned, iter(prompts), ridge="loo", **quiet)) == 3


def test_one_pass_of_the_base_model_serves_many_twins():
    base, prompts = tiny.model("bert"), batches("bert", count=2)
    twins = {"a": moved(base, 1), "b": moved(base, 2)}
    runs = []
    handle = base.register_forward_hook(lambda *_: runs.append(1))
    found = TaskMatrix.fit(base, twins, prompts, ridge=1.0, progress=False)
    handle.remove()
    assert len(runs) == len(prompts)
    for name, twin in twins.items():
        alone = TaskMatrix.fit(base, twin, prompts, ridge=1.0, progress=False)
        for layer in range(3):
            torch.testing.assert_close(found[name][layer].weight, alone[layer].weight)
            assert found[name][layer].meta["tuned"] == alone[layer].meta["tuned"]


def test_the_map_of_layers():
    base, prompts = tiny.model("bert"), batches("bert", count=4, rows=30)
    tuned = moved(base, by=0.002)
    gathered = gather(base, tuned, prompts, targets="all", progress=False)
    new = gather(
        base, tuned, batches("bert", count=4, rows=30, seed=9), targets="all", progress=False
    )
    found, held = layer_map(gathered), layer_map(gathered, held_out=new)
    assert found.r2.shape == found.cka.shape == (3, 3)
    # A near twin: each layer knows its own best, and layers above it less well.
    assert found.r2.diagonal().min() > 0.9 and (found.r2.diagonal() >= found.r2.T).all()
    assert held.r2.diagonal().min() > 0.9
    sharded = layer_map(
        gather(base, tuned, prompts, layers=[l], targets="all", progress=False) for l in range(3)
    )
    torch.testing.assert_close(sharded.r2, found.r2, atol=1e-6, rtol=1e-6)
    assert len(found.to_dataframe()) == 9 and "tuned layer" in found._repr_html_()


def test_the_task_vector_of_the_weights():
    base = tiny.model("gpt2")
    tuned = moved(base, by=0.01)
    found = weight_distance(base, tuned)
    squares = sum(
        float((a.double() - b.double()).square().sum().detach())
        for a, b in zip(base.parameters(), tuned.parameters(), strict=True)
    )
    assert found.norm == pytest.approx(squares**0.5)
    assert found.norm == pytest.approx(float(found.by_layer.norm()))  # nothing else was moved
    assert weight_distance(base, base).norm == 0 and not found.left_out


def test_bad_input(tmp_path):
    base, prompts = tiny.model("bert"), batches("bert", count=2)
    tuned = moved(base)
    matrices = TaskMatrix.fit(base, tuned, prompts, progress=False)
    matrices.save(tmp_path / "w.safetensors")
    read = TaskMatrices.load(tmp_path / "w.safetensors")
    batch = Batch.of(base, prompts[0])
    with read.attach(base, layer=-2):  # what was saved still knows its model
        run(base, batch)
    with pytest.raises(TvlensError, match=r"fitted on the weights of.*other_model=True"):
        read[1].attach(tuned).__enter__()
    with read[1].attach(tuned, other_model=True):
        run(tuned, batch)
    with pytest.raises(TvlensError, match="fitted at layer 1, not at layer 2"):
        matrices[1].attach(base, layer=2).__enter__()
    with pytest.raises(TvlensError, match="layer 3 does not exist"):
        matrices.attach(base, layer=3).__enter__()
    with pytest.raises(TvlensError, match="no matrix of layer 0; there are layers"):
        TaskMatrices((matrices[2],)).attach(base, layer=0).__enter__()
    with pytest.raises(TvlensError, match="maps 5 to 5 dimensions; the states of this model have"):
        TaskMatrix(torch.eye(5), torch.zeros(5)).attach(base, layer=0).__enter__()
    with pytest.raises(TvlensError, match="knows no layer of its own"):
        TaskMatrix(torch.eye(32), torch.zeros(32)).attach(base).__enter__()
    with pytest.raises(TvlensError, match="no batches"):
        TaskMatrix.fit(base, tuned, [], progress=False)
    with pytest.raises(TvlensError, match="at least 2 pairs, not 1"):
        TaskMatrix.fit(base, tuned, [[[5, 6]]], progress=False)
    with pytest.raises(TvlensError, match="layer 7 does not exist"):
        TaskMatrix.fit(base, tuned, prompts, layers=7, progress=False)
    with pytest.raises(TvlensError, match="rule for the ridge penalty"):
        TaskMatrix.fit(base, tuned, prompts, ridge="best", progress=False)
    with torch.no_grad():
        next(tuned.blocks[2].parameters()).fill_(torch.nan)
    with pytest.raises(TvlensError, match="NaN"):
        TaskMatrix.fit(base, tuned, prompts, progress=False)


def test_models_that_are_no_twins():
    import transformers as hf

    small, large = (
        tv.load(hf.ViTModel(hf.ViTConfig(**tiny._SIZE, image_size=size, patch_size=4)))
        for size in (16, 24)
    )
    with pytest.raises(TvlensError, match="differ in image size: 16 and 24"):
        TaskMatrix.fit(small, large, [torch.randn(2, 3, 16, 16)], progress=False)
    base = tiny.model("gpt2")
    other = tiny.copied(base)
    wide = tv.load(hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=1, n_head=2, n_embd=16, vocab_size=99)))
    with pytest.raises(TvlensError, match="vocabularies of 384 and 99 tokens"):
        TaskMatrix.fit(base, wide, [[[5, 6]]], progress=False)

    other.tokenizer = tiny.tokenizer()
    other.tokenizer.add_tokens(["unheard"])
    with pytest.raises(TvlensError, match="different tokenizers"):
        TaskMatrix.fit(base, other, [[[5, 6]]], progress=False)
