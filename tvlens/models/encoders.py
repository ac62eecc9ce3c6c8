"""BERT-like encoders without an adapter in TransformerLens: bare models and classifiers.

Its BERT adapter maps the blocks, which are the same in the whole family; the name of the trunk and
the head on top differ. Registered with TransformerLens' own factory,
these models become a `TransformerBridge` like any other, with the same hook names. A classifier's
last layer is `unembed`; it reads one pooled state per input, not one per position.
"""

import functools
from typing import Any

import torch

# Architectures whose blocks are BERT's, by the name that Hugging Face gives them.
_FAMILIES = ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra")
_KINDS = ("Model", "ForSequenceClassification")
ARCHITECTURES = (
    *(family + kind for family in _FAMILIES for kind in _KINDS),
    "RobertaForMaskedLM",
    "BertForMeanClassification",
    "RobertaForMeanClassification",
)


@functools.cache
def register_adapters() -> frozenset[str]:
    """Register adapters of the architectures for which TransformerLens has none.

    Returns:
        Names of the architectures that were registered.
    """
    from transformer_lens.factories.architecture_adapter_factory import (
        SUPPORTED_ARCHITECTURES,
        ArchitectureAdapterFactory,
    )

    missing = frozenset(ARCHITECTURES) - frozenset(SUPPORTED_ARCHITECTURES)
    for name in missing:
        ArchitectureAdapterFactory.register_adapter(name, _build_adapter())
    return missing


def supported_architectures() -> frozenset[str]:
    """List the architectures that tvlens or TransformerLens can open."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    return register_adapters() | frozenset(SUPPORTED_ARCHITECTURES)


def model_class(architecture: str) -> type:
    """Return the class of an architecture: Hugging Face's, or a mean-pooling classifier."""
    import transformers

    from .mean_pooling import MEAN_CLASSIFIERS

    return MEAN_CLASSIFIERS.get(architecture) or getattr(transformers, architecture)


@functools.cache
def _build_adapter() -> type:
    from transformer_lens.model_bridge.supported_architectures.bert import BertArchitectureAdapter

    class EncoderAdapter(BertArchitectureAdapter):
        """Adapter of BERT's blocks, with the trunk and the head of the loaded model."""

        def prepare_model(self, hf_model: Any) -> None:
            trunk = hf_model.base_model
            prefix = "" if trunk is hf_model else hf_model.base_model_prefix + "."
            mapping = self.component_mapping
            for head in ("mlm_head", "unembed", "ln_final"):
                del mapping[head]
            for part in mapping.values():
                part.name = prefix + part.name.removeprefix("bert.")
            mapping |= _map_pooler(trunk, prefix) | _map_head(hf_model, self.cfg)

    return EncoderAdapter


def set_context_length(hf_model: Any, cfg: Any) -> None:
    """Set `cfg.n_ctx` to the number of usable positions of an encoder.

    RoBERTa reserves positions up to the padding token's; DeiT has one token more than ViT.
    """
    embeddings = getattr(hf_model.base_model, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    if isinstance(table, torch.Tensor) and table.ndim == 3:
        cfg.n_ctx = table.shape[1]
    elif isinstance(getattr(table, "original_component", table), torch.nn.Embedding):
        reserved = 0 if table.padding_idx is None else table.padding_idx + 1
        cfg.n_ctx = table.num_embeddings - reserved


def _map_pooler(trunk: Any, prefix: str) -> dict[str, Any]:
    from transformer_lens.model_bridge.generalized_components import LinearBridge

    if getattr(trunk, "pooler", None) is None:
        return {}
    return {"pooler": LinearBridge(name=f"{prefix}pooler.dense")}


def _map_head(hf_model: Any, cfg: Any) -> dict[str, Any]:
    """Map the components after the last block of a classifier or a masked language model."""
    from transformer_lens.model_bridge.generalized_components import (
        LinearBridge,
        NormalizationBridge,
        UnembeddingBridge,
    )

    if hasattr(hf_model, "lm_head"):
        norm = NormalizationBridge(
            name="lm_head.layer_norm", config=cfg, use_native_layernorm_autograd=True
        )
        return {
            "mlm_head": LinearBridge(name="lm_head.dense"),
            "ln_final": norm,
            "unembed": UnembeddingBridge(name="lm_head.decoder"),
        }
    if not hasattr(hf_model, "classifier"):
        return {}
    if hasattr(hf_model.classifier, "out_proj"):
        return {
            "head_dense": LinearBridge(name="classifier.dense"),
            "unembed": UnembeddingBridge(name="classifier.out_proj"),
        }
    return {"unembed": UnembeddingBridge(name="classifier")}
