import copy
import sys

import pytest
import tiny_vision
import torch

import tvlens as tv
from tvlens import Task, TvlensError
from tvlens.models.forward import Batch, logits_at
from tvlens.patching.engines import PatchGroup, full_forward
from tvlens.patching.grid import SweptSites
from tvlens.patching.setup import prepare_patching
from tvlens.tasks import TEMPLATES, build, contexts

PAIRS = [("cat", "cats"), ("dog", "dogs"), ("bus", "buses"), ("red", "reds"), ("green", "greens")]
PAIRS += [("cow", "cows"), ("sun", "suns"), ("toe", "toes")]
TASK = Task(
    "plural",
    PAIRS,
    images={x: tiny_vision.random_image(i, 16 + 8 * (i % 2)) for i, (x, _) in enumerate(PAIRS)},
)


@pytest.fixture(params=tiny_vision.NAMES)
def model(request):
    return tiny_vision.model(request.param)


def make_mixed_prompts(model):
    """Prompts of different lengths and numbers of images; one has none."""
    image, text = ([TASK.shown(pair, mode) for pair in PAIRS] for mode in ("image", "text"))
    shots = [([image[0], text[1]], image[2]), ([text[3]], image[4]), ([], image[1])]
    shots += [([text[0]], text[1])]
    return [build(model.processor, TEMPLATES["qa"], s, *q) for s, q in shots]


def reference_logits(name, prompt):
    """Logits of Hugging Face's own model at the last position."""
    torch.manual_seed(0)
    hf_model, processor = tiny_vision.BUILDERS[name]()
    ids = torch.tensor([prompt.tokens])
    options = {}
    if prompt.images:
        images = [[image.read_pixels() for image in prompt.images]]
        options = dict(
            processor(
                text=[prompt.text], images=images, add_special_tokens=False, return_tensors="pt"
            )
        )
        shape = options.pop("input_ids").shape
        options.pop("attention_mask")
        for key, value in options.items():
            if value.shape == shape:
                options[key] = torch.nn.functional.pad(value, (1, 0))
    with torch.no_grad():
        return hf_model.eval()(input_ids=ids, **options).logits[0, -1]


@pytest.mark.parametrize("name", tiny_vision.NAMES)
def test_prompts_of_unequal_length_match_hugging_face(name):
    model = tiny_vision.model(name)
    prompts = make_mixed_prompts(model)
    batch = Batch.of(model, prompts)
    logits = logits_at(model, batch, batch.positions(-1))[:, 0]
    expected = torch.stack([reference_logits(name, prompt) for prompt in prompts])
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    text_only = Batch.of(model, prompts, process_images=False)
    without_images = logits_at(model, text_only, batch.positions(-1))[:, 0]
    changed = (logits - without_images).abs().amax(-1) > 1e-4
    assert changed.tolist() == [True, True, True, False]


def test_collect_of_a_batch_matches_single_prompts(model):
    prompts = make_mixed_prompts(model)
    together = tv.collect(model, prompts, ["resid_post", "z"], batch_size=3, progress=False)
    for row, prompt in enumerate(prompts):
        alone = tv.collect(model, [prompt], ["resid_post", "z"], progress=False)
        for site, states in alone.items():
            torch.testing.assert_close(
                together[site][row, : len(prompt)], states[0], atol=1e-5, rtol=1e-4
            )


def test_extract_averages_states_of_image_prompts(model):
    vector = tv.extract(model, TASK, shots=2, contexts=3, modality="image", query="text")
    assert vector.meta["modality"] == "image" and vector.meta["query"] == "text"
    sampled = contexts(TASK, shots=2, count=3, seed=0)
    built = [
        build(model.processor, TEMPLATES["qa"], [TASK.shown(p, "image") for p in s], *q)
        for s, q in sampled
    ]
    states = tv.collect(model, built, "resid_post", positions=-1, progress=False)
    wanted = states.stack("resid_post")[:, :, 0].mean(1)
    torch.testing.assert_close(vector.values, wanted, atol=1e-5, rtol=1e-4)
    other = tv.extract(model, TASK, shots=2, contexts=3)
    assert not torch.allclose(vector.values, other.values, atol=1e-3)


def make_image_queries(model, items):
    """One prompt per item: a text demonstration and an image query."""
    shots = [TASK.shown(PAIRS[1], "text")]
    queries = [TASK.shown(PAIRS[i], "image")[0] for i in items]
    return [build(model.processor, TEMPLATES["arrow"], shots, query) for query in queries]


@pytest.mark.parametrize("site, positions", [("resid_post", [5, -1]), ("z", -1)])
def test_patch_of_image_prompts_matches_full_forward(model, site, positions):
    """Prompts that differ in their images only."""
    sides = [make_image_queries(model, side) for side in ((0, 4), (2, 6))]
    metric = tv.logit_difference([5, 6], [7, 8])
    result = tv.patch(model, *sides, site=site, positions=positions, metric=metric)
    sites = SweptSites(site, positions=positions)
    setup = prepare_patching(model, *sides, sites, metric=metric, seed=0)
    patches = setup.grid.patches
    group = PatchGroup(patches, [setup.source_part(patch) for patch in patches])
    logits = full_forward(model, setup.base, group)
    wanted = torch.stack([setup.measure(patched)[0] for patched in logits])
    torch.testing.assert_close(result.values.flatten(0, -2), wanted, atol=1e-5, rtol=1e-4)
    assert float((result.values - result.baseline).abs().max()) > 1e-6


def test_patch_of_the_last_state_gives_the_clean_logits(model):
    sides = [make_image_queries(model, [i]) for i in (0, 2)]
    metric = tv.logit_difference([5], [7])
    result = tv.patch(model, *sides, site="resid_post", positions=-1, metric=metric)
    batch = Batch.of(model, sides[0])
    clean = metric(logits_at(model, batch, batch.positions(-1)))
    torch.testing.assert_close(result.values[-1], clean, atol=1e-5, rtol=1e-4)
    with pytest.raises(TvlensError, match="the same prompts"):
        tv.patch(model, sides[0], sides[0], site="z", positions=-1, metric=metric)


def test_evaluate_transfers_between_text_and_images():
    model = tiny_vision.model("tiny-vlm")
    parts = [TASK.subset(rows) for rows in ([0, 1, 2], [3, 4], [5, 6, 7])]
    other = Task("shout", [(x, x.upper()) for x, _ in PAIRS])
    wrong = tv.extract(model, other, shots=2, contexts=2)
    for modality, query in (("text", "image"), ("image", "text")):
        vector = tv.extract(model, parts[0], shots=2, contexts=2, modality=modality)
        options = dict(validation=parts[1], test=parts[2], wrong=wrong, modality=query)
        report = tv.evaluate(model, vector, demonstrations=parts[0], **options)
        assert report.meta["modality"] == query
        assert set(report.controls) >= {"random", "wrong_task"}
    with pytest.raises(TvlensError, match="give demonstrations="):
        tv.evaluate(model, vector, **options)
    with pytest.raises(TvlensError, match="supports no images"):
        tv.extract(model, parts[0], method="in-context", shots=2, contexts=2, modality="image")


@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_load_opens_a_folder_with_its_processor(name, tmp_path):
    torch.manual_seed(0)
    hf_model, processor = tiny_vision.BUILDERS[name]()
    hf_model.save_pretrained(tmp_path)
    for part in (processor.image_processor, processor.tokenizer):
        part.save_pretrained(tmp_path)
    if name == "llava":  # one without a video processor cannot save itself
        processor.save_pretrained(tmp_path)
    logits = []
    for loaded in (tv.load(tmp_path), tiny_vision.model(name)):
        batch = Batch.of(loaded, make_mixed_prompts(loaded))
        logits.append(logits_at(loaded, batch, batch.positions(-1)))
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-4)
    assert "torchvision" not in sys.modules


def test_collect_refuses_a_processor_with_other_tokens():
    model = tiny_vision.model("llava")
    prompt = copy.copy(make_mixed_prompts(model)[0])
    object.__setattr__(prompt, "text", prompt.text + "!")
    with pytest.raises(TvlensError, match=r"reads .* as other tokens than those of the prompt"):
        tv.collect(model, [prompt], progress=False)
