import json

import numpy as np
import pytest
import tiny_vision
import torch

import tvlens as tv
from tvlens import Pictures, TvlensError
from tvlens.models import tiny_vlm
from tvlens.tasks import Template, plain
from tvlens.training import naming
from tvlens.training.naming import captions as said
from tvlens.training.naming.hands import lent, same_thing
from tvlens.training.naming.start import begin, padded
from tvlens.training.naming.views import views


@pytest.fixture
def tiny_parts(monkeypatch):
    """A tiny language model and a tiny eye in place of the real ones."""

    def assemble(form, *, projector=None, seed=0, **_):
        torch.manual_seed(0)
        model, processor = tiny_vision._tiny_vlm()
        if projector is None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                projector = tiny_vlm.Projector(128, form.hidden, form.tokens, 32)
        model.projector = projector
        return model.eval(), processor.tokenizer

    for where in (tiny_vlm, tiny_vlm.assembly):
        monkeypatch.setattr(where, "assemble", assemble)
    return tiny_vlm.Form(layers=(1, 2), tokens=2, hidden=16)


@pytest.fixture(scope="module")
def few():
    things = ["lion", "tiger", "red apple", "banana", "France", "Japan", "hammer", "rose"]
    return Pictures.load().where(names=things)


def options(form, pictures, **more):
    found = dict(form=form, pictures=pictures, unseen=0.4, view_count=2, epochs=3, lr=1e-2)
    return found | dict(progress=False) | more


def test_training_learns_and_resumes_to_the_same_bits(tiny_parts, few, tmp_path, monkeypatch):
    whole = naming.train_vlm(tmp_path / "whole", **options(tiny_parts, few))
    losses = [record["loss"] for record in whole.history]
    assert losses[-1] < losses[0]
    assert {"new_artist", "new_things", "new_both"} <= set(whole.to_dataframe().columns)

    class Stopped(Exception):
        pass

    real, calls = said.loss, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Stopped
        return real(*args)

    monkeypatch.setattr("tvlens.training.naming.epoch.loss", stopping)
    with pytest.raises(Stopped):
        naming.train_vlm(tmp_path / "cut", **options(tiny_parts, few))
    monkeypatch.setattr("tvlens.training.naming.epoch.loss", real)
    again = naming.train_vlm(tmp_path / "cut", **options(tiny_parts, few))
    weights = [(run.folder / "model" / tiny_vlm.WEIGHTS).read_bytes() for run in (whole, again)]
    assert weights[0] == weights[1]
    done = naming.train_vlm(tmp_path / "cut", **options(tiny_parts, few))
    assert done.history == again.history
    with pytest.raises(TvlensError, match=r"lr: 0\.01 there, 0\.001 here"):
        naming.train_vlm(tmp_path / "cut", **options(tiny_parts, few, lr=1e-3))
    with pytest.raises(TvlensError, match="holds no training of a tiny-vlm"):
        naming.load_named(tmp_path)


def test_only_the_projector_is_trained(tiny_parts, few, tmp_path):
    frozen = tiny_vlm.assemble(tiny_parts)[0].state_dict()
    run = naming.train_vlm(tmp_path / "run", **options(tiny_parts, few, epochs=1))
    kept = json.loads((run.folder / "model" / tiny_vlm.SETTINGS).read_text())
    assert kept["layers"] == [1, 2] and kept["language"] == "smollm2-135m"
    model, _ = tiny_vlm.open_saved(run.folder / "model")
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, frozen[k])}
    assert moved and all(name.startswith("projector.") for name in moved)
    loaded = tv.load(run.folder / "model")
    assert loaded.processor.tokens == 2 and loaded.cfg.model_name == "model"
    with pytest.raises(TvlensError, match="holds no tiny-vlm"):
        tiny_vlm.open_saved(tmp_path)


def test_views_are_made_once(few, tmp_path, monkeypatch):
    model, _ = tiny_vision._tiny_vlm()
    first = views(model.eye, few, folder=tmp_path, count=2, progress=False)
    assert first.shape[:3] == (len(few), 2, 2) and first.dtype == torch.float16
    monkeypatch.setattr(tiny_vlm.Eye, "forward", None)  # may not run again
    torch.testing.assert_close(
        views(model.eye, few, folder=tmp_path, count=2, progress=False), first
    )
    with pytest.raises(TvlensError, match=r"views of other settings \(views\)"):
        views(model.eye, few, folder=tmp_path, count=3, progress=False)


@pytest.mark.parametrize("template", said.TEMPLATES)
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_names_are_scored_as_greedy_decoding_gives_them(template, family):
    """Token by token, over whole texts, without anything read beforehand."""
    model, processor = tiny_vision._tiny_vlm(family)
    tokenizer, embed = processor.tokenizer, model.get_input_embeddings()
    soft = torch.randn(3, 2, 32, generator=torch.Generator().manual_seed(0))
    phrase, form = said.Phrase.of(model, tokenizer, template), Template.of(template)
    shown = "".join(form.demonstration.format(x=word, y=word) for word in said.COPIED)
    before = plain(tokenizer, shown + form.prefix)
    written = []
    for one, length in zip(soft, (2, 4, 3), strict=True):
        state, ids = torch.cat([embed(torch.tensor(before)), one]), []
        state = torch.cat([state, embed(torch.tensor(phrase.behind))])
        for _ in range(length):
            ids.append(int(model(inputs_embeds=state[None]).logits[0, -1].argmax()))
            state = torch.cat([state, embed(torch.tensor(ids[-1:]))])
        written.append(ids)
    for ids, one in zip(written, soft, strict=True):
        ending = said.Phrase(phrase.read, phrase.behind, ids[-1])
        assert said.named(model, one[None], ending, [ids[:-1]]).tolist() == [True]
        other = [*ids[:-2], ids[-2] ^ 1]
        assert said.named(model, one[None], ending, [other]).tolist() == [False]
    # Padding of the others changes nothing.
    names = [ids[:-1] for ids in written]
    together = said.predicted(model, soft, phrase, names)
    for i in range(3):
        alone = said.predicted(model, soft[i : i + 1], phrase, names[i : i + 1])
        torch.testing.assert_close(together[0][together[2] == i], alone[0], atol=1e-5, rtol=1e-4)


def test_a_name_ends_as_the_copied_words_do():
    _, processor = tiny_vision._tiny_vlm()
    model, _ = tiny_vision._tiny_vlm()
    for template in said.TEMPLATES:
        phrase = said.Phrase.of(model, processor.tokenizer, template)
        assert processor.tokenizer.decode([phrase.end]).startswith("\n")
    assert not set(said.COPIED) & set(Pictures.load().names)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_soft_tokens_stand_where_the_placeholders_are(family):
    model, processor = tiny_vision._tiny_vlm(family)
    pixels = processor.image_processor([tiny_vision.picture(i) for i in (0, 1)])
    soft = model.soft_tokens(pixels)
    states = model.eye.vit(pixels, output_hidden_states=True).hidden_states
    joined = torch.cat([states[1], states[2]], dim=-1)
    seen = torch.stack([joined[:, 0], joined[:, 1:].mean(1)], dim=1)  # class token, one cell
    torch.testing.assert_close(soft, model.projector(seen), atol=1e-5, rtol=1e-4)
    hole = model.placeholder
    ids = torch.tensor([[5, hole, hole, 6], [hole, hole, 7, 8]])
    embedded = model.get_input_embeddings()(ids)
    embedded[0, 1:3], embedded[1, :2] = soft[0], soft[1]
    with torch.no_grad():
        wanted = model(inputs_embeds=embedded).logits
        torch.testing.assert_close(model(ids, pixel_values=pixels).logits, wanted)
        plain = torch.tensor([[5, 6, 7]])
        embeds = model.get_input_embeddings()(plain)
        torch.testing.assert_close(model(plain).logits, model(inputs_embeds=embeds).logits)
    with pytest.raises(TvlensError, match=r"1 pictures make 2 soft tokens, .* hold 4 placeholders"):
        model(ids, pixel_values=pixels[:1])


def test_a_language_model_of_another_family():
    with pytest.raises(TvlensError, match=r"no token is known that no text of minilm-l6 holds"):
        tiny_vlm.Form(language="minilm-l6")


def test_every_picture_is_looked_at_once(monkeypatch):
    model, processor = tiny_vision._tiny_vlm()
    pixels = processor.image_processor([tiny_vision.picture(i) for i in (0, 1, 0)])
    looked, real = [], model.eye.forward
    monkeypatch.setattr(model.eye, "forward", lambda p: (looked.append(len(p)), real(p))[1])
    first = model.soft_tokens(pixels)
    torch.testing.assert_close(first[0], first[2])
    torch.testing.assert_close(model.soft_tokens(pixels[1:]), first[1:])
    assert looked == [2]


def test_the_start_tells_things_apart_and_says_their_names():
    """scikit-learn's ridge regression gives the shares; a sure one gives the name's embeddings."""
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    centres, words = torch.randn(5, 2, 8, generator=generator), torch.randn(5, 2, 3)
    things = torch.arange(5).repeat(12)
    states = centres[things] + 0.1 * torch.randn(60, 2, 8, generator=generator)
    projector = tiny_vlm.Projector(16, 5, 2, 3)
    begin(projector, states, things, words)
    seen = torch.nn.functional.layer_norm(states.flatten(1), (16,)).numpy()
    ridge = Ridge(alpha=60 * 5e-3).fit(seen, np.eye(5)[things])
    shares = torch.tensor(100 * ridge.predict(seen)).softmax(-1).float()
    wanted = torch.einsum("nk,ktd->ntd", shares, words)
    torch.testing.assert_close(projector(states), wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(projector(states), words[things], atol=1e-3, rtol=1e-3)
    assert padded([7], 3, 0) == [0, 0, 7] and padded([1, 2, 3, 4], 3, 0) == [1, 2, 3]


def test_hands_are_differences_of_one_things_drawings():
    pairs = same_thing(["a", "b", "a", "c", "a"])
    assert sorted(map(tuple, pairs)) == [(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2)]
    seen = torch.arange(5.0).view(5, 1, 1, 1).half() ** 2
    shares = lent(seen, pairs, 400, seed=(0, 1)).flatten()
    assert set(shares.sign().tolist()) == {-1, 1} and 4 < shares.abs().max() <= 16
    assert lent(seen, same_thing(["a", "b"]), 3, seed=(0,)).abs().sum() == 0
