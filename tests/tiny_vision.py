"""Tiny random vision-language models with their processors."""

import copy
import functools

import numpy as np
import tiny
import torch
import transformers as hf

from tvlens.models.processor import without_video_processor

_SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
_TEXT = _SIZE | dict(num_key_value_heads=2, vocab_size=384, max_position_embeddings=512)
_RGB = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def _tokenizer(*special: str, **named: str):
    """The small tokenizer with tokens of its own."""
    tokenizer = copy.deepcopy(tiny.tokenizer())
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _llava():
    tokenizer = _tokenizer("<image>")
    vision = dict(model_type="clip_vision_model", **_SIZE, image_size=16, patch_size=8)
    config = hf.LlavaConfig(
        vision_config=vision | dict(projection_dim=32),
        text_config=dict(model_type="llama", **_TEXT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    images = hf.CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
    )
    processor = hf.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return hf.LlavaForConditionalGeneration(config), processor


def _onevision():
    tokenizer = _tokenizer("<image>", "<video>")
    pins = [[16, 16], [16, 32], [32, 16]]
    config = hf.LlavaOnevisionConfig(
        vision_config=dict(model_type="siglip_vision_model", **_SIZE, image_size=16, patch_size=8),
        text_config=dict(model_type="qwen2", **_TEXT),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pins,
        vision_feature_select_strategy="full",
    )
    images = hf.LlavaOnevisionImageProcessorPil(
        size={"height": 16, "width": 16}, image_grid_pinpoints=pins, **_RGB
    )
    processor = without_video_processor(hf.LlavaOnevisionProcessor)(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=None,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )
    return hf.LlavaOnevisionForConditionalGeneration(config), processor


def _smolvlm():
    tiles = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2)]
    names = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer = _tokenizer(
        *names,
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
    )
    config = hf.Idefics3Config(
        vision_config=dict(**_SIZE, image_size=16, patch_size=4),
        text_config=hf.LlamaConfig(**_TEXT, pad_token_id=2),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=2,
    )
    images = hf.Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, **_RGB
    )
    processor = hf.Idefics3Processor(image_processor=images, tokenizer=tokenizer, image_seq_len=4)
    return hf.Idefics3ForConditionalGeneration(config), processor


def _qwen():
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _tokenizer(*names)
    image, video, start, end = (tokenizer.convert_tokens_to_ids(name) for name in names)
    config = hf.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=2,
            hidden_size=32,
            num_heads=4,
            intermediate_size=64,
            patch_size=4,
            spatial_merge_size=2,
            temporal_patch_size=2,
            window_size=16,
            fullatt_block_indexes=[1],
            out_hidden_size=32,
        ),
        text_config=_TEXT
        | dict(
            rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        ),
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    images = hf.Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 1024},
        **_RGB,
    )
    processor = without_video_processor(hf.Qwen2_5_VLProcessor)(
        image_processor=images, tokenizer=tokenizer, video_processor=None
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def _gemma():
    names = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    tokenizer = _tokenizer(
        *names,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    begin, end, soft = (tokenizer.convert_tokens_to_ids(name) for name in names)
    text = _TEXT | dict(head_dim=8, sliding_window=64)
    config = hf.Gemma3Config(
        vision_config=dict(**_SIZE, image_size=16, patch_size=4, vision_use_head=False),
        text_config=text | dict(layer_types=["sliding_attention", "full_attention"]),
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=soft,
    )
    images = hf.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}, **_RGB)
    processor = hf.Gemma3Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=4)
    model = hf.Gemma3ForConditionalGeneration(config)
    # It begins at zero, and every image would have the same states.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    return model, processor


def build_tiny_vlm(family="llama"):
    """A random tiny-vlm on a Llama or a Gemma 3, and its processor."""
    from tvlens import vlm
    from tvlens.vlm import checkpoint

    tokenizer = _tokenizer("<empty_output>")
    config = vlm.TinyVLMConfig(layers=(1, 2), tokens_per_image=2, hidden_size=16)
    vit = hf.ViTModel(hf.ViTConfig(**_SIZE, image_size=16, patch_size=4), add_pooling_layer=False)
    if family == "llama":
        model = vlm.MultimodalLlama(hf.LlamaConfig(**_TEXT))
    else:
        layers = dict(sliding_window=64, layer_types=["sliding_attention", "full_attention"])
        model = vlm.MultimodalGemma3(hf.Gemma3TextConfig(**_TEXT, head_dim=8, **layers))
    checkpoint.connect_vision(model, tokenizer, vit, config)
    return model, checkpoint.build_processor(model, tokenizer)


BUILDERS = {
    "llava": _llava,
    "onevision": _onevision,
    "smolvlm": _smolvlm,
    "qwen": _qwen,
    "gemma": _gemma,
    "tiny-vlm": build_tiny_vlm,
    "tiny-vlm-gemma": functools.partial(build_tiny_vlm, "gemma"),
}
NAMES = list(BUILDERS)


@functools.cache
def model(name: str):
    """Return a tiny random model with its processor, cached between calls."""
    import tvlens as tv

    torch.manual_seed(0)
    hf_model, processor = BUILDERS[name]()
    return tv.load(hf_model.eval(), processor=processor)


def random_image(seed: int, height: int = 16, width: int = 16) -> np.ndarray:
    """A random image, `uint8 [height, width, 3]`."""
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return values.astype(np.uint8)
