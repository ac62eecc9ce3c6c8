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
