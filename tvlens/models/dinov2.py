"""DINOv2-small from an ONNX graph, as a Hugging Face ViT.

The two differ in LayerScale, a factor per dimension after each sublayer, which is folded into the
preceding weights, and in the position embeddings, trained at 518 px and resized to the image.
"""

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from .onnx import Node, read_onnx
from .processor import IMAGENET_MEAN, IMAGENET_STD

LAYERS, HEADS, WIDTH, PATCH = 12, 6, 384, 14

# Modules of a block: ONNX name -> Hugging Face name.
_LINEAR = {
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_SCALED = {"attention/output/dense": "layer_scale1", "mlp/fc2": "layer_scale2"}
_NORMS = {"norm1": "layernorm_before", "norm2": "layernorm_after"}


def build_vit(data: bytes, *, size: int = 224) -> Any:
    """Build a `ViTModel` for images of `size` by `size` pixels from the ONNX graph.

    Raises:
        TvlensError: the graph is not this model.
    """
    import transformers

    config = transformers.ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        image_size=size,
        patch_size=PATCH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        architectures=["ViTModel"],
    )
    model = transformers.ViTModel(config, add_pooling_layer=False)
    try:
        model.load_state_dict(_convert_weights(*read_onnx(data), size=size))
    except (KeyError, RuntimeError) as error:
        raise TvlensError(f"this ONNX graph is not that of DINOv2-small: {error}") from None
    return model.eval()


def save_vit(model: Any, folder: Path) -> None:
    """Write the model and its image preprocessor to a folder."""
    model.save_pretrained(folder)
    size = model.config.image_size
    preprocessor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))


def _convert_weights(
    weights: dict[str, Tensor], nodes: list[Node], *, size: int
) -> dict[str, Tensor]:
    # The exporter transposed the matrices and dropped their names; the operations have them.
    by_operation = {node.name: node.inputs for node in nodes}

    def weight_of(module: str) -> Tensor:
        inputs = by_operation[f"/backbone/encoder/{module}/MatMul"]
        return next(weights[name] for name in inputs if name in weights).T

    trunk = "backbone.embeddings"
    patches = f"{trunk}.patch_embeddings.projection"
    state = {
        "embeddings.cls_token": weights[f"{trunk}.cls_token"],
        "embeddings.position_embeddings": _position_embeddings(weights, by_operation, size),
        **_rename(weights, patches, "embeddings.patch_embeddings.projection"),
        **_rename(weights, "backbone.layernorm", "layernorm"),
    }
    for layer in range(LAYERS):
        ours, theirs = f"layers.{layer}", f"backbone.encoder.layer.{layer}"
        for old, new in _NORMS.items():
            state |= _rename(weights, f"{theirs}.{old}", f"{ours}.{new}")
        for old, new in _LINEAR.items():
            weight = weight_of(f"layer.{layer}/{old}")
            bias = weights[f"{theirs}.{old.replace('/', '.')}.bias"]
            if old in _SCALED:
                scale = weights[f"{theirs}.{_SCALED[old]}.lambda1"]
                weight, bias = scale[:, None] * weight, scale * bias
            state |= {f"{ours}.{new}.weight": weight, f"{ours}.{new}.bias": bias}
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _rename(weights: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.{part}": weights[f"{old}.{part}"] for part in ("weight", "bias")}


def _position_embeddings(
    weights: dict[str, Tensor], by_operation: dict[str, list[str]], size: int
) -> Float[Tensor, "1 position width"]:
    of_class = weights[by_operation["/backbone/embeddings/Concat_6"][0]]
    grid = weights[by_operation["/backbone/embeddings/Reshape_1"][0]]
    return torch.cat([of_class.reshape(1, 1, -1), resize_positions(grid, size // PATCH)], dim=1)


def resize_positions(grid: Float[Tensor, "1 old width"], side: int) -> Float[Tensor, "1 new width"]:
    """Resize the position embeddings of a square grid of patches to `side` by `side` patches."""
    old = round(grid.shape[1] ** 0.5)
    square = rearrange(grid, "1 (row column) width -> 1 width row column", row=old)
    square = torch.nn.functional.interpolate(
        square, size=(side, side), mode="bicubic", align_corners=False
    )
    return rearrange(square, "1 width row column -> 1 (row column) width")
