"""Exact patching: `tv.patch` against `transformer_lens.patching`, same prompts, one run.

Prints seconds, the ratio, what ours cost in forward passes of the same prompts, the least any exact
way could cost in FLOPs (no block below a patch, no position before it), and the largest difference
as a share of the largest effect. Writes everything to out/bench/patching.json.
"""

import json
import resource
import time

import torch
from transformer_lens import patching

import tvlens as tv
from tvlens.files import write

METRIC = tv.logit_difference(100, 200)


def _timed(work, *args, **options):
    start = time.perf_counter()
    result = work(*args, **options)
    return result, time.perf_counter() - start


def _mean(logits):
    return METRIC(logits).mean()


def _heads_last(model, tokens, cache):
    import pandas as pd

    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    last = tokens.shape[1] - 1
    rows = [(l, last, h) for l in range(layers) for h in range(heads)]
    table = pd.DataFrame(rows, columns=["layer", "pos", "head"])
    found = patching.generic_activation_patch(
        model,
        tokens,
        cache,
        _mean,
        patching.layer_pos_head_vector_patch_setter,
        "z",
        index_df=table,
    )
    return found.view(layers, heads)


def _floor(sweep: tv.PatchResult, length: int, layers: int) -> float:
    """Forwards of the whole batch that the sweep costs at least, by blocks and positions."""
    positions = sweep.coordinates.get("position", [length - 1])
    heads = len(sweep.coordinates.get("head", [0]))
    share = sum(length - p for p in positions) / length
    return heads * share * sum(layers - l for l in sweep.coordinates["layer"]) / layers


SWEEPS = {
    "z, every head, last position": (
        (4, 60),
        dict(site="z", positions=[-1]),
        _heads_last,
    ),
    "resid_pre, layer x position": (
        (2, 24),
        dict(site="resid_pre"),
        lambda m, t, c: patching.get_act_patch_resid_pre(m, t, c, _mean),
    ),
    "attn_out, layer x position": (
        (2, 24),
        dict(site="attn_out"),
        lambda m, t, c: patching.get_act_patch_attn_out(m, t, c, _mean),
    ),
    "z, every head, all positions": (
        (2, 24),
        dict(site="z"),
        lambda m, t, c: patching.get_act_patch_attn_head_out_all_pos(m, t, c, _mean),
    ),
}


def _measure(model, name, shape, options, peer) -> dict:
    """One sweep both ways."""
    clean, corrupted = torch.randint(5, 40000, (2, *shape), device=model.cfg.device)
    # The one check of the fast path against a full forward is made here, outside the timing.
    options = {"metric": METRIC, **options}
    tv.patch(model, clean, corrupted, **options | {"layers": [0], "positions": -1})
    ours, ours_s = _timed(tv.patch, model, clean, corrupted, **options)
    with torch.no_grad():
        _, forward_s = _timed(model, corrupted)
        cache = model.run_with_cache(clean)[1]
        theirs, theirs_s = _timed(peer, model, corrupted, cache)
    gap = ours.effect.view(theirs.shape) - (theirs.cpu() - ours.baseline.mean())
    floor = _floor(ours, shape[1], model.cfg.n_layers) if "position" in ours.axes else None
    return {
        "sweep": name,
        "patches": theirs.numel(),
        "batch x tokens": f"{shape[0]} x {shape[1]}",
        "ours_s": ours_s,
        "transformer_lens_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "ours_forwards": ours_s / forward_s,
        "floor_forwards": floor,
        "difference_of_effect": float(gap.abs().max() / ours.effect.abs().max()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def run(device: str) -> None:
    model = tv.load("smollm2-135m", device=device)
    rows = []
    for name, sweep in SWEEPS.items():
        row = _measure(model, name, *sweep)
        rows.append(row)
        shown = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
        print("  " + ", ".join(shown), flush=True)
    settings = {"device": device, "threads": torch.get_num_threads(), "model": "smollm2-135m"}
    path = write("out/bench/patching.json", json.dumps(settings | {"sweeps": rows}, indent=1))
    print(f"  written to {path}")
