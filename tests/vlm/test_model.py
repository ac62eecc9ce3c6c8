import pytest
import tiny_vision
import torch

from tvlens import TvlensError
from tvlens.vlm import TinyVLMConfig


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_soft_tokens_replace_placeholder_embeddings(family):
    model, processor = tiny_vision.build_tiny_vlm(family)
    images = [tiny_vision.random_image(i) for i in (0, 1)]
    pixel_values = processor.image_processor(images)
    soft_tokens = model.soft_tokens(pixel_values)
    outputs = model.vision_encoder.vit(pixel_values, output_hidden_states=True)
    joined = torch.cat([outputs.hidden_states[1], outputs.hidden_states[2]], dim=-1)
    states = torch.stack([joined[:, 0], joined[:, 1:].mean(1)], dim=1)  # class token, one cell
    torch.testing.assert_close(soft_tokens, model.projector(states), atol=1e-5, rtol=1e-4)
    placeholder = model.placeholder_id
    ids = torch.tensor([[5, placeholder, placeholder, 6], [placeholder, placeholder, 7, 8]])
    embeddings = model.get_input_embeddings()(ids)
    embeddings[0, 1:3], embeddings[1, :2] = soft_tokens[0], soft_tokens[1]
    with torch.no_grad():
        expected = model(inputs_embeds=embeddings).logits
        torch.testing.assert_close(model(ids, pixel_values=pixel_values).logits, expected)
    with pytest.raises(
        TvlensError, match=r"1 images make 2 soft tokens, .* contain 4 placeholders"
    ):
        model(ids, pixel_values=pixel_values[:1])


def test_forward_without_images_is_the_language_model():
    model, _ = tiny_vision.build_tiny_vlm()
    ids = torch.tensor([[5, 6, 7]])
    embeddings = model.get_input_embeddings()(ids)
    torch.testing.assert_close(model(ids).logits, model(inputs_embeds=embeddings).logits)


def test_every_distinct_image_is_encoded_once(monkeypatch):
    model, processor = tiny_vision.build_tiny_vlm()
    images = [tiny_vision.random_image(i) for i in (0, 1, 0)]
    pixel_values = processor.image_processor(images)
    counts, forward = [], model.vision_encoder.forward

    def counting(pixel_values):
        counts.append(len(pixel_values))
        return forward(pixel_values)

    monkeypatch.setattr(model.vision_encoder, "forward", counting)
    soft_tokens = model.soft_tokens(pixel_values)
    torch.testing.assert_close(soft_tokens[0], soft_tokens[2])
    torch.testing.assert_close(model.soft_tokens(pixel_values[1:]), soft_tokens[1:])
    assert counts == [2]


def test_config_needs_a_placeholder_for_other_language_models():
    with pytest.raises(TvlensError, match=r"no placeholder is known for minilm-l6: give placehol"):
        TinyVLMConfig(language_model="minilm-l6")
    assert TinyVLMConfig(language_model="minilm-l6", placeholder="[unused1]").placeholder
