"""Compare training with and without CUDA graphs; needs a GPU."""

import pytest
import torch

from tvlens.training import TransformerConfig, train
from tvlens.training import loop as training_loop

CONFIGS = {
    "tokens": TransformerConfig(context=16, vocab=6, layers=2, d_model=32, heads=2),
    "pairs": TransformerConfig(
        context=15, inputs=3, layers=2, d_model=32, heads=2, positions="learned"
    ),
}


def draw(name: str):
    def sample(seed):
        generator = torch.Generator().manual_seed(seed)
        if name == "tokens":
            return torch.randint(6, (8, 17), generator=generator)
        inputs = torch.randn(8, 8, 3, generator=generator)
        return inputs, inputs.sum(-1)

    return sample


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CONFIGS)
def test_training_with_cuda_graphs_gives_the_losses_of_plain_training(name, tmp_path, monkeypatch):
    def losses(folder):
        run = train(
            CONFIGS[name], draw(name), steps=60, report_every=10, folder=folder, progress=False
        )
        return torch.tensor([record["loss"] for record in run.metrics if record["loss"]])

    graphed = losses(tmp_path / "graphed")
    monkeypatch.setattr(training_loop, "with_cuda_graphs", lambda model, batch: model)
    assert torch.allclose(graphed, losses(tmp_path / "plain"), rtol=1e-3)
