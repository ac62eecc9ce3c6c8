"""`load` refuses models whose logits differ between TransformerLens and Hugging Face."""

import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import TvlensError
from tvlens.models import equivalence


def make_falcon(**options):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=128)
    model = hf.FalconForCausalLM(hf.FalconConfig(**sizes, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model


@pytest.mark.skipif(tiny.HAS_HOOKED, reason="3.9 has another adapter")
def test_load_refuses_falcon_with_alibi():
    """TransformerLens 4.3 leaves ALiBi out: its logits differ by hundredths of the largest."""
    with pytest.raises(TvlensError, match="computes this FalconForCausalLM otherwise"):
        tv.load(make_falcon(alibi=True))
    tv.load(make_falcon(alibi=False))


@pytest.mark.parametrize("source_kind", ["folder", "model"])
def test_load_refuses_models_with_other_logits(folder, monkeypatch, source_kind):
    source = (
        str(folder) if source_kind == "folder" else hf.AutoModelForCausalLM.from_pretrained(folder)
    )
    tokens = equivalence._tokens
    tv.load(source)
    calls = iter([0, 1])
    monkeypatch.setattr(equivalence, "_tokens", lambda m: tokens(m) + next(calls))
    if source_kind == "model":
        source = hf.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(TvlensError, match="computes this LlamaForCausalLM otherwise"):
        tv.load(source)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_load_accepts_half_precision(folder, dtype):
    tv.load(str(folder), dtype=dtype)


def test_load_accepts_short_contexts_zero_heads_and_infinite_biases():
    sizes = dict(n_layer=2, n_head=4, n_embd=32, vocab_size=128)
    tv.load(hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=8, **sizes)))
    without_head = hf.GPT2LMHeadModel(hf.GPT2Config(tie_word_embeddings=False, **sizes))
    without_head.lm_head.weight.data.zero_()
    tv.load(without_head)
    masked = hf.GPTJForCausalLM(hf.GPTJConfig(rotary_dim=4, **sizes))
    masked.lm_head.bias.data[120:] = -torch.inf
    tv.load(masked)


def test_load_refuses_an_unknown_architecture():
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
    model = hf.BioGptForCausalLM(hf.BioGptConfig(intermediate_size=64, **sizes))
    with pytest.raises(TvlensError, match="cannot open BioGptForCausalLM"):
        tv.load(model)
