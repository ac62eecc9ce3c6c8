"""Exact patching: `tv.patch` against `transformer_lens.patching`, same prompts, one run.

Prints seconds, the ratio, what ours cost in forward passes of the same prompts, the least any exact
way must compute in units of one such pass (no block below a patch, no position before it), peak
memory, and the largest difference as a share of the largest effect. The last rows are one sweep in
float32, bfloat16 and float16: which engine ran, and at what cost. A pass over few tokens runs
far below the machine's speed, so many patches in one pass can take less time than that floor.
Where nnsight and pyvene are installed they patch a few of the same heads. Writes everything to
out/bench/patching.json.
"""

import json
import resource
import statistics
import time

import torch
from transformer_lens import patching

import tvlens as tv
from tvlens.files import write

from . import _peers

METRIC = tv.logit_difference(100, 200)


def _timed(work, *args, **options):
    start = time.perf_counter()
    result = work(*args, **options)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def _mean(logits):
    return METRIC(logits).mean()


def _heads_last(model, tokens, cache):
    import pandas as pd

    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    last = tokens.shape[1] - 1
    rows = [(l, last, h) for l in range(layers) for h in range(heads)]
    effects = patching.generic_activation_patch(
        model,
        tokens,
        cache,
        _mean,
        patching.layer_pos_head_vector_patch_setter,
        "z",
        index_df=pd.DataFrame(rows, columns=["layer", "pos", "head"]),
    )
    return effects.view(layers, heads)


def _library(name: str):
    sweep = getattr(patching, f"get_act_patch_{name}")
    return lambda model, tokens, cache: sweep(model, tokens, cache, _mean)


HEADS_LAST = ("z, every head, last position", dict(site="z", positions=[-1]), _heads_last)
HEADS = ("z, every head, all positions", dict(site="z"), _library("attn_head_out_all_pos"))
STATES = [
    (f"{site}, layer x position", dict(site=site), _library(site))
    for site in ("resid_pre", "attn_out", "mlp_out")
]


def _smollm2(device):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tv.zoo.get("smollm2-135m")).to(device)


def _gpt2_small(device):
    """GPT-2 small's shape with random weights: what a forward costs does not depend on them."""
    import transformers as hf

    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(hf.GPT2Config()).eval().to(device)


def _llama_1b(device):
    """Llama 3.2 1B's shape with random weights."""
    import transformers as hf

    sizes = dict(hidden_size=2048, num_hidden_layers=16, intermediate_size=8192)
    sizes |= dict(num_attention_heads=32, num_key_value_heads=8, vocab_size=128_256)
    with torch.device(device):
        return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes)).eval()


# (model, how to make it, its sweeps with batch and tokens)
SMOLLM2 = [(4, 60, HEADS_LAST), (2, 24, HEADS), *[(2, 24, states) for states in STATES]]
CPU = [
    ("smollm2-135m", _smollm2, SMOLLM2),
    ("GPT-2 small's shape", _gpt2_small, [(8, 60, HEADS_LAST)]),
]
CUDA = [*CPU, ("Llama 1B's shape", _llama_1b, [(8, 256, HEADS_LAST), (2, 64, STATES[0])])]


def _floor(sweep: tv.PatchResult, length: int, layers: int) -> float:
    """Forwards of the whole batch that the sweep computes at least, by blocks and positions."""
    positions = sweep.coordinates.get("position", [0])
    heads = len(sweep.coordinates.get("head", [0]))
    share = sum(length - p for p in positions) / length
    return heads * share * sum(layers - l for l in sweep.coordinates["layer"]) / layers


def _prompts(model, batch: int, length: int):
    vocabulary = model.cfg.d_vocab
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(300, vocabulary, (2, batch, length), generator=generator)
    return tokens.to(next(model.parameters()).device)


def _measure(model, clean, corrupted, options, peer) -> dict:
    """One sweep both ways."""
    # The one check of the fast path against full forwards is made here, outside the timing.
    options = {"metric": METRIC, **options}
    tv.patch(model, clean, corrupted, **options | {"layers": [0, -1], "positions": [-1]})
    ours, ours_s = _timed(tv.patch, model, clean, corrupted, **options)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with torch.no_grad():
        model(corrupted)
        forward_s = statistics.median(_timed(model, corrupted)[1] for _ in range(5))
        cache = model.run_with_cache(clean)[1]
        theirs, theirs_s = _timed(peer, model, corrupted, cache)
    gap = ours.effect.view(theirs.shape) - (theirs.cpu() - ours.baseline.mean())
    return {
        "patches": theirs.numel(),
        "batch x tokens": f"{corrupted.shape[0]} x {corrupted.shape[1]}",
        "ours_s": ours_s,
        "transformer_lens_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "ours_forwards": ours_s / forward_s,
        "floor_forwards": _floor(ours, corrupted.shape[1], model.cfg.n_layers),
        "difference_of_effect": float(gap.abs().max() / ours.effect.abs().max()),
        "peak_mb": memory,
        "peak_cuda_mb": torch.cuda.max_memory_allocated() / 2**20,
    }


def _half_precision(device: str, *, batch: int = 4, length: int = 60) -> list[dict]:
    """The sweep of all heads of SmolLM2 in three dtypes: seconds, engine, and float32's speed."""
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = tv.load("smollm2-135m", dtype=dtype, device=device)
        clean, corrupted = _prompts(model, batch, length)
        options = dict(site="z", positions=[-1], metric=METRIC)
        tv.patch(model, clean, corrupted, **options | {"layers": [0, -1]})  # verified, not timed
        result, seconds = _timed(tv.patch, model, clean, corrupted, **options)
        with torch.no_grad():
            forward_s = statistics.median(_timed(model, corrupted)[1] for _ in range(3))
        row = {
            "model": "smollm2-135m",
            "sweep": HEADS_LAST[0],
            "dtype": str(dtype).removeprefix("torch."),
            "engine": result.settings["engine"],
            "ours_s": seconds,
            "ours_forwards": seconds / forward_s,
            "verified": result.settings["verified"],
            "largest_difference": result.settings["largest_difference"],
        }
        rows.append(row | {"float32_s": rows[0]["ours_s"] if rows else seconds})
        _show(rows[-1])
    return rows


def _against_peers(source, model, clean, corrupted, *, count: int = 12) -> list[dict]:
    """nnsight and pyvene on a few heads, seconds a patch beside ours for the same heads."""
    layers = torch.linspace(0, model.cfg.n_layers - 1, count).long().tolist()
    heads = [(l, i % model.cfg.n_heads) for i, l in enumerate(layers)]
    options = dict(site="z", positions=-1, metric=METRIC)
    ours, every_s = _timed(tv.patch, model, clean, corrupted, **options)
    rows = []
    for name, run in _peers.installed().items():
        with torch.no_grad():
            values, seconds = _timed(run, source, clean, corrupted, heads, METRIC)
        expected = torch.stack([ours.values[l, h] for l, h in heads])
        gap = (values.cpu() - expected).abs().max() / ours.differences.abs().max()
        per_patch = seconds / len(heads)
        ratio = per_patch / (every_s / ours.effect.numel())
        rows.append(dict(peer=name, patches=len(heads), s_per_patch=per_patch, ratio=ratio))
        rows[-1]["difference_of_effect"] = float(gap)
    return rows


def _show(row: dict) -> None:
    fields = [f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
    print("  " + ", ".join(fields), flush=True)


def run(device: str) -> None:
    rows = []
    for name, make, sweeps in CPU if device == "cpu" else CUDA:
        source = make(device)
        model = tv.load(make(device))  # a bridge takes modules apart; peers need the plain model
        for batch, length, (title, options, peer) in sweeps:
            clean, corrupted = _prompts(model, batch, length)
            row = {"model": name, "sweep": title}
            row |= _measure(model, clean, corrupted, options, peer)
            _show(row)
            rows.append(row)
            if title == HEADS_LAST[0]:
                for other in _against_peers(source, model, clean, corrupted):
                    rows.append({"model": name, "sweep": title} | other)
                    _show(rows[-1])
    rows += _half_precision(device)
    settings = {"device": device, "threads": torch.get_num_threads()}
    path = write("out/bench/patching.json", json.dumps(settings | {"sweeps": rows}, indent=1))
    print(f"  written to {path}")
