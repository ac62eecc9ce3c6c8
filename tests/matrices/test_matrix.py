"""`TaskMatrix` on states and on models, whose finetuned versions have perturbed weights."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import tiny
import torch
from finetuned_models import NAMES, make_batches, perturb
from helpers import normal

import tvlens as tv
from tvlens import TaskMatrix, TvlensError, deprecation
from tvlens.matrices import FitConfig, ReadConfig, TaskMatrices, collect_states, fit_models
from tvlens.models.forward import Batch, run


def sample_pairs(n=80, d=7, t=5, rank=None, seed=0, task=1):
    x = normal(n, d, seed=seed) @ normal(d, d, seed=7) + 2
    w = normal(d, t, seed=task) if rank is None else normal(d, rank) @ normal(rank, t)
    return x, x @ w + 1 + 0.5 * normal(n, t, seed=seed + 100)


def test_predict_keeps_shape_and_dtype():
    x, y = sample_pairs()
    matrix = TaskMatrix.from_states(x, y)
    assert matrix.predict(x[0]).shape == (5,)
    wide = matrix.predict(x.float().reshape(8, 10, 7))
    assert wide.shape == (8, 10, 5) and wide.dtype == torch.float32
    torch.testing.assert_close(
        wide.reshape(80, 5).double(), x @ matrix.weight + matrix.bias, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(TvlensError, match="width 5, not 7"):
        matrix.predict(y)


@pytest.mark.parametrize("ridge", [None, 3.0])
@pytest.mark.parametrize("bias", [True, False])
def test_truncate_is_the_best_map_of_each_rank(ridge, bias):
    """Reduced-rank regression is least squares on the data with the penalty as more rows."""
    x, y = sample_pairs()
    matrix = TaskMatrix.from_states(x, y, ridge=ridge, bias=bias)
    z, target = (x - x.mean(0), y - y.mean(0)) if bias else (x, y)
    z = torch.cat([z, (ridge or 0) ** 0.5 * torch.eye(7)])
    target = torch.cat([target, torch.zeros(7, 5)])

    def error(weight):
        return float((target - z @ weight).square().sum())

    fitted = z @ matrix.weight
    tail = torch.linalg.svdvals(fitted).square()
    for rank in range(1, 6):
        low = matrix.truncate(rank)
        assert int(torch.linalg.matrix_rank(low.weight)) == low.rank == rank
        # Eckart and Young: nothing of this rank comes nearer to the fitted values.
        assert error(low.weight) == pytest.approx(error(matrix.weight) + float(tail[rank:].sum()))
        direct = TaskMatrix.from_states(x, y, ridge=ridge, bias=bias, rank=rank)
        torch.testing.assert_close(direct.weight, low.weight)
        if bias:
            torch.testing.assert_close(low.predict(x.mean(0)), y.mean(0))
        else:
            assert low.bias.abs().max() < 1e-12
    torch.testing.assert_close(matrix.truncate(5).weight, matrix.weight)
    torch.testing.assert_close(matrix.truncate(4).truncate(2).weight, matrix.truncate(2).weight)
    shares = matrix.explained_by_rank()
    torch.testing.assert_close(shares, tail.cumsum(0) / tail.sum())
    with pytest.raises(TvlensError, match="rank 0 is not possible"):
        matrix.truncate(0)


def test_spectrum_is_the_singular_values_of_the_weight():
    matrix = TaskMatrix.from_states(*sample_pairs())
    torch.testing.assert_close(matrix.spectrum(), torch.linalg.svdvals(matrix.weight))


def test_procrustes_matches_scipy_and_recovers_a_rotation():
    x, _ = sample_pairs()
    rotation = torch.linalg.qr(normal(7, 7)).Q
    matrix = TaskMatrix.from_states(x, 2.5 * x @ rotation + 3, method="procrustes")
    torch.testing.assert_close(matrix.weight, 2.5 * rotation)
    torch.testing.assert_close(matrix.bias, torch.full((7,), 3.0, dtype=torch.float64))
    y = normal(80, 7, seed=4)
    expected, scale = scipy.linalg.orthogonal_procrustes(x.numpy(), y.numpy())
    result = TaskMatrix.from_states(x, y, method="procrustes", bias=False)
    np.testing.assert_allclose(result.weight, expected * scale / (x**2).sum().item(), atol=1e-10)
    narrow = TaskMatrix.from_states(x, y[:, :3], method="procrustes")
    gram = narrow.weight.T @ narrow.weight
    torch.testing.assert_close(gram, torch.eye(3).double() * gram[0, 0])
    assert narrow.truncate(2).weight.shape == (7, 3)


def test_save_and_load_keep_every_field(tmp_path):
    matrix = TaskMatrix.from_states(*sample_pairs(), rank=3)
    path = tmp_path / "w.safetensors"
    matrix.save(path)
    loaded = TaskMatrix.load(path)
    assert torch.equal(loaded.weight, matrix.weight) and torch.equal(loaded.bias, matrix.bias)
    assert (loaded.ridge, loaded.rank, loaded.meta) == (matrix.ridge, 3, matrix.meta)
    torch.testing.assert_close(loaded.truncate(2).weight, matrix.truncate(2).weight)
    with pytest.raises(TvlensError, match="holds no TaskMatrix"):
        TaskMatrix.load(tmp_path / "other.safetensors")
    several = TaskMatrices(
        tuple(TaskMatrix(matrix.weight * k, matrix.bias, layer=k, target=2) for k in (1, 4))
    )
    several.save(path)
    loaded = TaskMatrices.load(path)
    assert list(loaded) == [1, 4] and torch.equal(loaded[4].weight, 4 * matrix.weight)
    assert loaded[4, 2] is loaded[4] and loaded[1].factor is None
    with pytest.raises(TvlensError, match="holds no TaskMatrix"):
        TaskMatrix.load(path)


def test_repr_html_plots_singular_values():
    matrix = TaskMatrix.from_states(*sample_pairs())
    assert "singular value" in matrix._repr_html_()
    assert repr(matrix).startswith("TaskMatrix(7 to 5, ridge, penalty ")


def default_readout(name):
    return "first" if name in tiny.ENCODERS else "last"


@pytest.fixture(params=NAMES)
def model_name(request):
    return request.param


def test_fit_equals_from_states_of_collected_states(model_name):
    base, prompts, readout = (
        tiny.model(model_name),
        make_batches(model_name),
        default_readout(model_name),
    )
    tuned = perturb(base)
    result = TaskMatrix.fit(base, tuned, prompts, readout=readout, progress=False)
    x = collect_states(base, prompts, readout=readout, progress=False)
    y = collect_states(tuned, prompts, layers=-1, readout=readout, progress=False)[0]
    assert isinstance(result, TaskMatrices) and list(result) == [0, 1, 2] and result.targets == [2]
    for layer in range(3):
        direct = TaskMatrix.from_states(x[layer], y)
        assert result[layer].ridge == pytest.approx(direct.ridge, rel=1e-6)
        torch.testing.assert_close(result[layer].weight, direct.weight, atol=1e-5, rtol=1e-4)
    single = TaskMatrix.fit(base, tuned, prompts, layers=-2, readout=readout, progress=False)
    assert isinstance(single, TaskMatrices) and list(single) == [1]
    torch.testing.assert_close(single[1].weight, result[1].weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("readout", ["first", "mean", "last"])
def test_applied_maps_states_and_skips_the_blocks_between(model_name, readout):
    base, prompts = tiny.model(model_name), make_batches(model_name)
    quiet = dict(readout=readout, progress=False)
    matrices = TaskMatrix.fit(base, perturb(base), prompts, **quiet)
    states = collect_states(base, prompts[:1], **quiet)
    before = run(base, Batch.of(base, prompts[0]))
    executed_blocks = []
    handles = [
        block.attn.register_forward_hook(lambda *_, i=i: executed_blocks.append(i))
        for i, block in enumerate(base.blocks)
    ]
    for layer in range(3):
        executed_blocks.clear()
        with matrices.applied(base, layer=layer):
            mapped = collect_states(base, prompts[:1], layers=-1, **quiet)[0]
        expected = matrices[layer].predict(states[layer])
        torch.testing.assert_close(mapped, expected, atol=1e-4, rtol=1e-4)
        assert executed_blocks == list(range(layer + 1))  # the blocks above did not run
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(run(base, Batch.of(base, prompts[0])), before)  # and all is undone


def test_applied_is_undone_after_an_exception():
    base = tiny.model("gpt2")
    matrix = TaskMatrix(2 * torch.eye(32), torch.zeros(32))
    before = run(base, Batch.of(base, [[5, 6, 7]]))
    with pytest.raises(RuntimeError), matrix.applied(base, layer=0):
        raise RuntimeError
    torch.testing.assert_close(run(base, Batch.of(base, [[5, 6, 7]])), before)


def test_applied_reproduces_a_linear_change_of_the_last_layer():
    """A model that differs by a linear map of the last block's output is matched exactly."""
    base, prompts = tiny.model("gpt2"), make_batches("gpt2")
    weight = torch.randn(32, 32, generator=torch.Generator().manual_seed(1))
    x = collect_states(base, prompts, layers=-1, readout="last", progress=False)[0]
    matrix = TaskMatrix.from_states(x, x @ weight)
    batch = Batch.of(base, prompts[0])
    hook = ("blocks.2.hook_resid_post", lambda activation, hook: activation @ weight)
    expected = run(base, batch, hooks=[hook])
    with matrix.applied(base, layer=2):
        result = run(base, batch)
    rows = torch.arange(len(batch))
    last = batch.lengths - 1
    torch.testing.assert_close(result[rows, last], expected[rows, last], atol=1e-3, rtol=1e-3)


def test_fit_penalty_rules_and_shards_match_from_states():
    base, prompts = tiny.model("bert"), make_batches("bert", count=2)
    tuned = perturb(base)
    x = collect_states(base, prompts, progress=False)
    y = collect_states(tuned, prompts, progress=False)
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
    with pytest.raises(TvlensError, match="iterated again"):
        TaskMatrix.fit(base, tuned, iter(prompts), shard=1, **quiet)
    assert len(TaskMatrix.fit(base, tuned, iter(prompts), ridge="loo", **quiet)) == 3


def test_fit_models_runs_the_base_model_once_per_batch():
    base, prompts = tiny.model("bert"), make_batches("bert", count=2)
    tuned = {"a": perturb(base, 1), "b": perturb(base, 2)}
    runs = []
    handle = base.register_forward_hook(lambda *_: runs.append(1))
    result = fit_models(base, tuned, prompts, FitConfig(ridge=1.0), ReadConfig(progress=False))
    handle.remove()
    assert len(runs) == len(prompts)
    for name, model in tuned.items():
        alone = TaskMatrix.fit(base, model, prompts, ridge=1.0, progress=False)
        for layer in range(3):
            torch.testing.assert_close(result[name][layer].weight, alone[layer].weight)
            assert result[name][layer].meta["tuned"] == alone[layer].meta["tuned"]


def test_bad_input_raises_one_line_errors(tmp_path):
    base, prompts = tiny.model("bert"), make_batches("bert", count=2)
    tuned = perturb(base)
    matrices = TaskMatrix.fit(base, tuned, prompts, progress=False)
    matrices.save(tmp_path / "w.safetensors")
    loaded = TaskMatrices.load(tmp_path / "w.safetensors")
    batch = Batch.of(base, prompts[0])
    with loaded.applied(base, layer=-2):  # what was saved still knows its model
        run(base, batch)
    with pytest.raises(TvlensError, match=r"fitted on the weights of.*other_model=True"):
        loaded[1].applied(tuned).__enter__()
    with loaded[1].applied(tuned, other_model=True):
        run(tuned, batch)
    with pytest.raises(TvlensError, match="fitted at layer 1, not at layer 2"):
        matrices[1].applied(base, layer=2).__enter__()
    with pytest.raises(TvlensError, match="layer 3 does not exist"):
        matrices.applied(base, layer=3).__enter__()
    with pytest.raises(TvlensError, match="no matrix of layer 0; there are layers"):
        TaskMatrices((matrices[2],)).applied(base, layer=0).__enter__()
    with pytest.raises(TvlensError, match="maps 5 to 5 dimensions; the states of this model have"):
        TaskMatrix(torch.eye(5), torch.zeros(5)).applied(base, layer=0).__enter__()
    with pytest.raises(TvlensError, match="has no layer of its own"):
        TaskMatrix(torch.eye(32), torch.zeros(32)).applied(base).__enter__()
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


def test_fit_refuses_models_with_other_inputs():
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


def test_fit_of_one_layer_can_be_applied_without_naming_it():
    base, prompts = tiny.model("gpt2"), make_batches("gpt2")
    options = dict(readout="last", progress=False)
    matrices = TaskMatrix.fit(base, perturb(base), prompts, layers=1, **options)
    with matrices.applied(base):
        mapped = collect_states(base, prompts[:1], layers=-1, **options)[0]
    reached = collect_states(base, prompts[:1], layers=1, **options)[0]
    torch.testing.assert_close(mapped, matrices[1].predict(reached), atol=1e-4, rtol=1e-4)
    several = TaskMatrix.fit(base, perturb(base), prompts, **options)
    with pytest.raises(TvlensError, match="give layer="), several.applied(base):
        pass


def test_attach_is_deprecated_warns_once_and_names_applied(monkeypatch):
    monkeypatch.setattr(deprecation, "_warned", set())
    base = tiny.model("gpt2")
    matrix = TaskMatrix(torch.eye(32), torch.zeros(32), layer=0, target=2)
    for fitted, name in ((matrix, "TaskMatrix"), (TaskMatrices((matrix,)), "TaskMatrices")):
        with pytest.warns(DeprecationWarning, match=f"use {name}.applied"):
            context = fitted.attach(base, layer=0)
        with warnings.catch_warnings(), context:
            warnings.simplefilter("error")
            fitted.attach(base, layer=0)
