import itertools
import warnings

import numpy as np
import pytest
import scipy.stats
import tiny
import torch
from helpers import fail_if_called, prompt_pair

import tvlens as tv
from tvlens import PatchResult, TvlensError
from tvlens.patching import engines, sweep, verification
from tvlens.sites import COMPONENTS, Site, available

pytestmark = pytest.mark.tl3


RESUMES = ["gpt2", "llama", "neox", "qwen3", "gemma3", "mistral", "llava"]
A, B = 7, 11
METRIC = tv.logit_difference(A, B)


def pair(length=12, batch=3):
    return prompt_pair(length, batch)


def plain(model, clean, corrupted, site, layer, head, position):
    """One patch the plain way: TransformerLens' cache and hooks, one full forward."""
    address = Site(site, layer)
    name = address.hook(model)
    with torch.no_grad():
        kept = {}
        with model.hooks(fwd_hooks=[(name, lambda a, hook: kept.update(a=a.clone()))]):
            model(clean)
        axis = {"batch": slice(None), "pos": slice(None) if position is None else position}
        if address.head_axis is not None:
            axis[address.axes[address.head_axis]] = slice(None) if head is None else head
        index = tuple(axis[a] for a in address.axes if a in axis)

        def put(activation, hook):
            activation = activation.clone()
            activation[index] = kept["a"][index]
            return activation

        return METRIC(model.run_with_hooks(corrupted, fwd_hooks=[(name, put)]))


@pytest.mark.parametrize("site", sorted(COMPONENTS))
def test_every_patch_equals_a_full_forward(causal, site):
    if site not in available(causal):
        pytest.skip("parallel blocks have no state between attention and MLP")
    clean, corrupted = pair()
    if tiny.shows_only(causal, site):
        with pytest.raises(TvlensError, match="does not read it back"):
            tv.patch(causal, clean, corrupted, site=site, metric=METRIC)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(causal, clean, corrupted, site=site, metric=METRIC, positions=[0, 5, 11])
    heads = result.coordinates.get("head", [None])
    assert result.axes == (("layer", "head") if heads != [None] else ("layer",)) + ("position",)
    values = result.values.view(3, len(heads), 3, 3)
    for layer, head, p in [(0, 0, 0), (1, -1, 1), (2, 0, 2), (2, -1, 1), (0, -1, 2)]:
        wanted = plain(causal, clean, corrupted, site, layer, heads[head], [0, 5, 11][p])
        torch.testing.assert_close(values[layer, head, p], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("site", ["z", "resid_post", "k"])
def test_all_positions_and_all_heads_together(causal, site):
    clean, corrupted = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(
            causal, clean, corrupted, site=site, metric=METRIC, heads=None, positions=None
        )
    assert result.axes == ("layer",)
    for layer in range(3):
        wanted = plain(causal, clean, corrupted, site, layer, None, None)
        torch.testing.assert_close(result.values[layer], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESUMES)
def test_equals_transformer_lens_patching(name):
    from transformer_lens import patching

    model = tiny.model(name)
    clean, corrupted = pair(length=7, batch=2)
    _, cache = model.run_with_cache(clean)

    def mean(logits):
        return METRIC(logits).mean()

    resid = patching.get_act_patch_resid_pre(model, corrupted, cache, mean)
    ours = tv.patch(model, clean, corrupted, site="resid_pre", metric=METRIC)
    torch.testing.assert_close(ours.values.mean(-1), resid, rtol=1e-4, atol=1e-5)
    heads = patching.get_act_patch_attn_head_out_all_pos(model, corrupted, cache, mean)
    ours = tv.patch(model, clean, corrupted, site="head_out", metric=METRIC)
    torch.testing.assert_close(ours.values.mean(-1), heads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESUMES)
def test_tree_attention_runs_where_it_is_exact(name, monkeypatch):
    model = tiny.model(name)
    clean, corrupted = pair()
    monkeypatch.setattr(sweep, "batched", fail_if_called)
    monkeypatch.setattr(sweep, "full_forward", fail_if_called)
    result = tv.patch(model, clean, corrupted, site="z", metric=METRIC, positions=-1)
    assert result.settings["engine"] == "tree_attention"


@pytest.mark.parametrize("name", sorted({"native", "bloom", tiny.CAUSAL[-1]}))
def test_batched_rows_begin_at_their_layer(name, monkeypatch):
    model = tiny.model(name)
    clean, corrupted = pair()
    options = dict(site="mlp_out", metric=METRIC, positions=-1, verify=0)
    tv.patch(model, clean, corrupted, **options)
    monkeypatch.setattr(sweep, "full_forward", fail_if_called)
    ran = []
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda a, hook: ran.append(len(a)))]):
        result = tv.patch(model, clean, corrupted, layers=[2], **options)
    assert ran == [3, 3]  # the two runs of the prompts; no patch passes the first block
    assert result.settings["engine"] == "batched"


def test_longer_prompts_and_larger_groups_are_verified_again():
    model = tiny.model("llama")
    verification._verified.pop(model, None)
    key = ("tree_attention", "q", (torch.float32, "cpu"))
    for length, layers in ((6, [1]), (12, [1]), (8, "all")):
        clean, corrupted = pair(length)
        tv.patch(model, clean, corrupted, site="q", metric=METRIC, positions=-1, layers=layers)
        found = verification._verified[model][key]
        assert (found.length, found.lowest, found.highest) == (
            (length, 1, 1) if layers == [1] else (8, 0, 2)
        )


def test_a_mask_without_windows_is_found_in_the_lower_layers(monkeypatch):
    """The last block of this Gemma sees everything, so that such a mask is right there alone."""
    model = tiny.model("gemma3")
    verification._verified.pop(model, None)
    real = engines.build_attention_masks
    monkeypatch.setattr(engines, "attention_masks", lambda *a, **o: real(*a, **o)["full_attention"])
    clean, corrupted = pair()
    options = dict(site="attn_out", metric=METRIC, positions=-1)
    tv.patch(model, clean, corrupted, layers=-1, **options)
    with pytest.warns(UserWarning, match=r"cannot resume.*differs by"):
        result = tv.patch(model, clean, corrupted, layers=[0], **options)
    wanted = plain(model, clean, corrupted, "attn_out", 0, None, 11)
    torch.testing.assert_close(result.values[0], wanted, rtol=1e-4, atol=1e-5)
    verification._verified.pop(model, None)


def test_an_engine_that_disagrees_is_left_for_the_next_one(monkeypatch):
    model = tiny.model("llama")
    verification._verified.pop(model, None)
    for name in ("tree_attention", "batched"):
        real = getattr(sweep, name)
        monkeypatch.setattr(sweep, name, lambda *a, real=real: 1.01 * real(*a))
    clean, corrupted = pair()
    options = dict(site="z", metric=METRIC, positions=-1)
    with pytest.warns(UserWarning) as warned:
        result = tv.patch(model, clean, corrupted, **options)
    assert [str(w.message).split(" for ")[0] for w in warned] == [
        "LlamaForCausalLM cannot resume at a position",
        "LlamaForCausalLM cannot begin at a layer",
    ]
    assert result.settings["engine"] == "full_forward" and result.settings["verified"] == 0
    wanted = plain(model, clean, corrupted, "z", 1, 2, 11)
    torch.testing.assert_close(result.values[1, 2], wanted, rtol=1e-4, atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning comes once
        tv.patch(model, clean, corrupted, **options)
    verification._verified.pop(model, None)


def test_a_sweep_whose_sample_disagrees_starts_again(monkeypatch):
    """An engine that goes wrong after its verification is caught by the sweep's own sample."""
    model = tiny.model("llama")
    clean, corrupted = pair()
    options = dict(site="z", metric=METRIC, positions=-1)
    tv.patch(model, clean, corrupted, **options)  # verified
    real = sweep.tree_attention
    monkeypatch.setattr(sweep, "tree_attention", lambda *a: real(*a) + 0.01)
    unverified = tv.patch(model, clean, corrupted, verify=0, **options)
    assert unverified.settings["engine"] == "tree_attention"
    with pytest.warns(UserWarning, match=r"cannot resume at a position for z \(z\.\d.*differs"):
        result = tv.patch(model, clean, corrupted, **options)
    assert result.settings["engine"] == "batched"
    wanted = plain(model, clean, corrupted, "z", 1, 2, 11)
    torch.testing.assert_close(result.values[1, 2], wanted, rtol=1e-4, atol=1e-5)
    verification._verified.pop(model, None)


def test_the_verified_share_is_an_option_and_stands_in_the_result():
    model = tiny.model("llama")
    clean, corrupted = pair()
    options = dict(site="z", metric=METRIC, positions="all")  # 3 x 4 x 12 patches
    for share, count in ((0, 0), (0.001, 2), (0.1, 14), (1, 144)):
        settings = tv.patch(model, clean, corrupted, verify=share, **options).settings
        assert settings["verified"] == count
        assert settings["largest_difference"] < 1e-5
    with pytest.raises(TvlensError, match="verify=2: a share"):
        tv.patch(model, clean, corrupted, verify=2, **options)


def test_small_groups_and_lack_of_memory_change_nothing(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = pair()
    options = dict(site="z", metric=METRIC, positions=[-3, -2, -1])
    whole = tv.patch(model, clean, corrupted, **options)
    torch.testing.assert_close(
        tv.patch(model, clean, corrupted, batch_tokens=1, **options).values, whole.values
    )
    real = sweep.tree_attention

    def run_out_of_memory(model, base, group):
        if len(group) > 2:
            raise RuntimeError("CUDA out of memory")
        return real(model, base, group)

    monkeypatch.setattr(sweep, "tree_attention", run_out_of_memory)
    torch.testing.assert_close(tv.patch(model, clean, corrupted, **options).values, whole.values)


def test_passes_hold_whole_layers_or_even_pieces_of_one():
    fitting = sweep._count_fitting
    three = [(layer, 10) for layer in range(3) for _ in range(4)]
    assert fitting(three, 1000) == 12
    assert fitting(three, 100) == 8  # two layers, and not half of the third
    assert fitting(three, 39) == 2  # one layer in two even pieces
    assert fitting(three, 25) == 2
    assert fitting(three, 1) == 1
    assert fitting([(0, 500)], 100) == 1


def test_max_memory_makes_passes_smaller(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = pair()
    real, sizes = sweep.tree_attention, []

    def count(model, base, group):
        sizes.append(len(group))
        return real(model, base, group)

    monkeypatch.setattr(sweep, "tree_attention", count)
    options = dict(site="z", metric=METRIC, positions=[-3, -2, -1])
    tv.patch(model, clean, corrupted, **options)  # checks itself
    largest = []
    results = []
    for gigabytes in (None, 3e-4, 1e-6):
        sizes.clear()
        results.append(tv.patch(model, clean, corrupted, max_memory=gigabytes, **options))
        largest.append(max(sizes))
    assert largest[0] > largest[1] > largest[2] == 1
    for result in results[1:]:
        torch.testing.assert_close(result.values, results[0].values, rtol=1e-4, atol=1e-5)


def test_what_is_equal_already_is_not_run(monkeypatch):
    model = tiny.model("gpt2")
    clean, corrupted = pair()
    corrupted[:, :-1] = clean[:, :-1]

    monkeypatch.setattr(sweep, "tree_attention", fail_if_called)
    monkeypatch.setattr(sweep, "batched", fail_if_called)
    result = tv.patch(model, clean, corrupted, site="resid_pre", positions=range(11), metric=METRIC)
    assert not result.effect.any()


def test_patching_everything_restores_the_clean_run(causal):
    """The last state of the stream decides alone: effect is the whole gap."""
    clean, corrupted = pair()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tv.patch(
            causal, clean, corrupted, site="resid_post", layers=-1, positions=-1, metric=METRIC
        )
    assert result.axes == ()
    torch.testing.assert_close(result.values, result.clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.normalised, torch.ones(()), rtol=1e-3, atol=1e-4)


def test_sources(monkeypatch):
    model = tiny.model("llama")
    clean, corrupted = pair()
    options = dict(site="resid_post", metric=METRIC, positions=-1)
    from_run = tv.patch(model, clean, corrupted, **options)
    _, cache = model.run_with_cache(clean)
    from_cache = tv.patch(model, cache, corrupted, **options)
    torch.testing.assert_close(from_cache.values, from_run.values)
    assert from_cache.clean is None
    vector = tv.TaskVector(torch.randn(3, 32))
    from_vector = tv.patch(model, vector, corrupted, **options)
    with torch.no_grad(), vector.applied(model, layer=1):
        wanted = METRIC(model(corrupted))
    torch.testing.assert_close(from_vector.values[1], wanted, rtol=1e-4, atol=1e-5)
    for source in ("zero", "mean", "resample"):
        assert tv.patch(model, source, corrupted, **options).effect.any()
    moved = tv.patch(model, "resample", corrupted, seed=0, **options | {"layers": [2]})
    assert sorted(moved.values[0].tolist()) == pytest.approx(sorted(moved.baseline.tolist()), 1e-3)


def test_metrics():
    logits = torch.randn(4, 1, 50)
    last = logits[:, -1]
    ids = torch.tensor([1, 2, 3, 4])
    rows = torch.arange(4)
    torch.testing.assert_close(tv.logit_difference(ids, 0)(logits), last[rows, ids] - last[:, 0])
    torch.testing.assert_close(tv.probability(ids)(logits), last.softmax(-1)[rows, ids])
    torch.testing.assert_close(tv.log_probability(5)(logits), last.log_softmax(-1)[:, 5])
    order = last.argsort(-1, descending=True)
    assert tv.rank(ids)(logits).tolist() == [
        (order[i] == ids[i]).nonzero().item() for i in range(4)
    ]
    assert tv.accuracy(last.argmax(-1))(logits).tolist() == [1, 1, 1, 1]
    other = torch.randn(4, 50)
    wanted = scipy.stats.entropy(other.softmax(-1), last.softmax(-1), axis=-1)
    np.testing.assert_allclose(tv.kl_divergence(other)(logits), wanted, rtol=1e-4)
    with pytest.raises(TvlensError, match="3 token ids for 4 examples"):
        tv.probability([1, 2, 3])(logits)
    with pytest.raises(TvlensError, match="outside the vocabulary of 50"):
        tv.probability(50)(logits)


def test_metrics_of_earlier_positions():
    model = tiny.model("llama")
    clean, corrupted = pair()

    def early(logits):
        return logits[:, 0, A] + 2 * logits[:, 1, A]

    early.positions = (4, -1)
    result = tv.patch(
        model, clean, corrupted, site="resid_pre", metric={"early": early, "last": METRIC}
    )
    assert result.axes == ("metric", "layer", "position")
    with torch.no_grad():
        kept = model.run_with_cache(clean)[1]["blocks.1.hook_resid_pre"]
        for position in (2, 8):

            def put(activation, hook, position=position):
                activation = activation.clone()
                activation[:, position] = kept[:, position]
                return activation

            logits = model.run_with_hooks(corrupted, fwd_hooks=[("blocks.1.hook_resid_pre", put)])
            wanted = logits[:, 4, A] + 2 * logits[:, -1, A]
            torch.testing.assert_close(
                result["early"].values[1, position], wanted, rtol=1e-4, atol=1e-5
            )
    with pytest.raises(TvlensError, match="no metric 'none'"):
        result["none"]


def test_statistics_and_files(tmp_path):
    model = tiny.model("llama")
    clean, corrupted = pair(batch=6)
    result = tv.patch(model, clean, corrupted, site="head_out", metric=METRIC, positions=-1)
    torch.testing.assert_close(result.effect, (result.values - result.baseline).mean(-1))
    for method in ("t", "bootstrap"):
        ends = result.confidence_interval(method=method, seed=1)
        assert bool((ends[..., 0] <= result.effect + 1e-6).all())
        assert bool((result.effect <= ends[..., 1] + 1e-6).all())
    ends = result.interval
    assert bool((ends[..., 0] <= result.effect + 1e-6).all())
    assert bool((result.effect <= ends[..., 1] + 1e-6).all())
    # The exact sign-flip test against scipy's own.
    one = (result.values - result.baseline)[1, 2].double().numpy()
    true = scipy.stats.permutation_test(
        (one,), np.sum, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert float(result.p_value()[1, 2]) == pytest.approx(true.pvalue)
    frame = result.to_dataframe()
    assert list(frame.columns) == ["layer", "head", "effect", "low", "high", "p_value"]
    assert len(frame) == 12 and len(result.top(3)) == 3
    assert len(result.attention) == 8
    pattern = tv.collect(model, clean[:1].tolist(), "pattern", progress=False).stack("pattern")
    for name, shown in result.attention.items():
        layer, head = map(int, name[1:].split("H"))
        torch.testing.assert_close(shown, pattern[layer, 0, :, head])
    assert "data-tvlens" in result._repr_html_()
    result.save(tmp_path / "r.safetensors")
    again = PatchResult.load(tmp_path / "r.safetensors")
    assert torch.equal(again.values, result.values) and again.axes == result.axes
    assert again.coordinates == result.coordinates and set(again.attention) == set(result.attention)
    (tmp_path / "no").write_bytes(b"junk" * 10)
    with pytest.raises(TvlensError, match="holds no PatchResult"):
        PatchResult.load(tmp_path / "no")


@pytest.mark.parametrize(("size", "skewed"), [(5, 0.88), (10, 0.90), (20, 0.92)])
def test_the_default_interval_covers_as_its_docstring_says(size, skewed):
    """Of 20,000 sweeps: normal effects exactly, exponential ones less (standard error .0023)."""
    draw = torch.Generator().manual_seed(size)
    normal = torch.randn(20_000, size, generator=draw, dtype=torch.float64)
    exponential = -torch.rand(20_000, size, generator=draw, dtype=torch.float64).log()
    for values, mean, wanted in ((normal, 0, 0.95), (exponential, 1, skewed)):
        axes = ("layer",), {"layer": list(range(20_000))}
        result = PatchResult(values, *axes, torch.zeros(size).double(), None, "z")
        low, high = result.interval.T
        covered = float(((low <= mean) & (mean <= high)).double().mean())
        assert covered == pytest.approx(wanted, abs=0.011)


def test_one_example_has_no_interval():
    """Rather than one of no width, and tables and pictures say so."""
    axes = ("layer",), {"layer": [0, 1, 2]}
    result = PatchResult(torch.ones(3, 1), *axes, torch.zeros(1), None, "z")
    for method in ("t", "bootstrap"):
        assert bool(result.confidence_interval(method=method).isnan().all())
    frame = result.to_dataframe()
    assert frame.low.isna().all() and frame.high.isna().all() and frame.effect.tolist() == [1.0] * 3
    assert "data-tvlens" in result._repr_html_()


def test_a_null_that_stays_null():
    """Sign flips of noise around zero: p-values are uniform."""
    noise = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    result = PatchResult(noise, ("layer",), {"layer": list(range(400))}, torch.zeros(8), None, "z")
    assert scipy.stats.kstest(result.p_value().numpy(), "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(site="head_ou"), "did you mean 'head_out'"),
        (dict(site="z", layers=[3]), "layers: 3 does not exist, there are 0 to 2"),
        (dict(site="z", heads=9), "heads: 9 does not exist"),
        (dict(site="z", positions=40), "positions: 40 does not exist"),
        (dict(site="z", positions=[]), "positions is empty"),
        (dict(site="z", layers="some"), "layers must be 'all'"),
        (dict(site="z", metric=lambda x: x * float("nan")), "one number per example"),
        (dict(site="z", metric=lambda x: x[:, -1, 0] * float("nan")), "NaN for example 0"),
        (dict(site="z", metric=3), "a metric is a function of logits.*not int"),
        (dict(site="z", metric={}), "no metric"),
        (dict(site="z", metric=tv.kl_divergence(torch.rand(2, 384))), r"logits \[2, 384\] to com"),
        (dict(site="z", metric=tv.kl_divergence(torch.rand(3, 38))), r"with \[3, 384\]"),
        (dict(site="z", layers=True), "layers must be one integer or several, not True"),
        (dict(site="z", layers=1.0), "layers must be one integer or several, not 1.0"),
        (dict(site="z", heads=False), "heads must be one integer or several, not False"),
        (dict(site="z", positions="last"), "positions must be 'all', numbers or None"),
        (dict(site="z", positions=1.5), "positions must be one integer or several"),
        (dict(site="z", batch_tokens=0), "batch_tokens must be 1 or more, not 0"),
        (dict(site="z", max_memory=-1), "gigabytes above 0, not -1"),
        (dict(site="z", seed="x"), "seed must be one integer, not 'x'"),
        (dict(site="z", seed=-1), "seed must be 0 or more, not -1"),
        (dict(site="resid_post", heads=2), "resid_post has no heads: leave heads=2 out"),
        (dict(site=None), "unknown site 'None': choose from resid_pre"),
        (dict(site="blocks.1.attn.hook_z", layers=2), "names layer 1, but layers=2"),
        (dict(site=Site("z", 1, head=2), heads=[0]), r"names one of heads, 2: leave heads=\[0\]"),
    ],
)
def test_bad_input(unchecked, options, message):
    clean, corrupted = pair()
    with pytest.raises(TvlensError, match=message):
        tv.patch(tiny.model("llama"), clean, corrupted, **{"metric": METRIC, **options})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"blocks.1.attn.hook_z": 3}, "blocks.1.attn.hook_z in the cache is no tensor but int"),
        (tv.TaskVector(torch.rand(1, 32), "z"), "1 layers of width 32; it has none for layer 1"),
        (tv.TaskVector(torch.rand(3, 30), "z"), "3 layers of width 30; .* of width 8"),
    ],
)
def test_bad_sources(unchecked, source, message):
    with pytest.raises(TvlensError, match=message):
        tv.patch(tiny.model("llama"), source, pair()[1], site="z", metric=METRIC, layers=1)


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_pre", "resid_pre.1", Site("resid_pre", 1)])
@pytest.mark.parametrize("function", [tv.patch, tv.attribute])
def test_a_layer_in_a_site_s_name_is_the_layer_that_is_patched(function, name):
    model, (clean, corrupted) = tiny.model("llama"), pair()
    one = function(model, clean, corrupted, site=name, metric=METRIC)
    every = function(model, clean, corrupted, site="resid_pre", metric=METRIC)
    assert one.axes == ("position",) and one.settings["layer"] == 1
    torch.testing.assert_close(one.values, every.values[1], rtol=1e-4, atol=1e-5)


def test_a_site_of_one_head_and_position_is_one_patch():
    model, (clean, corrupted) = tiny.model("llama"), pair()
    site = Site("z", 1, head=2, position=-1)
    one = tv.patch(model, clean, corrupted, site=site, metric=METRIC)
    every = tv.patch(model, clean, corrupted, site="z", metric=METRIC, positions=-1)
    assert one.axes == ()
    torch.testing.assert_close(one.values, every.values[1, 2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one", [np.int64(1), torch.tensor(1)])
@pytest.mark.parametrize("several", [np.array([0, -1]), torch.tensor([0, -1]), range(0, -2, -1)])
def test_integers_of_every_library_are_coordinates(one, several):
    model, (clean, corrupted) = tiny.model("llama"), pair()
    for function in (tv.patch, tv.attribute):
        options = dict(site="z", metric=METRIC)
        found = function(
            model, clean, corrupted, layers=one, heads=several, positions=several, **options
        )
        wanted = function(
            model, clean, corrupted, layers=1, heads=[0, -1], positions=[0, -1], **options
        )
        assert found.coordinates == wanted.coordinates
        assert torch.equal(found.values, wanted.values)


METRICS = [tv.probability, tv.log_probability, tv.rank, tv.accuracy]


@pytest.mark.parametrize("metric", [*METRICS, lambda answer: tv.logit_difference(answer, " ")])
@pytest.mark.parametrize("texts", ["a", ["a", "s", "t"]])
def test_metrics_take_texts_of_one_token(metric, texts):
    model, (clean, corrupted) = tiny.model("llama"), pair()
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in texts]
    options = dict(site="z", layers=1, positions=-1)
    found = tv.patch(model, clean, corrupted, metric={"named": metric(texts)}, **options)
    wanted = tv.patch(model, clean, corrupted, metric={"named": metric(ids)}, **options)
    assert torch.equal(found.values, wanted.values)
    mixed = metric([texts[0], *ids[1:]])
    assert torch.equal(tv.patch(model, clean, corrupted, metric=mixed, **options).values,
                       wanted.values[0])  # fmt: skip


def test_texts_that_are_no_token_are_named():
    model, (clean, corrupted) = tiny.model("llama"), pair()
    for metric in (tv.logit_difference(" Paris", "a"), tv.probability(["a", " Paris", "s"])):
        with pytest.raises(TvlensError, match=r"' Paris' is 6 tokens, \[' ', 'P', .*one token"):
            tv.patch(model, clean, corrupted, site="z", metric=metric)
    with pytest.raises(TvlensError, match="2 token ids for 3 examples"):
        tv.patch(model, clean, corrupted, site="z", metric=tv.rank(["a", "s"]))
    with pytest.raises(TvlensError, match=r"logit_difference was given texts.*give token ids"):
        tv.logit_difference("a", "s")(torch.zeros(1, 1, 384))


def test_nothing_to_patch_and_training_mode():
    clean, corrupted = pair()
    model = tiny.model("qwen3")
    with pytest.raises(TvlensError, match="the same prompts"):
        tv.patch(model, clean, clean, site="z", metric=METRIC)
    model.train()
    try:
        with pytest.raises(TvlensError, match=r"call model.eval\(\) first"):
            tv.patch(model, clean, corrupted, site="z", metric=METRIC)
    finally:
        model.eval()


def test_hooks_and_blocks_are_as_before_after_an_exception(causal):
    clean, corrupted = pair()
    with torch.no_grad():
        before = causal(corrupted)

    def broken(logits):
        raise RuntimeError("stop")

    calls = itertools.count()

    def late(logits):
        return broken(logits) if next(calls) > 3 else METRIC(logits)

    for metric in (broken, late):
        with pytest.raises(RuntimeError, match="stop"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tv.patch(causal, clean, corrupted, site="resid_post", metric=metric)
    with torch.no_grad():
        assert torch.equal(causal(corrupted), before)


def test_logits_of_a_few_tokens_are_those_of_all(causal):
    """The built-in difference unembeds two tokens; the same metric written out, all of them."""
    clean, corrupted = pair()
    right, wrong = torch.tensor([9, 4, 30]), 11
    options = dict(site="resid_post", layers=[0, 2], positions=[3, -1])

    def written_out(logits):
        return logits[range(3), -1, right] - logits[:, -1, wrong]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        few, every = (
            tv.patch(causal, clean, corrupted, metric=metric, **options)
            for metric in (tv.logit_difference(right, wrong), written_out)
        )
        both = {"few": tv.logit_difference(right, wrong), "other": METRIC}
        two = tv.patch(causal, clean, corrupted, metric=both, **options)
    torch.testing.assert_close(few.values, every.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(few.clean, every.clean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two["few"].values, few.values, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert causal(corrupted).shape[-1] == 384  # the unembedding is whole again
    with pytest.raises(TvlensError, match="outside the vocabulary"):
        tv.patch(causal, clean, corrupted, metric=tv.logit_difference(900, 1), **options)
