"""Patching of head outputs at the last position with nnsight and pyvene.

They wrap the Hugging Face model itself. Each takes (model, clean, corrupted, heads, metric) and
gives the metric under every patch, `[head, batch]`. Install with
`pip install -e .[nnsight,pyvene]`.
"""

import functools
import importlib.util

import torch


def installed() -> dict:
    """The installed peers, by name."""
    peers = {"nnsight": nnsight, "pyvene": pyvene}
    return {name: run for name, run in peers.items() if importlib.util.find_spec(name)}


def _output_matrix(model, layer: int):
    """The module whose input is the heads' outputs side by side."""
    if hasattr(model, "transformer"):
        return model.transformer.h[layer].attn.c_proj
    return model.model.layers[layer].self_attn.o_proj


def _last_inputs(model, tokens, layers) -> dict:
    """Heads' outputs at the last position of a run, by layer."""
    inputs_by_layer = {}

    def store(layer, module, inputs):
        inputs_by_layer[layer] = inputs[0][:, -1].clone()

    handles = [
        _output_matrix(model, l).register_forward_pre_hook(functools.partial(store, l))
        for l in layers
    ]
    model(tokens)
    for handle in handles:
        handle.remove()
    return inputs_by_layer


def nnsight(model, clean, corrupted, heads, metric) -> torch.Tensor:
    from nnsight import NNsight

    width = model.config.hidden_size // model.config.num_attention_heads
    clean_inputs = _last_inputs(model, clean, {l for l, _ in heads})
    traced, values = NNsight(model), []
    for layer, head in heads:
        part = slice(head * width, (head + 1) * width)
        with traced.trace(input_ids=corrupted):
            _output_matrix(traced, layer).input[:, -1, part] = clean_inputs[layer][:, part]
            logits = traced.lm_head.output.save()
        values.append(metric(logits[:, -1:]))
    return torch.stack(values)


def pyvene(model, clean, corrupted, heads, metric) -> torch.Tensor:
    import pyvene as pv

    batch, last = len(clean), clean.shape[1] - 1
    values = []
    for layer, head in heads:
        where = pv.RepresentationConfig(layer, "head_attention_value_output", "h.pos", 1)
        config = pv.IntervenableConfig([where], intervention_types=pv.VanillaIntervention)
        patched = pv.IntervenableModel(config, model=model)
        unit_locations = [[[[head]] * batch, [[last]] * batch]]
        inputs = (
            {"input_ids": corrupted},
            [{"input_ids": clean}],
            {"sources->base": (unit_locations, unit_locations)},
        )
        values.append(metric(patched(*inputs)[1].logits[:, -1:]))
    return torch.stack(values)
