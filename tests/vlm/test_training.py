import json

import pytest
import tiny_vision
import torch

import tvlens as tv
from tvlens import ImagePack, TvlensError, vlm
from tvlens.vlm import checkpoint, training


@pytest.fixture
def config(monkeypatch):
    """The config of a tiny model with random frozen parts."""

    def build_model(config, *, projector=None, seed=0, **_):
        torch.manual_seed(0)
        model, processor = tiny_vision.build_tiny_vlm()
        if projector is None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                projector = vlm.Projector(128, config.hidden_size, config.tokens_per_image, 32)
        model.projector = projector
        return model.eval(), processor.tokenizer

    monkeypatch.setattr(checkpoint, "build_model", build_model)
    return vlm.TinyVLMConfig(layers=(1, 2), tokens_per_image=2, hidden_size=16)


@pytest.fixture(scope="module")
def images():
    names = ["lion", "tiger", "red apple", "banana", "France", "Japan", "hammer", "rose"]
    return ImagePack.load().where(names=names)


def train(folder, config, images, **options):
    defaults = dict(held_out_share=0.4, views=2, epochs=3, lr=1e-2, progress=False)
    return vlm.train_vlm(folder, config=config, images=images, **defaults | options)


def test_interrupted_training_resumes_to_the_same_bits(config, images, tmp_path, monkeypatch):
    complete = train(tmp_path / "complete", config, images)
    losses = [record["loss"] for record in complete.history]
    assert losses[-1] < losses[0]

    class Interrupted(Exception):
        pass

    caption_loss, calls = training.caption_loss, []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 3:
            raise Interrupted
        return caption_loss(*args)

    with monkeypatch.context() as patched:
        patched.setattr(training, "caption_loss", interrupt)
        with pytest.raises(Interrupted):
            train(tmp_path / "resumed", config, images)
    resumed = train(tmp_path / "resumed", config, images)
    path = f"model/{checkpoint.WEIGHTS_FILE}"
    assert (complete.folder / path).read_bytes() == (resumed.folder / path).read_bytes()
    repeated = train(tmp_path / "resumed", config, images)
    assert repeated.history == resumed.history
    with pytest.raises(TvlensError, match=r"lr: 0\.01 there, 0\.001 here"):
        train(tmp_path / "resumed", config, images, lr=1e-3)


def test_history_has_accuracy_of_every_test_split(config, images, tmp_path):
    run = train(tmp_path, config, images, epochs=1)
    columns = set(run.to_dataframe().columns)
    assert {"new_artist", "new_categories", "new_artist_and_category", "flag"} <= columns


def test_only_the_projector_is_trained(config, images, tmp_path):
    frozen = checkpoint.build_model(config)[0].state_dict()
    run = train(tmp_path / "run", config, images, epochs=1)
    saved = json.loads((run.folder / "model" / checkpoint.CONFIG_FILE).read_text())
    assert saved["layers"] == [1, 2] and saved["language_model"] == "smollm2-135m"
    model, _ = checkpoint.load_checkpoint(run.folder / "model")
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, frozen[k])}
    assert changed and all(name.startswith("projector.") for name in changed)
    loaded = tv.load(run.folder / "model")
    assert loaded.processor.tokens_per_image == 2 and loaded.cfg.model_name == "model"


def test_load_vlm_run_refuses_other_folders(tmp_path):
    with pytest.raises(TvlensError, match="holds no training of a tiny-vlm"):
        vlm.load_vlm_run(tmp_path)


def test_runs_of_earlier_versions_are_named(config, images, tmp_path):
    (tmp_path / "naming.json").write_text("{}")
    with pytest.raises(TvlensError, match="run that tvlens wrote before December 2026"):
        vlm.load_vlm_run(tmp_path)
    with pytest.raises(TvlensError, match="run that tvlens wrote before December 2026"):
        train(tmp_path, config, images)
