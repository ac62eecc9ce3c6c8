"""Training from scratch: tokens a second of ours, of a textbook PyTorch loop, and of training in
the hooked model itself.

All three start from the same weights, learn from the same batches, and must come to the same loss.
The textbook is PyTorch's own `nn.TransformerEncoder` under a causal mask with `AdamW` as it comes.
Writes everything to out/bench/training.json.
"""

import json
import statistics
import time
from dataclasses import asdict

import torch
from torch import nn
from torch.nn import functional as F

from tvlens.files import write
from tvlens.training import Transformer, TransformerConfig, to_transformer_lens

# One architecture that all three can express; sizes of a quick dice run and of the paper's E1.
COMMON = dict(positions="learned", norm="layer", final_norm=True, activation="gelu")
SETTINGS = {
    "dice, 2 layers, d 64": (
        TransformerConfig(context=64, vocab=6, layers=2, d_model=64, heads=4, **COMMON),
        dict(batch=64, steps=10),
    ),
    "paper's E1, 6 layers, d 128": (
        TransformerConfig(context=128, vocab=6, layers=6, d_model=128, heads=2, **COMMON),
        dict(batch=32, steps=3),
    ),
}
ROUNDS = 3


class Textbook(nn.Module):
    """The transformer of a PyTorch tutorial."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.embed = nn.Embedding(config.vocab, config.d_model)
        self.position = nn.Embedding(config.context, config.d_model)
        layer = nn.TransformerEncoderLayer(
            config.d_model,
            config.heads,
            config.d_mlp,
            0.0,
            F.gelu,
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.d_model)
        self.blocks = nn.TransformerEncoder(layer, config.layers, norm, enable_nested_tensor=False)
        self.unembed = nn.Linear(config.d_model, config.vocab, bias=False)
        mask = nn.Transformer.generate_square_subsequent_mask(config.context)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        length = tokens.shape[1]
        states = self.embed(tokens) + self.position.weight[:length]
        mask = self.mask[:length, :length]
        return self.unembed(self.blocks(states, mask=mask, is_causal=True))


def _textbook(plain: Transformer) -> Textbook:
    """Build the tutorial's transformer with the weights of ours."""
    names = {"blocks.": "blocks.layers.", "final_norm.": "blocks.norm."}
    names |= {"qkv.": "self_attn.in_proj_", "attn_out.": "self_attn.out_proj."}
    names |= {"mlp_in.": "linear1.", "mlp_out.": "linear2."}
    weights = {}
    for key, value in plain.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        weights[key] = value
    textbook = Textbook(plain.shape)
    textbook.load_state_dict(weights)
    return textbook


def _learn(model, optimizer, batches) -> tuple[float, float]:
    """Seconds and the last loss."""
    start = time.perf_counter()
    for tokens in batches:
        logits = model(tokens[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    last = loss.item()  # waits for the device
    return time.perf_counter() - start, last


def _measure(name: str, config: TransformerConfig, device: str, *, batch: int, steps: int) -> dict:
    plain = Transformer(config).to(device)
    ways = {
        "ours": (plain, dict(fused=True)),
        "textbook": (_textbook(plain).to(device), {}),
        "hooked": (to_transformer_lens(config, plain.state_dict()).train(), dict(fused=True)),
    }
    size = {way: sum(p.numel() for p in model.parameters()) for way, (model, _) in ways.items()}
    assert size["ours"] == size["textbook"], size
    running = {
        way: (model, torch.optim.AdamW(model.parameters(), lr=1e-3, **options))
        for way, (model, options) in ways.items()
    }
    generator = torch.Generator().manual_seed(0)
    draw = (ROUNDS + 1, steps, batch, config.context + 1)
    rounds = torch.randint(config.vocab, draw, generator=generator).to(device)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for batches in rounds:
        losses = {}
        for way, (model, optimizer) in running.items():
            spent, losses[way] = _learn(model, optimizer, batches)
            seconds[way].append(spent)
    tokens = steps * batch * config.context
    speed = {way: tokens / statistics.median(durations[1:]) for way, durations in seconds.items()}
    return {
        "setting": name,
        "shape": asdict(config),
        "batch x tokens": f"{batch} x {config.context}",
        "parameters": size["ours"],
        "tokens_per_second": speed,
        "ours_to_textbook": speed["ours"] / speed["textbook"],
        "ours_to_hooked": speed["ours"] / speed["hooked"],
        "difference_of_loss": max(abs(losses["ours"] - other) for other in losses.values()),
    }


def run(device: str) -> None:
    rows = []
    for name, (config, options) in SETTINGS.items():
        row = _measure(name, config, device, **options)
        rows.append(row)
        speed = ", ".join(f"{way} {per:,.0f}" for way, per in row["tokens_per_second"].items())
        print(f"  {name} ({row['parameters']:,} parameters), tokens/s: {speed}")
        print(
            f"    ours/textbook {row['ours_to_textbook']:.2f}, ours/hooked "
            f"{row['ours_to_hooked']:.2f}; after {(ROUNDS + 1) * options['steps']} steps the "
            f"losses differ by {row['difference_of_loss']:.0e}",
            flush=True,
        )
    settings = {"device": device, "threads": torch.get_num_threads()}
    path = write("out/bench/training.json", json.dumps(settings | {"settings": rows}, indent=1))
    print(f"  written to {path}")
