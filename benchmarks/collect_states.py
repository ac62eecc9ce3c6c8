"""Last-position states of every layer: `collect`, against TransformerLens' `run_with_cache`."""

import torch

import tvlens as tv
from tvlens.tasks import TEMPLATES, build, contexts

from .measure import compare


def run(device: str) -> None:
    model = tv.load("smollm2-135m", device=device)
    task = tv.Task.load("singular-plural")
    sampled = contexts(task, shots=6, count=16)
    prompts = [build(model.tokenizer, TEMPLATES["qa"], c, q[0]).tokens for c, q in sampled]

    def ours() -> torch.Tensor:
        activations = tv.collect(model, prompts, positions=-1, progress=False)
        return activations.stack("resid_post")[:, :, 0]

    def peer() -> torch.Tensor:
        states = []
        with torch.no_grad():
            for tokens in prompts:
                tokens = torch.tensor([tokens], device=device)
                _, cache = model.run_with_cache(
                    tokens, names_filter=lambda name: name.endswith("hook_resid_post")
                )
                layers = range(model.cfg.n_layers)
                states.append(torch.stack([cache["resid_post", l][0, -1] for l in layers]))
        return torch.stack(states, dim=1).cpu()

    ours_states, peer_states = compare(ours, peer)
    difference = (ours_states - peer_states).abs().max()
    print(f"  {len(prompts)} prompts; largest difference {difference:.1e}")
