"""Scoring a vector at every layer: rows of all layers in shared forwards, against one
TransformerLens `run_with_hooks` per item and layer, as the papers' scripts do it."""

import torch

import tvlens as tv
from tvlens.tasks import TEMPLATES, build
from tvlens.vectors import Row, score

from .measure import compare


def run(device: str) -> None:
    model = tv.load("smollm2-135m", device=device)
    train, validation, _ = tv.Task.load("singular-plural").split(seed=0)
    vector = tv.extract(model, train)
    prompts = [build(model.tokenizer, TEMPLATES["qa"], [], x, y) for x, y in validation.pairs[:6]]
    layers = range(model.cfg.n_layers)

    def ours() -> torch.Tensor:
        rows = [Row(p, l, vector.values[l]) for p in prompts for l in layers]
        return score(model, rows).first.view(len(prompts), -1)

    def peer() -> torch.Tensor:
        is_correct = torch.zeros(len(prompts), len(layers), dtype=torch.bool)
        with torch.no_grad():
            for i, prompt in enumerate(prompts):
                tokens = torch.tensor([prompt.tokens], device=device)
                for layer in layers:
                    logits = model.run_with_hooks(tokens, fwd_hooks=[vector.hook(model, layer)])
                    is_correct[i, layer] = int(logits[0, -1].argmax()) == prompt.answer[0]
        return is_correct

    ours_scores, peer_scores = compare(ours, peer)
    is_equal = torch.equal(ours_scores, peer_scores)
    print(f"  {len(prompts)} items x {len(layers)} layers; equal: {is_equal}")
