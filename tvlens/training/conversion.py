"""`to_transformer_lens`: trained weights as a TransformerLens model, with named hook points.

On TransformerLens 4 it is the native model behind a `TransformerBridge`. On 3.9 it is a
`HookedTransformer`, because the bridge of 3.9 ignores changes of the attention pattern.
"""

import types
import warnings
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import TvlensError
from .config import TransformerConfig
from .transformer import EPSILON, ROTARY_BASE, Transformer

Weights = Mapping[str, Tensor]


def to_transformer_lens(
    config: TransformerConfig, weights: Weights, *, name: str = "trained"
) -> Any:
    """Build a TransformerLens model that computes the same as `Transformer` with these weights.

    It reads tokens `Int[batch pos]`; the model of a regression reads vectors
    `Float[batch pos inputs+1]`, as `interleave_pairs` returns them.

    Args:
        config: the architecture.
        weights: the state dict of a `Transformer`; the model is on their device.
        name: name of the model in results.

    Raises:
        TvlensError: the weights are of another architecture.
    """
    weights = {key: value.detach().float() for key, value in weights.items()}
    try:
        Transformer(config).load_state_dict(weights)
    except RuntimeError as error:
        raise TvlensError(f"these weights do not fit {config}: {error}") from error
    try:
        from transformer_lens import HookedTransformer  # noqa: F401
    except ImportError:
        model = _build_native(config, weights)
    else:
        model = _build_hooked_transformer(config, weights)
    model.cfg.model_name = name
    return model.eval()


def _config_options(config: TransformerConfig) -> dict[str, Any]:
    """The architecture as options of TransformerLens' configurations."""
    return dict(
        n_layers=config.layers,
        d_model=config.d_model,
        n_heads=config.heads,
        d_head=config.d_head,
        d_mlp=config.d_mlp,
        n_ctx=config.context,
        d_vocab=config.d_in,
        d_vocab_out=config.d_out,
        act_fn=config.activation,
        normalization_type={"rms": "RMS", "layer": "LN"}[config.norm],
        positional_embedding_type={"learned": "standard"}.get(config.positions, config.positions),
        rotary_dim=config.d_head if config.positions == "rotary" else None,
        rotary_base=ROTARY_BASE,
        rotary_adjacent_pairs=True,
        eps=EPSILON,
    )


def _build_native(config: TransformerConfig, weights: Weights) -> Any:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformer_lens.model_bridge.sources.native import NativeModel

    bridge_config = TransformerBridgeConfig(**_config_options(config))
    native = NativeModel(bridge_config)
    if config.inputs:
        native.tok_embed = _VectorEmbedding(config)
        native.register_forward_pre_hook(_pass_vectors_as_inputs, with_kwargs=True)
    if not config.final_norm:
        native.ln_out = nn.Identity()
    native.load_state_dict(_rename_native_weights(weights))
    native.to(weights["unembed.weight"].device)
    model = build_bridge_from_module(native, "TransformerLensNative", tl_config=bridge_config)
    if not config.final_norm:
        # The bridge then calls the identity, instead of its own normalization.
        model.ln_final.use_native_layernorm_autograd = True
    return model


def _rename_native_weights(weights: Weights) -> Weights:
    """Rename weights as in the native model, which has separate queries, keys and values."""
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
    """Embedding of vectors, each a linear combination of the rows of the table."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.d_in, config.d_model)

    def forward(
        self, vectors: Float[Tensor, "batch pos d_in"]
    ) -> Float[Tensor, "batch pos d_model"]:
        return vectors.to(self.weight.dtype) @ self.weight


def _pass_vectors_as_inputs(module: nn.Module, args: tuple, options: dict) -> tuple[tuple, dict]:
    """Pass float tensors as inputs, which the bridge takes for outputs of the embedding."""
    if options.get("inputs_embeds") is not None:
        options["input_ids"] = options.pop("inputs_embeds")
    return args, options


def _build_hooked_transformer(config: TransformerConfig, weights: Weights) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    device = str(weights["unembed.weight"].device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of HookedTransformer itself
        model = HookedTransformer(HookedTransformerConfig(**_config_options(config), device=device))
    if not config.final_norm:
        model.ln_final = nn.Identity()
    model.load_state_dict(model.state_dict() | _rename_hooked_weights(config, weights))
    if config.inputs:
        _read_vectors(model)
    return model


def _rename_hooked_weights(config: TransformerConfig, weights: Weights) -> Weights:
    """Rename and reshape weights as in HookedTransformer: [head, input, output]."""
    renamed = {"embed.W_E": weights["embed.weight"], "unembed.W_U": weights["unembed.weight"].T}
    if config.positions == "learned":
        renamed["pos_embed.W_pos"] = weights["position.weight"]
    norms = {"ln_final": "final_norm"} if config.final_norm else {}
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        qkv = rearrange(
            weights[f"{block}.qkv.weight"],
            "(three head d_head) d_model -> three head d_model d_head",
            three=3,
            head=config.heads,
        )
        bias = rearrange(
            weights[f"{block}.qkv.bias"],
            "(three head d_head) -> three head d_head",
            three=3,
            head=config.heads,
        )
        for i, short in enumerate("QKV"):
            renamed |= {f"{block}.attn.W_{short}": qkv[i], f"{block}.attn.b_{short}": bias[i]}
        out = rearrange(
            weights[f"{block}.attn_out.weight"],
            "d_model (head d_head) -> head d_head d_model",
            head=config.heads,
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
        kinds = {"w": "weight", "b": "bias"} if config.norm == "layer" else {"w": "weight"}
        renamed |= {
            f"{target}.{short}": weights[f"{source}.{kind}"] for short, kind in kinds.items()
        }
    return renamed


def _read_vectors(model: Any) -> None:
    """Let the embedding read vectors, and the position embedding their number."""
    # A bound method, unlike a closure, uses the weights of a copy of the model.
    model.embed.forward = types.MethodType(_embed_vectors, model.embed)
    if hasattr(model, "pos_embed"):
        model.pos_embed.forward = types.MethodType(_embed_positions, model.pos_embed)


def _embed_vectors(embed: Any, vectors: Tensor) -> Tensor:
    weight: Tensor = embed.W_E
    return vectors.to(weight.dtype) @ weight


def _embed_positions(pos_embed: Any, vectors: Tensor, *rest: Any) -> Tensor:
    embedded: Tensor = type(pos_embed).forward(pos_embed, vectors[..., 0], *rest)
    return embedded
