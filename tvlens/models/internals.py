"""Undocumented parts of TransformerLens and Transformers that tvlens uses.

They may change in any release, so pyproject.toml bounds the versions to those that are tested, and
a test resolves every entry of `INTERNALS` on the installed versions. Whatever is imported from
within TransformerLens must be listed here, which another test checks.

Four things cannot be looked up by name. Tests of models and of patching cover them:

- `block.__dict__["forward"]`: a block's forward is replaced on the instance to skip the block
  (`hooks.skip_blocks`), as is that of the unembedding to compute few columns
  (`hooks.restricted_vocabulary`). A skipped block returns a tuple where its caller unpacks one.
- Attributes of a `TransformerBridge`: `original_model`, `adapter.supports_kv_cache`,
  `adapter.supports_generation`, `cfg.tokenizer_appends_eos`, `cfg.is_multimodal`, a fresh
  `hook_dict` at every access; and `original_component` of its parts.
- `start_at_layer` with `past_kv_cache` on the `HookedTransformer` of TransformerLens 3.9.
- Layers of Transformers' `DynamicCache`, whose `keys` and `values` are cut and joined
  (patching/tree_attention.py), and `config._name_or_path`.
"""

import importlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Internal:
    """A part of another package, and its use in tvlens.

    Attributes:
        module: its module.
        name: its name there, with dots for attributes of classes.
        purpose: its use in tvlens.
    """

    module: str
    name: str
    purpose: str


_FACTORY = "transformer_lens.factories.architecture_adapter_factory"
_BRIDGE = "transformer_lens.model_bridge"
_COMPONENTS = "transformer_lens.model_bridge.generalized_components"

INTERNALS = (
    Internal(
        f"{_BRIDGE}.sources._bridge_builder",
        "build_bridge_from_module",
        "wrap a model that is already loaded, without a tokenizer from the hub",
    ),
    Internal(
        f"{_BRIDGE}.architecture_adapter",
        "ArchitectureAdapter._check_required_libraries",
        "open vision-language models without torchvision",
    ),
    Internal(f"{_BRIDGE}", "TransformerBridge", "open folders and hub ids"),
    Internal(f"{_BRIDGE}.sources.native", "NativeModel", "host models trained from scratch"),
    Internal("transformer_lens.config", "TransformerBridgeConfig", "describe those models"),
    Internal(
        f"{_FACTORY}",
        "ArchitectureAdapterFactory.register_adapter",
        "add encoders and the small vision-language model",
    ),
    Internal(f"{_FACTORY}", "SUPPORTED_ARCHITECTURES", "know which architectures need no adapter"),
    Internal(
        f"{_BRIDGE}.supported_architectures.bert",
        "BertArchitectureAdapter",
        "derive the adapter of other encoders",
    ),
    Internal(_COMPONENTS, "LinearBridge", "host poolers and heads of classifiers"),
    Internal(_COMPONENTS, "NormalizationBridge", "host the norm of a masked language model's head"),
    Internal(_COMPONENTS, "UnembeddingBridge", "host classifiers as unembeddings"),
    Internal(
        "transformer_lens.supported_models",
        "OFFICIAL_MODEL_NAMES",
        "tell hub ids from mistyped names",
    ),
    Internal(
        "transformer_lens.cache.key_value_cache",
        "TransformerLensKeyValueCache",
        "resume runs of a HookedTransformer",
    ),
    Internal(
        "transformers",
        "AutoModelForSequenceClassification._model_mapping",
        "find the classifier of an encoder of texts",
    ),
    Internal(
        "transformers",
        "AutoModelForImageClassification._model_mapping",
        "find the classifier of an encoder of images",
    ),
    Internal(
        "transformers.models.auto.processing_auto",
        "PROCESSOR_MAPPING",
        "put a processor together without its video part",
    ),
    Internal(
        "transformers",
        "ProcessorMixin.check_argument_for_proper_class",
        "put a processor together without its video part",
    ),
    Internal(
        "transformers",
        "ProcessorMixin.get_processor_dict",
        "put a processor together without its video part",
    ),
    Internal(
        "transformers",
        "ProcessorMixin.from_args_and_dict",
        "put a processor together without its video part",
    ),
)


def missing_internals() -> list[Internal]:
    """List the entries of `INTERNALS` that the installed versions lack."""
    return [part for part in INTERNALS if not _exists(part)]


def _exists(part: Internal) -> bool:
    try:
        value = importlib.import_module(part.module)
    except ImportError:
        return False
    for name in part.name.split("."):
        if not hasattr(value, name):
            return False
        value = getattr(value, name)
    return True
