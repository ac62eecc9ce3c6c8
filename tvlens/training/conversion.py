"""`to_transformer_lens`: trained weights as a TransformerLens model, with named hook points.

On TransformerLens 4 that is its native model behind a `TransformerBridge`. On 3.9 it is a
`HookedTransformer`, because the attention pattern that the bridge of 3.9 shows is not read back.
"""

import types
import warnings
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import TvlensError
from .shape import Shape
from .transformer import EPSILON, ROTARY_BASE, Transformer

Weights = Mapping[str, Tensor]


def to_transformer_lens(shape: Shape, weights: Weights, *, name: str = "trained") -> Any:
    """A TransformerLens model that computes what `Transformer` computes with these weights.

    It reads tokens `Int[batch pos]`; the model of a regression reads vectors
    `Float[batch pos inputs+1]`, as `interleaved` lays them out.

    Args:
        weights: the state dict of a `Transformer` of this shape; the model is where they are.
        name: what the model is called in results.

    Raises:
        TvlensError: the weights are not of this shape.
    """
    weights = {key: value.detach().float() for key, value in weights.items()}
    try:
        Transformer(shape).load_state_dict(weights)
    except RuntimeError as error:
        raise TvlensError(f"these weights do not fit {shape}: {error}") from error
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        model = _build_native(shape, weights)
    else:
        model = _build_hooked_transformer(shape, weights)
    model.cfg.model_name = name
    return model.eval()


def _config_options(shape: Shape) -> dict[str, Any]:
    """What the configurations of both models call the shape."""
    return dict(
        n_layers=shape.layers,
        d_model=shape.d_model,
        n_heads=shape.heads,
        d_head=shape.d_head,
        d_mlp=shape.d_mlp,
        n_ctx=shape.context,
        d_vocab=shape.d_in,
        d_vocab_out=shape.d_out,
        act_fn=shape.activation,
        normalization_type={"rms": "RMS", "layer": "LN"}[shape.norm],
        positional_embedding_type={"learned": "standard"}.get(shape.positions, shape.positions),
        rotary_dim=shape.d_head if shape.positions == "rotary" else None,
        rotary_base=ROTARY_BASE,
        rotary_adjacent_pairs=True,
        eps=EPSILON,
    )


def _build_native(shape: Shape, weights: Weights) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.native import NativeModel

    config = TransformerBridgeConfig(**_config_options(shape))
    native = NativeModel(config)
    if shape.inputs:
        native.tok_embed = _VectorEmbedding(shape)
        native.register_forward_pre_hook(_pass_vectors_as_inputs, with_kwargs=True)
    if not shape.final_norm:
        native.ln_out = nn.Identity()
    native.load_state_dict(_rename_native_weights(shape, weights))
    native.to(weights["unembed.weight"].device)
    model = build_bridge_from_module(native, "TransformerLensNative", tl_config=config)
    if not shape.final_norm:
        # The bridge then passes the state through, instead of norming it on its own.
        model.ln_final.use_native_layernorm_autograd = True
    return model


def _rename_native_weights(shape: Shape, weights: Weights) -> Weights:
    """The weights by the names of the native model, whose queries, keys and values are apart."""
    names = {"embed": "tok_embed", "position": "pos", "final_norm": "ln_out", "unembed": "head"}
    inside = {"norm1": "ln1", "norm2": "ln2", "attn_out": "attn.o"}
    inside |= {"mlp_in": "mlp.fc_in", "mlp_out": "mlp.fc_out"}
    renamed = {}
    for key, value in weights.items():
        *block, part, kind = key.split(".")
        if part == "qkv":
            for short, piece in zip("qkv", value.chunk(3), strict=True):
                renamed[f"layers.{block[1]}.attn.{short}.{kind}"] = piece
        elif block:
            renamed[f"layers.{block[1]}.{inside[part]}.{kind}"] = value
        else:
            renamed[f"{names[part]}.{kind}"] = value
    return renamed


class _VectorEmbedding(nn.Embedding):
    """An embedding that reads vectors: each is a mixture of the rows of the table."""

    def __init__(self, shape: Shape) -> None:
        super().__init__(shape.d_in, shape.d_model)

    def forward(
        self, vectors: Float[Tensor, "batch pos d_in"]
    ) -> Float[Tensor, "batch pos d_model"]:
        return vectors @ self.weight


def _pass_vectors_as_inputs(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    """The bridge takes every float tensor for states behind the embedding: say what they are."""
    if options.get("inputs_embeds") is not None:
        options["input_ids"] = options.pop("inputs_embeds")
    return args, options


def _build_hooked_transformer(shape: Shape, weights: Weights) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    device = str(weights["unembed.weight"].device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of HookedTransformer itself
        model = HookedTransformer(HookedTransformerConfig(**_config_options(shape), device=device))
    if not shape.final_norm:
        model.ln_final = nn.Identity()
    model.load_state_dict(model.state_dict() | _rename_hooked_weights(shape, weights))
    if shape.inputs:
        _read_vectors(model)
    return model


def _rename_hooked_weights(shape: Shape, weights: Weights) -> Weights:
    """The weights in the layout of HookedTransformer: heads apart, inputs before outputs."""
    renamed = {"embed.W_E": weights["embed.weight"], "unembed.W_U": weights["unembed.weight"].T}
    if shape.positions == "learned":
        renamed["pos_embed.W_pos"] = weights["position.weight"]
    norms = {"ln_final": "final_norm"} if shape.final_norm else {}
    for layer in range(shape.layers):
        block = f"blocks.{layer}"
        qkv = rearrange(
            weights[f"{block}.qkv.weight"],
            "(three head d_head) d_model -> three head d_model d_head",
            three=3,
            head=shape.heads,
        )
        bias = rearrange(
            weights[f"{block}.qkv.bias"],
            "(three head d_head) -> three head d_head",
            three=3,
            head=shape.heads,
        )
        for i, short in enumerate("QKV"):
            renamed |= {f"{block}.attn.W_{short}": qkv[i], f"{block}.attn.b_{short}": bias[i]}
        out = rearrange(
            weights[f"{block}.attn_out.weight"],
            "d_model (head d_head) -> head d_head d_model",
            head=shape.heads,
        )
        renamed |= {
            f"{block}.attn.W_O": out,
            f"{block}.attn.b_O": weights[f"{block}.attn_out.bias"],
        }
        for side in ("in", "out"):
            renamed[f"{block}.mlp.W_{side}"] = weights[f"{block}.mlp_{side}.weight"].T
            renamed[f"{block}.mlp.b_{side}"] = weights[f"{block}.mlp_{side}.bias"]
        norms |= {f"{block}.ln1": f"{block}.norm1", f"{block}.ln2": f"{block}.norm2"}
    for target, source in norms.items():
        kinds = {"w": "weight", "b": "bias"} if shape.norm == "layer" else {"w": "weight"}
        renamed |= {
            f"{target}.{short}": weights[f"{source}.{kind}"] for short, kind in kinds.items()
        }
    return renamed


def _read_vectors(model: Any) -> None:
    """Let the embedding read vectors, and the positions count them rather than their entries."""
    # Bound methods, unlike closures, follow a copy of the model to its own weights.
    model.embed.forward = types.MethodType(_embed_vectors, model.embed)
    if hasattr(model, "pos_embed"):
        model.pos_embed.forward = types.MethodType(_embed_positions, model.pos_embed)


def _embed_vectors(embed: Any, vectors: Tensor) -> Tensor:
    return vectors @ embed.W_E


def _embed_positions(pos_embed: Any, vectors: Tensor, *rest: Any) -> Tensor:
    return type(pos_embed).forward(pos_embed, vectors[..., 0], *rest)
