"""Incomplete weights are refused by every loader."""

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import tvlens as tv
from tvlens import TvlensError
from tvlens.training.encoder import build_classifier

pytestmark = pytest.mark.no_arithmetic

# Of each kind of loading: a tensor whose loss would give random values.
TENSORS = {
    "gpt2": "transformer.h.1.mlp.c_fc.weight",
    "llama": "model.layers.2.mlp.up_proj.weight",
    "gemma3": "model.layers.0.self_attn.q_norm.weight",
    "bert": "cls.predictions.transform.dense.weight",
    "bert-bare": "encoder.layer.1.output.dense.bias",
    "bert-classifier": "classifier.weight",
    "vit": "0.layernorm_before.weight",
    "vit-classifier": "classifier.bias",
    "llava": "multi_modal_projector.linear_1.weight",
}


def save_without(name: str, folder, *suffixes: str) -> str:
    """Save a tiny model without the tensors that have these suffixes; return the folder."""
    torch.manual_seed(0)
    tiny._hugging_face(name).save_pretrained(folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    remaining = {key: value for key, value in tensors.items() if not key.endswith(suffixes)}
    assert len(remaining) == len(tensors) - len(suffixes)
    save_file(remaining, path, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize("name", TENSORS)
def test_load_names_a_missing_tensor(name, tmp_path):
    ends = TENSORS[name]
    folder = save_without(name, tmp_path, ends)
    with pytest.raises(TvlensError, match=rf"weights of .* are incomplete: they lack .*{ends}$"):
        tv.load(folder, tokenizer=tiny.tokenizer() if name == "llava" else None)


@pytest.mark.parametrize("name", [name for name in TENSORS if name != "llava"])
def test_load_takes_complete_weights(name, tmp_path):
    tiny._hugging_face(name).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert tv.load(str(tmp_path)).cfg.n_layers == 3


def test_load_leaves_out_a_missing_pooler(tmp_path):
    folder = save_without("bert-bare", tmp_path, "pooler.dense.weight", "pooler.dense.bias")
    model = tv.load(folder)
    assert model.original_model.pooler is None
    torch.manual_seed(0)
    complete = tv.load(tiny._hugging_face("bert-bare"))
    tokens = torch.tensor([[5, 9, 11]])
    states = [m.run_with_cache(tokens)[1]["blocks.2.hook_out"] for m in (model, complete)]
    assert torch.equal(*states)


def test_load_takes_tied_weights(tmp_path):
    """GPT-2 saves its embedding once, which is also its unembedding."""
    tiny._hugging_face("gpt2").save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    tv.load(str(tmp_path))


def test_build_classifier_refuses_an_incomplete_trunk(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    folder = save_without("bert-bare", tmp_path, "encoder.layer.1.output.dense.bias")
    with pytest.raises(TvlensError, match=r"they lack bert\.encoder\.layer\.1\.output"):
        build_classifier(folder, "text", ["a", "b"], readout="mean", seed=0)
