"""A model that TransformerLens computes otherwise than Hugging Face is not opened."""

import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv
from tvlens import TvlensError
from tvlens.models import equivalence


def _falcon(**options):
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, vocab_size=128)
    model = hf.FalconForCausalLM(hf.FalconConfig(**sizes, **options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    return model


@pytest.mark.skipif(tiny.HAS_HOOKED, reason="3.9 has another adapter")
def test_falcon_with_linear_biases_is_refused():
    """TransformerLens 4.3 leaves ALiBi out: its logits differ by hundredths of the largest."""
    with pytest.raises(TvlensError, match="computes this FalconForCausalLM otherwise"):
        tv.load(_falcon(alibi=True))
    tv.load(_falcon(alibi=False))


@pytest.mark.parametrize("opened", ["folder", "model"])
def test_a_difference_is_found_however_a_model_is_opened(folder, monkeypatch, opened):
    source = str(folder) if opened == "folder" else hf.AutoModelForCausalLM.from_pretrained(folder)
    real = equivalence._tokens
    tv.load(source)
    calls = iter([0, 1])
    monkeypatch.setattr(equivalence, "_tokens", lambda m: real(m) + next(calls))
    if opened == "model":
        source = hf.AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(TvlensError, match="computes this LlamaForCausalLM otherwise"):
        tv.load(source)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_no_difference(folder, dtype):
    tv.load(str(folder), dtype=dtype)


def test_short_contexts_zero_heads_and_infinite_biases_are_no_difference():
    sizes = dict(n_layer=2, n_head=4, n_embd=32, vocab_size=128)
    tv.load(hf.GPT2LMHeadModel(hf.GPT2Config(n_positions=8, **sizes)))
    silent = hf.GPT2LMHeadModel(hf.GPT2Config(tie_word_embeddings=False, **sizes))
    silent.lm_head.weight.data.zero_()
    tv.load(silent)
    masked = hf.GPTJForCausalLM(hf.GPTJConfig(rotary_dim=4, **sizes))
    masked.lm_head.bias.data[120:] = -torch.inf
    tv.load(masked)


def test_an_architecture_that_is_not_known_is_one_line():
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=128)
    model = hf.BioGptForCausalLM(hf.BioGptConfig(intermediate_size=64, **sizes))
    with pytest.raises(TvlensError, match="cannot open BioGptForCausalLM"):
        tv.load(model)
