import dataclasses

import pytest
import tiny_vision
import torch

from tvlens import ImagePack
from tvlens.tasks import Template, plain
from tvlens.vlm.captions import COPIED_WORDS, TEMPLATES, CaptionPrompt, is_named, name_logits


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_is_named_matches_token_by_token_decoding(template, family):
    """The reference decodes whole texts token by token without a cache."""
    model, processor = tiny_vision.build_tiny_vlm(family)
    tokenizer, embed = processor.tokenizer, model.get_input_embeddings()
    soft_tokens = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    prompt, written = CaptionPrompt.of(model, tokenizer, template), Template.of(template)
    copies = "".join(written.demonstration.format(x=word, y=word) for word in COPIED_WORDS)
    prefix = plain(tokenizer, copies + written.prefix)
    decoded = []
    for image, length in zip(soft_tokens, (2, 4, 3), strict=True):
        inputs, ids = torch.cat([embed(torch.tensor(prefix)), image]), []
        inputs = torch.cat([inputs, embed(torch.tensor(prompt.suffix))])
        for _ in range(length):
            ids.append(int(model(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
            inputs = torch.cat([inputs, embed(torch.tensor(ids[-1:]))])
        decoded.append(ids)
    for ids, image in zip(decoded, soft_tokens, strict=True):
        ended = dataclasses.replace(prompt, end=ids[-1])
        assert is_named(model, image[None], ended, [ids[:-1]]).tolist() == [True]
        other = [*ids[:-2], ids[-2] ^ 1]
        assert is_named(model, image[None], ended, [other]).tolist() == [False]
    # Padding to the length of the other rows changes nothing.
    names = [ids[:-1] for ids in decoded]
    logits, _, owners = name_logits(model, soft_tokens, prompt, names)
    for i in range(3):
        alone = name_logits(model, soft_tokens[i : i + 1], prompt, names[i : i + 1])[0]
        torch.testing.assert_close(logits[owners == i], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("template", TEMPLATES)
def test_end_of_a_name_is_a_line_end(template):
    model, processor = tiny_vision.build_tiny_vlm()
    prompt = CaptionPrompt.of(model, processor.tokenizer, template)
    assert processor.tokenizer.decode([prompt.end]).startswith("\n")


def test_copied_words_are_no_packaged_category():
    assert not set(COPIED_WORDS) & set(ImagePack.load().names)
