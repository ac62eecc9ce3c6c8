"""Tiny random models of many architectures, and a small tokenizer."""

import copy
import functools
import tempfile
from importlib import metadata

import torch
import transformers as hf

HAS_HOOKED = metadata.version("transformer-lens").startswith("3.")

CAUSAL = ["gpt2", "llama", "neox", "qwen3", "gemma3", "llava", "native"]
CAUSAL += ["hooked"] if HAS_HOOKED else []
ENCODERS = ["bert", "vit"]

_FOLDER = tempfile.TemporaryDirectory()

_SIZE = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64)
_TEXT = dict(**_SIZE, vocab_size=384, max_position_embeddings=96)
_GQA = dict(**_TEXT, num_key_value_heads=2)
_CLASSES = dict(num_labels=5)
_VISION = dict(**_SIZE, image_size=16, patch_size=4)

# Encoders and classifiers; those of one family have the same blocks.
KINDS = {
    "bert-bare": lambda: hf.BertModel(hf.BertConfig(**_TEXT)),
    "bert-classifier": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_TEXT, **_CLASSES)),
    "roberta-bare": lambda: hf.RobertaModel(hf.RobertaConfig(**_TEXT), add_pooling_layer=False),
    "roberta-masked": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**_TEXT)),
    "roberta-classifier": lambda: hf.RobertaForSequenceClassification(
        hf.RobertaConfig(**_TEXT, **_CLASSES)
    ),
    "electra-classifier": lambda: hf.ElectraForSequenceClassification(
        hf.ElectraConfig(**_TEXT, **_CLASSES, embedding_size=16)
    ),
    "vit-classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(**_VISION, **_CLASSES)),
    "deit-classifier": lambda: hf.DeiTForImageClassification(hf.DeiTConfig(**_VISION, **_CLASSES)),
}


def _hugging_face(name: str) -> hf.PreTrainedModel:
    if name == "gpt2":
        sizes = dict(n_layer=3, n_head=4, n_embd=32, n_positions=96, vocab_size=384)
        return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes))
    if name == "llama":
        return hf.LlamaForCausalLM(hf.LlamaConfig(**_GQA))
    if name == "neox":
        return hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**_TEXT))
    if name == "mistral":  # a window on every layer
        return hf.MistralForCausalLM(hf.MistralConfig(**_GQA, sliding_window=5))
    if name == "bloom":  # its positions come from the mask
        return hf.BloomForCausalLM(
            hf.BloomConfig(vocab_size=384, hidden_size=32, n_layer=3, n_head=4)
        )
    if name == "qwen3":
        return hf.Qwen3ForCausalLM(hf.Qwen3Config(**_GQA, head_dim=8))
    if name == "gemma3":
        kinds = ["sliding_attention", "sliding_attention", "full_attention"]
        sizes = _TEXT | dict(num_key_value_heads=1, head_dim=8)
        return hf.Gemma3ForCausalLM(
            hf.Gemma3TextConfig(**sizes, sliding_window=6, layer_types=kinds)
        )
    if name == "bert":
        return hf.BertForMaskedLM(hf.BertConfig(**_TEXT))
    if name == "vit":
        return hf.ViTModel(hf.ViTConfig(**_SIZE, image_size=16, patch_size=4))
    if name in KINDS:
        return KINDS[name]()
    if name == "llava":
        vision = dict(model_type="clip_vision_model", **_SIZE, image_size=16, patch_size=8)
        config = hf.LlavaConfig(
            vision_config=vision | dict(projection_dim=32),
            text_config=dict(model_type="llama", **_GQA),
            image_token_index=383,
        )
        return hf.LlavaForConditionalGeneration(config)
    raise KeyError(name)


@functools.cache
def model(name: str, processed: bool = False):
    """Return a tiny random model, cached between calls; only change weights of a `copied` one."""
    import tvlens as tv

    torch.manual_seed(0)
    if name == "native":
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        sizes = dict(d_model=32, d_head=8, n_heads=4, n_layers=3, n_ctx=96, d_vocab=384, d_mlp=64)
        source = TransformerBridge.boot_native(
            TransformerBridgeConfig(**sizes, act_fn="gelu", normalization_type="LN")
        )
    elif name == "hooked":
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        sizes = dict(d_model=32, d_head=8, n_heads=4, n_layers=3, n_ctx=96, d_vocab=384, d_mlp=64)
        source = HookedTransformer(
            HookedTransformerConfig(
                **sizes, act_fn="gelu", normalization_type="LN", device="cpu", seed=0
            )
        )
    else:
        source = _hugging_face(name)
    loaded = tv.load(source, processed=processed).eval()
    if name not in ENCODERS and name not in KINDS and getattr(loaded, "tokenizer", None) is None:
        give_tokenizer(loaded)
    return loaded


def copied(loaded):
    """Return a copy of a model that may be changed."""
    held = [value for module in loaded.modules() for value in vars(module).values()]
    left = [value for value in held if isinstance(value, torch.Tensor) and not value.is_leaf]
    return copy.deepcopy(loaded, {id(tensor): tensor.detach() for tensor in left})


@functools.cache
def in_float64(loaded):
    """Return a copy in float64, for differences below float32 rounding."""
    twin = copied(loaded).double()
    twin.cfg.dtype = torch.float64
    return twin


def give_tokenizer(loaded) -> None:
    """Attach the small tokenizer to a model, as loaders do."""
    if hasattr(loaded, "set_tokenizer"):
        loaded.set_tokenizer(tokenizer())
    else:
        loaded.tokenizer = tokenizer()


@functools.cache
def tokenizer():
    """A byte-pair tokenizer of 320 tokens, trained on a few words; words become several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    raw = Tokenizer(models.BPE(unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    text = "Q: cat\nA: cats\n\nQ: dog\nA: dogs\n\nred -> rouge\ngreen -> vert\nbus: buses\n" * 4
    raw.train_from_iterator(
        [text],
        trainers.BpeTrainer(
            vocab_size=320,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<unk>", "<s>", "</s>"],
            show_progress=False,
        ),
    )
    fast = hf.PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    # HookedTransformer reads a tokenizer again from the folder it came from.
    fast.save_pretrained(_FOLDER.name)
    return hf.AutoTokenizer.from_pretrained(_FOLDER.name)


def shows_only(loaded, site: str) -> bool:
    """TransformerLens 3.9's native models compute patterns but do not read them back."""
    return HAS_HOOKED and site == "pattern" and loaded is model("native")


def ragged(name: str, lengths=(5, 11, 8)) -> object:
    """Random inputs of unequal lengths for a text model, or images for a vision model."""
    generator = torch.Generator().manual_seed(1)
    if name.startswith(("vit", "deit")):
        return torch.randn(len(lengths), 3, 16, 16, generator=generator)
    return [torch.randint(3, 120, (n,), generator=generator).tolist() for n in lengths]
