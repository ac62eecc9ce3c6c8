"""DINOv2 from ONNX: a graph written by hand matches Hugging Face's DINOv2."""

import pytest
import torch
import transformers as hf

from tvlens import TvlensError
from tvlens.models import dinov2, onnx


def encode_varint(number):
    out = []
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def encode_field(number, content):
    if isinstance(content, int):
        return encode_varint(number << 3) + encode_varint(content)
    content = content.encode() if isinstance(content, str) else content
    return encode_varint(number << 3 | 2) + encode_varint(len(content)) + content


def encode_tensor(name, values):
    dims = b"".join(encode_field(1, n) for n in values.shape)
    raw = values.contiguous().numpy().tobytes()
    return encode_field(5, dims + encode_field(2, 1) + encode_field(8, name) + encode_field(9, raw))


def encode_node(name, *inputs):
    return encode_field(
        1,
        b"".join(encode_field(1, i) for i in inputs)
        + encode_field(2, name + "_out")
        + encode_field(3, name),
    )


@pytest.fixture
def tiny_dinov2(monkeypatch):
    """A random DINOv2 of two layers, and the ONNX file that PyTorch would export."""
    for name, value in dict(LAYERS=2, HEADS=2, WIDTH=16, PATCH=4).items():
        monkeypatch.setattr(dinov2, name, value)
    torch.manual_seed(0)
    config = hf.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=20, patch_size=4
    )
    model = hf.Dinov2Model(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    trunk = model.embeddings
    positions = trunk.position_embeddings.detach()
    patches = trunk.patch_embeddings.projection
    tensors = {
        "backbone.embeddings.cls_token": trunk.cls_token,
        "backbone.embeddings.patch_embeddings.projection.weight": patches.weight,
        "backbone.embeddings.patch_embeddings.projection.bias": patches.bias,
        "backbone.layernorm.weight": model.layernorm.weight,
        "backbone.layernorm.bias": model.layernorm.bias,
        "c1": positions[:, :1],
        "c2": positions[:, 1:],
    }
    graph = encode_node("/backbone/embeddings/Concat_6", "c1", "x")
    graph += encode_node("/backbone/embeddings/Reshape_1", "c2", "x")
    blocks = [m for m in model.modules() if type(m).__name__ == "Dinov2Layer"]
    for i, block in enumerate(blocks):
        prefix = f"backbone.encoder.layer.{i}"
        names = {k: v for k, v in block.named_parameters() if "norm" in k or "scale" in k}
        tensors |= {f"{prefix}.{k}": v for k, v in names.items()}
        linear = [m for m in block.modules() if isinstance(m, torch.nn.Linear)]
        by_name = {n: m for n, m in block.named_modules() if m in linear}
        for name, module in by_name.items():
            onnx_name = next(o for o, new in onnx_names(by_name).items() if new == name)
            tensors[f"{prefix}.{onnx_name.replace('/', '.')}.bias"] = module.bias
            tensors[f"w{i}{onnx_name}"] = module.weight.T
            graph += encode_node(
                f"/backbone/encoder/layer.{i}/{onnx_name}/MatMul", "x", f"w{i}{onnx_name}"
            )
    graph += b"".join(encode_tensor(name, value.detach()) for name, value in tensors.items())
    return model, encode_field(1, 7) + encode_field(7, graph)


def onnx_names(names):
    """ONNX name -> module name, for any version of transformers."""
    ours = ["query", "key", "value", "output/dense"]
    keys = [f"attention/attention/{k}" for k in ours[:3]] + ["attention/output/dense"]
    return dict(zip([*keys, "mlp/fc1", "mlp/fc2"], names, strict=True))


@pytest.mark.parametrize("size", [20, 12, 28])
def test_vit_matches_dinov2(tiny_dinov2, size):
    source, data = tiny_dinov2
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = source(images, output_hidden_states=True)
        actual = dinov2.build_vit(data, size=size)(images, output_hidden_states=True)
    for ours, theirs in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        actual.last_hidden_state, expected.last_hidden_state, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("cut", [1, 7, 50, 1000])
def test_truncated_file_is_refused(tiny_dinov2, cut):
    with pytest.raises(TvlensError, match="no ONNX model"):
        onnx.read_onnx(tiny_dinov2[1][:-cut])


def test_other_graphs_are_refused():
    graph = encode_field(7, encode_tensor("weight", torch.ones(2, 3)))
    assert torch.equal(onnx.read_onnx(graph)[0]["weight"], torch.ones(2, 3))
    with pytest.raises(TvlensError, match="not that of DINOv2-small"):
        dinov2.build_vit(graph)
    with pytest.raises(TvlensError, match="no ONNX model"):
        onnx.read_onnx(b"\x0fplain text, not a protocol buffer")
