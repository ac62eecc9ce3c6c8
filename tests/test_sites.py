import pytest
import tiny
import torch

from tvlens import Site, TvlensError
from tvlens.sites import COMPONENTS, available, sites

pytestmark = pytest.mark.tl3


def test_every_site_has_the_shape_it_says(any_name):
    model = tiny.model(any_name)
    inputs = tiny.ragged(any_name, (7, 7))
    tokens = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
    pos = 17 if any_name == "vit" else 7
    seen = {}
    hooks = []
    for name, (hook, _) in available(model, layer=1).items():
        hooks.append((hook, lambda value, hook, name=name: seen.update({name: value.shape})))
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens)
    for name in available(model, layer=1):
        assert tuple(seen[name]) == Site(name, 1).shape(model, batch=2, pos=pos), name


def test_all_components_are_there_but_for_parallel_blocks(any_name):
    missing = set(COMPONENTS) - set(available(tiny.model(any_name)))
    # In GPT-NeoX attention and MLP read the same state: there is nothing in between.
    assert missing == ({"resid_mid"} if any_name == "neox" else set())


def test_keys_and_values_have_grouped_heads():
    model = tiny.model("llama")
    assert Site("q", 0).shape(model, pos=5) == (1, 5, 4, 8)
    assert Site("k", 0).shape(model, pos=5) == (1, 5, 2, 8)
    with pytest.raises(TvlensError, match="heads 0 to 1"):
        Site("v", 0, head=2).hook(model)


def test_residual_sites_add_up(any_name):
    """Where norms come first, each part of a block adds to the stream."""
    if any_name in ("neox", "bert"):
        pytest.skip("parallel or post-norm blocks add up differently")
    model = tiny.model(any_name)
    inputs = tiny.ragged(any_name, (6, 6))
    names = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    import tvlens as tv

    got = tv.collect(model, inputs, names, layers=1, progress=False)
    got = {name: got[f"{name}.1"] for name in names}
    torch.testing.assert_close(got["resid_mid"], got["resid_pre"] + got["attn_out"])
    torch.testing.assert_close(got["resid_post"], got["resid_mid"] + got["mlp_out"])


def test_bert_mid_is_what_the_mlp_reads():
    import tvlens as tv

    model = tiny.model("bert")
    got = tv.collect(model, tiny.ragged("bert", (6,)), ["resid_mid", "mlp_out", "resid_post"])
    norm = model.blocks[1].ln2
    again = norm(got["resid_mid.1"] + got["mlp_out.1"])
    torch.testing.assert_close(again, got["resid_post.1"])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("resid_pots", "resid_post"), ("mlpout", "mlp_out"), ("paterns", "pattern")],
)
def test_a_wrong_name_answers_with_the_nearest(wrong, right):
    with pytest.raises(TvlensError, match=f"did you mean.*'{right}'"):
        Site(wrong, 0)


def test_other_spellings():
    model = tiny.model("gpt2")
    assert Site("head_out", 2).hook(model) == Site("z", 2).hook(model)
    assert Site("blocks.2.hook_resid_post").hook(model) == "blocks.2.hook_resid_post"
    assert Site("blocks.1.attn.hook_z", 1) == Site("z.1") == Site("z", 1)
    assert [s.layer for s in sites(model, "z", layers=[0, -1])] == [0, 2]


def test_layers_and_heads_that_do_not_exist():
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match="layers 0 to 2"):
        Site("resid_post", 3).hook(model)
    with pytest.raises(TvlensError, match="has no heads"):
        Site("resid_post", 0, head=1)
    with pytest.raises(TvlensError, match="no resid_mid at layer 0; it has resid_pre"):
        Site("resid_mid", 0).hook(tiny.model("neox"))
