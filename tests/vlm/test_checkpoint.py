import json
from dataclasses import asdict

import pytest
import tiny_vision
import torch

from tvlens import TvlensError
from tvlens.models import zoo
from tvlens.vlm import TinyVLMConfig, checkpoint


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A saved tiny model with random frozen parts."""
    model, processor = tiny_vision.build_tiny_vlm()

    def build(config, *, projector, **_):
        assert config == model.vision_encoder.config
        model.projector = projector
        return model, processor.tokenizer

    monkeypatch.setattr(checkpoint, "build_model", build)
    folder = tmp_path / "model"
    checkpoint.save_checkpoint(model.projector, model.vision_encoder.config, folder)
    return model.projector.state_dict(), folder


def test_load_checkpoint_reads_what_save_checkpoint_wrote(saved):
    weights, folder = saved
    model, processor = checkpoint.load_checkpoint(folder)
    for name, value in model.projector.state_dict().items():
        torch.testing.assert_close(value, weights[name].half().float())
    assert processor.tokens_per_image == 2


def test_load_checkpoint_reads_format_1(saved):
    _, folder = saved
    path = folder / checkpoint.CONFIG_FILE
    config = json.loads(path.read_text())
    assert config.pop("format") == 2
    former = {"language_model": "language", "vision_model": "vision", "hidden_size": "hidden"}
    former |= {"tokens_per_image": "tokens"}
    path.write_text(json.dumps({former.get(key, key): value for key, value in config.items()}))
    checkpoint.load_checkpoint(folder)


def test_packaged_config_is_the_default_one():
    path = zoo.ZOO["tiny-vlm"].shipped / checkpoint.CONFIG_FILE
    assert asdict(checkpoint._read_config(path)) == asdict(TinyVLMConfig())


def test_load_checkpoint_refuses_other_folders(tmp_path):
    with pytest.raises(TvlensError, match="holds no tiny-vlm"):
        checkpoint.load_checkpoint(tmp_path)
