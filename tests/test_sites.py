import numpy as np
import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import Site, TvlensError
from tvlens.models import family
from tvlens.sites import COMPONENTS, available, parse_site, sites

pytestmark = pytest.mark.tl3


def test_shape_equals_that_of_the_activation(any_name):
    model = tiny.model(any_name)
    inputs = tiny.ragged(any_name, (7, 7))
    tokens = inputs if isinstance(inputs, torch.Tensor) else torch.tensor(inputs)
    pos = 17 if any_name == "vit" else 7
    shapes = {}
    hooks = []
    for name, (hook, _) in available(model, layer=1).items():
        hooks.append((hook, lambda value, hook, name=name: shapes.update({name: value.shape})))
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens)
    for name in available(model, layer=1):
        assert tuple(shapes[name]) == Site(name, 1).shape(model, batch=2, pos=pos), name


def test_every_component_is_available_except_in_parallel_blocks(any_name):
    missing = set(COMPONENTS) - set(available(tiny.model(any_name)))
    # In GPT-NeoX attention and MLP read the same state: there is nothing in between.
    assert missing == ({"resid_mid"} if any_name == "neox" else set())


def test_keys_and_values_have_grouped_heads():
    model = tiny.model("llama")
    assert Site("q", 0).shape(model, pos=5) == (1, 5, 4, 8)
    assert Site("k", 0).shape(model, pos=5) == (1, 5, 2, 8)
    with pytest.raises(TvlensError, match="heads 0 to 1"):
        Site("v", 0, head=2).hook(model)


def test_residual_sites_are_sums_of_block_outputs(any_name):
    """In pre-norm models, each part of a block adds to the residual stream."""
    if any_name in ("neox", "bert"):
        pytest.skip("parallel or post-norm blocks add up differently")
    model = tiny.model(any_name)
    inputs = tiny.ragged(any_name, (6, 6))
    names = ["resid_pre", "attn_out", "resid_mid", "mlp_out", "resid_post"]
    activations = tv.collect(model, inputs, names, layers=1, progress=False)
    activations = {name: activations[f"{name}.1"] for name in names}
    torch.testing.assert_close(
        activations["resid_mid"], activations["resid_pre"] + activations["attn_out"]
    )
    torch.testing.assert_close(
        activations["resid_post"], activations["resid_mid"] + activations["mlp_out"]
    )


def test_resid_mid_of_bert_is_the_input_of_its_mlp():
    model = tiny.model("bert")
    activations = tv.collect(
        model, tiny.ragged("bert", (6,)), ["resid_mid", "mlp_out", "resid_post"]
    )
    norm = model.blocks[1].ln2
    normalized = norm(activations["resid_mid.1"] + activations["mlp_out.1"])
    torch.testing.assert_close(normalized, activations["resid_post.1"])


@pytest.mark.parametrize(
    ("wrong", "right"),
    [("resid_pots", "resid_post"), ("mlpout", "mlp_out"), ("paterns", "pattern")],
)
def test_unknown_site_suggests_the_nearest_name(wrong, right):
    with pytest.raises(TvlensError, match=f"did you mean.*'{right}'"):
        Site(wrong, 0)


def test_site_accepts_aliases_and_hook_names():
    model = tiny.model("gpt2")
    assert Site("head_out", 2).hook(model) == Site("z", 2).hook(model)
    assert Site("blocks.2.hook_resid_post").hook(model) == "blocks.2.hook_resid_post"
    assert Site("blocks.1.attn.hook_z", 1) == Site("z.1") == Site("z", 1)
    assert [s.layer for s in sites(model, "z", layers=[0, -1])] == [0, 2]


def test_hook_refuses_missing_layers_heads_and_sites():
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match="layers 0 to 2"):
        Site("resid_post", 3).hook(model)
    with pytest.raises(TvlensError, match="has no heads"):
        Site("resid_post", 0, head=1)
    with pytest.raises(TvlensError, match="no resid_mid at layer 0; it has resid_pre"):
        Site("resid_mid", 0).hook(tiny.model("neox"))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("resid_pre", ("resid_pre", None)),
        ("hook_resid_pre", ("resid_pre", None)),
        ("head_out", ("z", None)),
        ("blocks.5.hook_resid_pre", ("resid_pre", 5)),
        ("blocks.12.attn.hook_z", ("z", 12)),
        ("head_out.3", ("z", 3)),
        (Site("k", 2, head=1), ("k", 2)),
    ],
)
def test_parse_site_returns_component_and_layer(name, wanted):
    assert parse_site(name) == wanted


@pytest.mark.parametrize("layers", ["all", 1, [1], -2, np.int64(1), torch.tensor([1])])
def test_collect_reads_the_layer_in_a_site_name(layers):
    model, prompts = tiny.model("gpt2"), tiny.ragged("text")
    all_layers = tv.collect(model, prompts, "resid_pre", progress=False)
    collected = tv.collect(model, prompts, "blocks.1.hook_resid_pre", layers=layers, progress=False)
    assert list(collected) == ["resid_pre.1"]
    assert torch.equal(collected["blocks.1.hook_resid_pre"], all_layers["resid_pre.1"])
    assert torch.equal(collected.stack("blocks.1.hook_resid_pre")[0], all_layers["resid_pre.1"])


def test_sites_refuse_two_different_layers():
    model = tiny.model("gpt2")
    with pytest.raises(TvlensError, match="the site names layer 1, but layers=2: name one"):
        sites(model, "blocks.1.hook_resid_pre", layers=2)
    with pytest.raises(TvlensError, match="names layer 0, not -1"):
        Site("blocks.0.hook_resid_post", -1)
    with pytest.raises(TvlensError, match="layers 0 to 2"):
        sites(model, "blocks.7.hook_resid_pre")
    with pytest.raises(TvlensError, match="resid_post needs a layer"):
        Site("resid_post")


@pytest.mark.parametrize(
    "one", [1, np.int64(1), np.int8(1), torch.tensor(1), torch.tensor(1).int(), np.array(1)]
)
def test_site_accepts_integers_of_every_library(one):
    model = tiny.model("gpt2")
    site = Site("z", one, head=one, position=one)
    assert site == Site("z", 1, head=1, position=1)
    assert [type(n) for n in (site.layer, site.head, site.position)] == [int] * 3
    assert [s.layer for s in sites(model, "z", layers=one)] == [1]


@pytest.mark.parametrize(
    "several", [[0, 2], (0, 2), range(0, 3, 2), np.array([0, 2]), torch.tensor([0, 2])]
)
def test_sites_accept_sequences_of_every_library(several):
    assert [s.layer for s in sites(tiny.model("gpt2"), "z", layers=several)] == [0, 2]


@pytest.mark.parametrize("wrong", [[18, 19], True, 1.0, "1", torch.tensor([1, 2]), np.bool_(True)])
def test_site_refuses_a_layer_that_is_no_integer(unchecked, wrong):
    with pytest.raises(TvlensError, match="layer must be one integer, not"):
        Site("z", wrong)


@pytest.mark.parametrize("wrong", [True, 1.5, None, [1, True], {1: 2}, [[1]], torch.tensor([1.0])])
def test_sites_refuse_layers_that_are_no_integers(unchecked, wrong):
    with pytest.raises(TvlensError, match="layers must be one integer or several, not"):
        sites(tiny.model("gpt2"), "z", layers=wrong)


def test_activations_name_the_collected_sites_in_errors():
    activations = tv.collect(tiny.model("gpt2"), [[3, 4]], "z", layers=1, progress=False)
    assert (
        "z.1" in activations
        and "blocks.1.attn.hook_z" in activations
        and Site("z", 1) in activations
    )
    assert "z.2" not in activations and "none" not in activations and activations.get("z.2") is None
    with pytest.raises(TvlensError, match=r"z.2 was not collected: choose from z.1"):
        activations["z.2"]
    with pytest.raises(KeyError):
        activations["z.2"]


def make_post_norm_opt():
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, ffn_dim=64, num_hidden_layers=6, num_attention_heads=4)
    config = hf.OPTConfig(
        **sizes,
        vocab_size=384,
        max_position_embeddings=96,
        word_embed_proj_dim=16,
        do_layer_norm_before=False,
    )
    model = tv.load(hf.OPTForCausalLM(config).eval())
    return model, [
        layer.self_attn_layer_norm for layer in model.original_model.model.decoder.layers
    ]


def make_gpt1():
    torch.manual_seed(0)
    config = hf.OpenAIGPTConfig(n_layer=6, n_head=4, n_embd=32, n_positions=96, vocab_size=384)
    model = tv.load(hf.OpenAIGPTLMHeadModel(config).eval())
    return model, [block.ln_1 for block in model.original_model.transformer.h]


@pytest.mark.parametrize("make", [make_post_norm_opt, make_gpt1])
@pytest.mark.filterwarnings("ignore:.*cannot (resume|begin) at a")
def test_resid_mid_of_post_norm_blocks_is_the_output_of_the_first_norm(make):
    """Compare reading and patching of OPT-350m and GPT-1 with PyTorch hooks."""
    model, norms = make()
    clean, corrupted = torch.randint(3, 120, (2, 2, 9), generator=torch.Generator().manual_seed(2))
    metric = tv.logit_difference(7, 11)
    layers = [0, 3, 5]
    result = tv.patch(model, clean, corrupted, site="resid_mid", layers=layers, metric=metric)
    activations = tv.collect(model, clean, "resid_mid", progress=False)
    assert family(model).is_post_norm and not family(tiny.model("gpt2")).is_post_norm
    for i, layer in enumerate(layers):
        norm, output = norms[layer], {}
        handle = norm.register_forward_hook(
            lambda m, args, out, output=output: output.update(out=out)
        )
        with torch.no_grad():
            model.original_model(input_ids=clean)
        handle.remove()
        torch.testing.assert_close(
            activations[f"resid_mid.{layer}"], output["out"], rtol=1e-4, atol=1e-5
        )

        def write(module, args, out, output=output):
            out = out.clone()
            out[:, 4] = output["out"][:, 4]
            return out

        handle = norm.register_forward_hook(write)
        with torch.no_grad():
            logits = model.original_model(input_ids=corrupted).logits
        handle.remove()
        torch.testing.assert_close(result.values[i, 4], metric(logits), rtol=1e-4, atol=1e-5)
    with pytest.raises(TvlensError, match="normalizes its residual stream after every sum"):
        tv.patch_paths(model, clean, corrupted, receiver="logits", metric=metric)


def test_latent_attention_refuses_queries_keys_and_values():
    """In DeepSeek-V3, queries, keys and values have other axes and widths."""
    config = hf.DeepseekV3Config(
        hidden_size=32,
        intermediate_size=64,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        v_head_dim=8,
        qk_nope_head_dim=8,
        vocab_size=384,
        first_k_dense_replace=1,
    )
    model = tv.load(hf.DeepseekV3ForCausalLM(config).eval())
    sides = torch.randint(3, 120, (2, 2, 4), generator=torch.Generator().manual_seed(2))
    for name in "qkvz":
        with pytest.raises(TvlensError, match=f"latent attention keeps no {name} .*resid_pre"):
            tv.collect(model, sides[0], name, progress=False)
        with pytest.raises(TvlensError, match=f"latent attention keeps no {name}"):
            tv.patch(model, *sides, site=name, metric=tv.logit_difference(7, 11))
        assert name not in available(model)
    assert tv.collect(model, sides[0], "pattern", progress=False)["pattern.1"].shape == (2, 4, 4, 4)
