"""Finetuned versions of tiny models, made by perturbing weights, and inputs for both."""

import tiny
import torch

NAMES = ["bert", "vit", "gpt2", "native", "llama"] + (["hooked"] if tiny.HAS_HOOKED else [])


def perturb(model, seed=0, by=0.02):
    """A copy of the model with slightly changed weights."""
    tuned = tiny.copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in tuned.blocks.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return tuned


def make_batches(name, count=3, rows=16, seed=0):
    """Batches of images, or of token lists of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    if name == "vit":
        return [torch.randn(rows, 3, 16, 16, generator=generator) for _ in range(count)]
    lengths = torch.randint(3, 14, (count, rows), generator=generator).tolist()
    return [
        [torch.randint(3, 120, (n,), generator=generator).tolist() for n in ns] for ns in lengths
    ]
