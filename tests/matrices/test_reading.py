"""Readout states of models."""

import pytest
import tiny
import torch
from finetuned_models import NAMES, make_batches

import tvlens as tv
from tvlens.matrices import collect_states


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("readout", ["first", "mean", "last"])
def test_collect_states_matches_collect(name, readout):
    model, prompts = tiny.model(name), make_batches(name, count=2, rows=4)
    result = collect_states(model, prompts, readout=readout, progress=False)
    rows = torch.cat(prompts) if name == "vit" else [row for batch in prompts for row in batch]
    activations = tv.collect(model, rows, "resid_post", progress=False)
    for layer in range(3):
        for i, length in enumerate(activations.lengths.tolist()):
            states = activations[f"resid_post.{layer}"][i, :length]
            expected = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[readout]
            torch.testing.assert_close(result[layer, i], expected, atol=1e-5, rtol=1e-4)
    lower = collect_states(model, prompts, layers=1, readout=readout, progress=False)
    torch.testing.assert_close(lower[0], result[1])
