"""Exactness on many architectures: `tv.patch` against plain hooks on the Hugging Face model.

Every model has eight layers and random weights, times four where they are matrices, so that
attention is not flat; prompts have 40 tokens, local windows 8. For each architecture and each
sweep, prints the largest difference of a sample of patches from the plain way, as a share of the
largest effect of the sweep, and the engine that ran. Writes out/bench/architectures.json.
"""

import copy
import functools
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf

import tvlens as tv
from tvlens.files import write

LAYERS, LENGTH, VOCABULARY, HEADS, D_HEAD = 8, 40, 128, 4, 8
METRIC = tv.logit_difference(7, 11)


@dataclass(frozen=True)
class Architecture:
    """How to build a model, and the names of its parts.

    Attributes:
        build: a model with random weights.
        blocks: name of the list of blocks.
        projection: name of the attention's output projection in a block, whose input is z.
    """

    build: Callable[[], Any]
    blocks: str = "model.layers"
    projection: str = "self_attn.o_proj"


_SIZE = dict(
    hidden_size=HEADS * D_HEAD,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    vocab_size=VOCABULARY,
)
_TEXT = dict(**_SIZE, intermediate_size=64, max_position_embeddings=96)
_GQA = dict(**_TEXT, num_key_value_heads=2)
_HEAD = dict(**_GQA, head_dim=D_HEAD)
_GPT = dict(
    n_layer=LAYERS, n_head=HEADS, n_embd=HEADS * D_HEAD, vocab_size=VOCABULARY, n_positions=96
)
_EXPERTS = dict(num_experts_per_tok=2, num_experts=4, moe_intermediate_size=32)
_LOCAL_EXPERTS = dict(num_experts_per_tok=2, num_local_experts=4)
_SHARED = dict(**_EXPERTS, shared_expert_intermediate_size=32)
_WINDOW = dict(sliding_window=8)
_ALTERNATING = dict(**_WINDOW, layer_types=["sliding_attention", "full_attention"] * (LAYERS // 2))
_LINEAR = dict(
    layer_types=["linear_attention", "full_attention"] * (LAYERS // 2),
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=8,
    linear_value_head_dim=8,
)
_MAMBA = dict(mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1)
_LATENT = dict(
    q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8
)


def _llama_like(name: str, **options: Any) -> Architecture:
    """A family with Llama's module names."""

    config = getattr(hf, options.pop("config", f"{name}Config"))
    return Architecture(lambda: getattr(hf, f"{name}ForCausalLM")(config(**options)))


def _gpt_neo() -> Any:
    kinds = [[["global", "local"], LAYERS // 2]]
    sizes = dict(hidden_size=32, num_layers=LAYERS, num_heads=HEADS, vocab_size=VOCABULARY)
    sizes |= dict(max_position_embeddings=96, window_size=8, attention_types=kinds)
    return hf.GPTNeoForCausalLM(hf.GPTNeoConfig(**sizes))


def _opt(**options: Any) -> Any:
    sizes = dict(**_SIZE, ffn_dim=64, max_position_embeddings=96)
    return hf.OPTForCausalLM(hf.OPTConfig(**sizes | dict(word_embed_proj_dim=32) | options))


def _mpt() -> Any:
    sizes = dict(d_model=32, n_heads=HEADS, n_layers=LAYERS, vocab_size=VOCABULARY)
    return hf.MptForCausalLM(hf.MptConfig(**sizes, max_seq_len=128, expansion_ratio=2))


def _bloom() -> Any:
    sizes = dict(hidden_size=32, n_layer=LAYERS, n_head=HEADS, vocab_size=VOCABULARY)
    return hf.BloomForCausalLM(hf.BloomConfig(**sizes))


def _deepseek() -> Any:
    experts = dict(n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    experts |= dict(first_k_dense_replace=1, n_group=1, topk_group=1)
    sizes = dict(**_TEXT, **_LATENT, **experts, num_key_value_heads=HEADS)
    return hf.DeepseekV3ForCausalLM(hf.DeepseekV3Config(**sizes))


_H = "transformer.h"
ARCHITECTURES = {
    "GPT-2": Architecture(lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**_GPT)), _H, "attn.c_proj"),
    "GPT-BigCode": Architecture(
        lambda: hf.GPTBigCodeForCausalLM(hf.GPTBigCodeConfig(**_GPT)), _H, "attn.c_proj"
    ),
    "GPT-Neo": Architecture(_gpt_neo, _H, "attn.attention.out_proj"),
    "GPT-J": Architecture(
        lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**_GPT, rotary_dim=4)), _H, "attn.out_proj"
    ),
    "CodeGen": Architecture(
        lambda: hf.CodeGenForCausalLM(hf.CodeGenConfig(**_GPT, rotary_dim=4)), _H, "attn.out_proj"
    ),
    "GPT-NeoX": Architecture(
        lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_TEXT)),
        "gpt_neox.layers",
        "attention.dense",
    ),
    "OPT": Architecture(_opt, "model.decoder.layers", "self_attn.out_proj"),
    "OPT post-norm": Architecture(
        lambda: _opt(do_layer_norm_before=False, word_embed_proj_dim=16),
        "model.decoder.layers",
        "self_attn.out_proj",
    ),
    "BLOOM": Architecture(_bloom, _H, "self_attention.dense"),
    "MPT": Architecture(_mpt, "transformer.blocks", "attn.out_proj"),
    "Falcon": Architecture(
        lambda: hf.FalconForCausalLM(hf.FalconConfig(**_SIZE)), _H, "self_attention.dense"
    ),
    "BERT": Architecture(
        lambda: hf.BertForMaskedLM(hf.BertConfig(**_TEXT)),
        "bert.encoder.layer",
        "attention.output.dense",
    ),
    "Phi": Architecture(
        lambda: hf.PhiForCausalLM(hf.PhiConfig(**_TEXT)), projection="self_attn.dense"
    ),
    "LFM2": Architecture(
        lambda: hf.Lfm2ForCausalLM(
            hf.Lfm2Config(**_GQA, layer_types=["conv", "full_attention"] * (LAYERS // 2))
        ),
        projection="self_attn.out_proj",
    ),
    "DeepSeek-V3": Architecture(_deepseek),
    "Llama": _llama_like("Llama", **_GQA),
    "Mistral": _llama_like("Mistral", **_GQA, **_WINDOW),
    "Mixtral": _llama_like("Mixtral", **_GQA, **_LOCAL_EXPERTS),
    "Qwen2": _llama_like("Qwen2", **_GQA),
    "Qwen2-MoE": _llama_like("Qwen2Moe", **_GQA, **_SHARED),
    "Qwen3": _llama_like("Qwen3", **_HEAD),
    "Qwen3-MoE": _llama_like("Qwen3Moe", **_HEAD, **_EXPERTS),
    "Qwen3-Next": _llama_like("Qwen3Next", **_HEAD, **_SHARED, **_LINEAR),
    "Qwen3.5": _llama_like("Qwen3_5", config="Qwen3_5TextConfig", **_HEAD, **_LINEAR),
    "Falcon-H1": _llama_like("FalconH1", **_HEAD, **_MAMBA, mamba_chunk_size=16),
    "Phi-3": _llama_like("Phi3", **_GQA, **_WINDOW, pad_token_id=0),
    "Gemma": _llama_like("Gemma", **_HEAD),
    "Gemma 2": _llama_like("Gemma2", **_HEAD, **_WINDOW, query_pre_attn_scalar=8),
    "Gemma 3": _llama_like(
        "Gemma3", config="Gemma3TextConfig", **_HEAD, **_ALTERNATING, query_pre_attn_scalar=8
    ),
    "OLMo": _llama_like("Olmo", **_GQA),
    "OLMo 2": _llama_like("Olmo2", **_GQA),
    "OLMo 3": _llama_like("Olmo3", **_GQA, **_ALTERNATING),
    "OLMoE": _llama_like("Olmoe", **_GQA, num_experts_per_tok=2, num_experts=4),
    "Cohere": _llama_like("Cohere", **_GQA),
    "Cohere 2": _llama_like("Cohere2", **_HEAD, **_ALTERNATING),
    "StableLM": _llama_like("StableLm", **_GQA),
    "StarCoder2": _llama_like("Starcoder2", **_GQA, **_WINDOW),
    "Granite": _llama_like("Granite", **_GQA),
    "GLM": _llama_like("Glm", **_HEAD, pad_token_id=0),
    "SmolLM3": _llama_like("SmolLM3", **_GQA, pad_token_id=0),
    "gpt-oss": _llama_like("GptOss", **_HEAD, **_LOCAL_EXPERTS, **_ALTERNATING),
}


@functools.cache
def source(name: str) -> Any:
    """The plain Hugging Face model of an architecture."""
    torch.manual_seed(0)
    model = ARCHITECTURES[name].build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.set_attn_implementation("eager")
    return model


def load(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A fresh TransformerLens model of an architecture, with the weights of `source`."""
    return tv.load(copy.deepcopy(source(name)).to(dtype))


def prompts(batch: int = 2) -> torch.Tensor:
    """Clean and corrupted token ids, [2, batch, position]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (2, batch, LENGTH), generator=generator)


def attention_layers(name: str) -> list[int]:
    """The layers that have attention heads."""
    places = ARCHITECTURES[name]
    blocks = source(name).get_submodule(places.blocks)
    names = [{part for part, _ in block.named_modules()} for block in blocks]
    return [layer for layer, parts in enumerate(names) if places.projection in parts]


@torch.no_grad()
def patch_by_hooks(name, clean, corrupted, *, site, layer, position, head=None):
    """METRIC with one activation of `clean` written in, [batch], by hooks on the plain model."""
    model, places = source(name), ARCHITECTURES[name]
    block = model.get_submodule(places.blocks)[layer]
    channels = slice(None) if head is None else slice(head * D_HEAD, (head + 1) * D_HEAD)
    source_states = {}

    def store(value):
        source_states["clean"] = _tensor(value)[:, position, channels].clone()

    def write(value):
        state = _tensor(value).clone()
        state[:, position, channels] = source_states["clean"]
        return (state, *value[1:]) if isinstance(value, tuple) else state

    def run(tokens, edit):
        if site == "resid_post":
            handle = block.register_forward_hook(lambda module, inputs, output: edit(output))
        else:
            projection = block.get_submodule(places.projection)
            handle = projection.register_forward_pre_hook(lambda module, inputs: edit(inputs))
        try:
            return model(tokens).logits[:, -1:]
        finally:
            handle.remove()

    run(clean, store)
    return METRIC(run(corrupted, write))


def _tensor(value):
    return value[0] if isinstance(value, tuple) else value


def largest_error(name, result, clean, corrupted, every: int = 5) -> float:
    """The largest difference from patching by hooks, relative to the largest effect.

    Args:
        every: of the swept positions, each `every`th is compared.
    """
    heads = [None] if result.site == "resid_post" else [0, HEADS - 1]
    worst = 0.0
    for row, layer in enumerate(result.coordinates["layer"]):
        for column, position in list(enumerate(result.coordinates["position"]))[::every]:
            for head in heads:
                patch = dict(site=result.site, layer=layer, position=position, head=head)
                true = patch_by_hooks(name, clean, corrupted, **patch)
                index = (row, column) if head is None else (row, head, column)
                worst = max(worst, float((result.values[index] - true).abs().max()))
    return worst / float(result.differences.abs().max())


def sweep(model, name, site, layers, positions="all"):
    """One sweep of an architecture, and the warnings that came with it."""
    clean, corrupted = prompts()
    have = range(LAYERS) if site == "resid_post" else attention_layers(name)
    layers = [layer for layer in layers if layer in have] or [have[0]]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        options = dict(site=site, layers=layers, positions=positions, metric=METRIC)
        result = tv.patch(model, clean, corrupted, **options)
    return result, [str(w.message) for w in caught if "engine" in str(w.message)]


SWEEPS = {"all": range(LAYERS), "one": [2], "four": range(4)}


def run(device: str) -> None:
    """The table: a fresh model for each sweep, since engines are verified once per model."""
    clean, corrupted = prompts()
    rows = []
    for name in ARCHITECTURES:
        row = {"architecture": name, "engines": []}
        for site in ("resid_post", "z"):
            for title, layers in SWEEPS.items():
                result, warned = sweep(load(name), name, site, layers)
                row[f"{site}, {title}"] = largest_error(name, result, clean, corrupted)
                row["engines"].append(
                    result.settings["engine"] + " (after a warning)" * bool(warned)
                )
        row["engines"] = sorted(set(row["engines"]))
        rows.append(row)
        errors = ", ".join(f"{k} {v:.0e}" for k, v in row.items() if isinstance(v, float))
        print(f"  {name:12s} {', '.join(row['engines']):16s} {errors}", flush=True)
    path = write("out/bench/architectures.json", json.dumps(rows, indent=1))
    print(f"  written to {path}")
