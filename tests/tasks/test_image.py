import io

import numpy as np
import pytest
import tiny
import tiny_vision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

import tvlens as tv
from tvlens import Image, Task, Template, TvlensError
from tvlens.tasks import TEMPLATES, build

pytestmark = pytest.mark.no_arithmetic

PAIRS = [("cat", "cats"), ("dog", "dogs"), ("bus", "buses"), ("red", "reds"), ("green", "greens")]
IMAGES = {x: tiny_vision.random_image(i, 16 + 8 * (i % 2)) for i, (x, _) in enumerate(PAIRS)}


@pytest.fixture
def task():
    return Task("plural", PAIRS, instruction="The plural of:", images=IMAGES)


def encode_image(mode: str, form: str = "PNG") -> bytes:
    """An image of some mode, half of it transparent where the mode allows it."""
    target = io.BytesIO()
    half = Pillow.new("RGBA", (4, 2), (200, 40, 40, 255))
    half.paste((0, 0, 0, 0), (2, 0, 4, 2))
    half.convert(mode).save(target, form)
    return target.getvalue()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L", "1"])
def test_read_pixels_converts_every_mode(mode, tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encode_image(mode))
    pixels = Image("x", path).read_pixels()
    assert pixels.dtype == np.uint8 and pixels.shape == (2, 4, 3)
    np.testing.assert_array_equal(Image("x", path.read_bytes()).read_pixels(), pixels)
    if mode in ("RGBA", "LA"):  # transparent areas are white, not the stored colour
        assert (pixels[:, 2:] == 255).all()
    if mode in ("RGB", "RGBA"):
        assert (pixels[:, :2] == (200, 40, 40)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 3)])
@pytest.mark.parametrize("name", tiny_vision.NAMES)
def test_collect_reads_images_of_any_size(name, size):
    if name == "qwen" and max(size) / min(size) > 200:
        pytest.skip("its processor refuses them")
    model = tiny_vision.model(name)
    image = Image("x", tiny_vision.random_image(0, *size))
    prompt = build(model.processor, TEMPLATES["qa"], [], image, "cats")
    activations = tv.collect(model, [prompt], "resid_post", positions=-1, progress=False)
    assert all(bool(states.isfinite().all()) for states in activations.values())


def test_read_pixels_scales_sixteen_bits():
    values = np.array([[0, 30000], [60000, 65535]], dtype=np.uint16)
    target = io.BytesIO()
    Pillow.fromarray(values).save(target, "PNG")
    pixels = Image("x", target.getvalue()).read_pixels()[..., 0]
    np.testing.assert_allclose(pixels, values / 257, atol=1)


def test_read_pixels_takes_arrays_and_pil_images():
    grey = np.array([[0, 255]], dtype=np.uint8)
    assert Image("x", grey).read_pixels().tolist() == [[[0] * 3, [255] * 3]]
    assert Image("x", grey[..., None]).read_pixels().tolist() == [[[0] * 3, [255] * 3]]
    colour = tiny_vision.random_image(1)
    np.testing.assert_array_equal(Image("x", colour).read_pixels(), colour)
    np.testing.assert_array_equal(Image("x", Pillow.fromarray(colour)).read_pixels(), colour)
    for wrong in (colour.astype(float), colour[None], colour[..., :2], colour[:0]):
        with pytest.raises(TvlensError, match=r"image of 'x' is .*not uint8"):
            Image("x", wrong).read_pixels()


def test_read_pixels_names_damaged_files(tmp_path):
    for name, content in {
        "empty": b"",
        "text": b"no image",
        "cut": encode_image("RGB")[:40],
    }.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(TvlensError, match=f"cannot read the image of 'x', .*{name}.png"):
            Image("x", path).read_pixels()
    with pytest.raises(TvlensError, match="cannot read the image of 'x', 8 bytes"):
        Image("x", b"no image").read_pixels()


def test_task_keeps_images_of_its_inputs(task, tmp_path):
    assert task.modalities == ("text", "image")
    assert Task("t", PAIRS).modalities == ("text",)
    assert Task("t", PAIRS, images=IMAGES, texts=False).modalities == ("image",)
    some = task.subset([0, 2])
    assert set(some.images) == {"cat", "bus"}
    parts = Task("t", PAIRS * 1, images=IMAGES).split(extract=0.4, validation=0.2)
    assert [set(p.images) for p in parts] == [{x for x, _ in p} for p in parts]
    bare = Task("t", PAIRS).with_images({"dog": IMAGES["dog"], "cow": IMAGES["cat"]})
    assert bare.pairs == (("dog", "dogs"),)
    with pytest.raises(TvlensError, match="none of its inputs has an image"):
        Task("t", PAIRS).with_images({})
    with pytest.raises(TvlensError, match="image of 'cow', but no such input"):
        Task("t", PAIRS, images={"cow": IMAGES["cat"]})
    with pytest.raises(TvlensError, match="image of 'cat' is missing: no file"):
        Task("t", PAIRS, images={"cat": tmp_path / "cat.png"})
    with pytest.raises(TvlensError, match="'bus' is no text and has no image"):
        Task("t", PAIRS[:3], images={"cat": IMAGES["cat"], "dog": IMAGES["dog"]}, texts=False)
    with pytest.raises(TvlensError, match="unknown modality 'images': did you mean 'image'"):
        task.shown(PAIRS[0], "images")
    with pytest.raises(TvlensError, match="'cat' has no image"):
        Task("t", PAIRS).shown(PAIRS[0], "image")
    with pytest.raises(TvlensError, match="'cat' is only the name of an image"):
        Task("t", PAIRS, images=IMAGES, texts=False).shown(PAIRS[0], "text")


def test_tasks_with_images_are_saved_as_files(tmp_path):
    (tmp_path / "cat.png").write_bytes(encode_image("P"))
    (tmp_path / "t.csv").write_text("input,output,file\ncat,cats,cat.png\ndog,dogs,\n")
    task = Task.from_csv(tmp_path / "t.csv", image="file")
    assert task.pairs == (("cat", "cats"), ("dog", "dogs")) and set(task.images) == {"cat"}
    task.to_json(tmp_path / "t.json")
    loaded = Task.from_json(tmp_path / "t.json")
    assert loaded.pairs == task.pairs
    pixels = [one.shown(("cat", "cats"), "image")[0].read_pixels() for one in (task, loaded)]
    np.testing.assert_array_equal(*pixels)
    with pytest.raises(TvlensError, match="image of 'cat' is no file"):
        Task("t", PAIRS, images=IMAGES).to_json(tmp_path / "x.json")
    with pytest.raises(TvlensError, match="no column 'photo'"):
        Task.from_csv(tmp_path / "t.csv", image="photo")


@pytest.mark.parametrize("name", tiny_vision.NAMES)
@settings(max_examples=8, deadline=None)
@given(
    modes=st.lists(st.sampled_from(["text", "image"]), min_size=1, max_size=3),
    template=st.sampled_from(sorted(TEMPLATES)),
    instruction=st.sampled_from(["", "The plural of:"]),
)
def test_build_gives_positions_of_texts_and_images(name, modes, template, instruction):
    """Decode every part from its tokens, and compare all tokens with the processor's own."""
    processor = tiny_vision.model(name).processor
    task = Task("plural", PAIRS, images=IMAGES)
    *shots, (query, answer) = [task.shown(p, m) for p, m in zip(PAIRS, modes, strict=False)]
    prompt = build(processor, TEMPLATES[template], shots, query, answer, instruction=instruction)
    decode = processor.tokenizer.decode

    def decode_span(span):
        return decode(prompt.tokens[slice(*span)], clean_up_tokenization_spaces=False).strip()

    images = [x for x, _ in [*shots, (query, answer)] if isinstance(x, Image)]
    assert list(prompt.images) == images
    for span, mode, (x, _) in zip(prompt.inputs, modes, PAIRS, strict=False):
        assert (span in prompt.image_spans) == (mode == "image")
        if mode == "text":
            assert decode_span(span) == x
    assert [decode_span(span) for span in prompt.labels] == [y for _, y in PAIRS[: len(shots)]]
    delimiter = TEMPLATES[template].delimiter.strip()
    assert all(delimiter.endswith(decode_span((p, p + 1))) for p in prompt.delimiters)
    assert (
        (decode_span(prompt.instruction) == instruction) if instruction else not prompt.instruction
    )
    if not images:
        return
    outputs = processor(
        text=[prompt.text], images=[[i.read_pixels() for i in images]], add_special_tokens=False
    )
    assert tuple(outputs["input_ids"][0]) == prompt.tokens[1:]
    image_token_ids = {processor.tokenizer.convert_tokens_to_ids(processor.image_token)}
    inside = {i for span in prompt.image_spans for i in range(*span)}
    soft_positions = {i for i, token in enumerate(prompt.tokens) if token in image_token_ids}
    assert soft_positions and soft_positions <= inside


def test_build_refuses_texts_that_hold_the_image_token(task):
    processor = tiny_vision.model("llava").processor
    shots = [task.shown(PAIRS[0], "image")]
    with pytest.raises(TvlensError, match="'a <image> b' holds '<image>', which stands for"):
        build(processor, TEMPLATES["qa"], shots, "a <image> b", "c")


def test_build_refuses_a_label_without_its_own_token():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {c: i for i, c in enumerate("<a:bc")} | {"bc": 5}
    raw = Tokenizer(models.BPE(vocab=vocab, merges=[("b", "c")]))
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<")
    with pytest.raises(TvlensError, match="hides the label 'b' of 'a'"):
        build(fast, Template("{x}:{y}c"), [("a", "b")], "a", "b")


def test_text_models_refuse_images(task):
    model = tiny.model("llama")
    for options in ({"modality": "image"}, {"query": "image"}):
        with pytest.raises(TvlensError, match=r"Image\('\w+'\) cannot be shown: .* text alone"):
            tv.extract(model, task, shots=2, contexts=2, **options)
    prompt = build(
        tiny_vision.model("llava").processor, TEMPLATES["qa"], [], Image("x", IMAGES["cat"])
    )
    with pytest.raises(TvlensError, match="reads no images"):
        tv.collect(model, [prompt], progress=False)


def test_collect_refuses_more_images_than_the_context_holds(task):
    model = tiny_vision.model("smolvlm")
    many = [task.shown(pair, "image") for pair in PAIRS] * 3
    prompt = build(model.processor, TEMPLATES["qa"], many, "cat", "cats")
    with pytest.raises(TvlensError, match=r"prompt 0 has 6\d\d tokens, \d+ of them for 15 images"):
        tv.collect(model, [prompt], progress=False)


def test_render_thumbnail_keeps_the_aspect_ratio():
    wide = Image("wide", np.zeros((50, 200, 3), np.uint8))
    with Pillow.open(io.BytesIO(wide.render_thumbnail(size=40))) as opened:
        assert opened.size == (40, 10)
