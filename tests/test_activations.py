import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tvlens as tv
from tvlens import TvlensError
from tvlens.models import with_hooks
from tvlens.sites import available

pytestmark = pytest.mark.tl3


def test_collect_of_ragged_prompts_equals_single_prompts(any_name):
    """Compare every site and position of a padded batch with each prompt alone."""
    model = tiny.model(any_name)
    names = list(available(model))
    prompts = tiny.ragged(any_name)
    together = tv.collect(model, prompts, names, batch_size=3, progress=False)
    for i in range(len(prompts)):
        alone = tv.collect(model, prompts[i : i + 1], names, progress=False)
        n = int(alone.lengths)
        for site, activation in alone.items():
            padded = together[site][i, :n]
            if site.startswith("pattern"):
                padded = padded[..., :n]
            torch.testing.assert_close(padded, activation[0], msg=f"{site} of prompt {i}")
            assert not together[site][i, n:].any()


def test_collect_equals_run_with_cache(causal):
    prompts = tiny.ragged("text", (9,))
    _, cache = causal.run_with_cache(torch.tensor(prompts))
    activations = tv.collect(causal, prompts, ["resid_post", "z", "pattern"], progress=False)
    for layer in range(3):
        torch.testing.assert_close(activations[f"resid_post.{layer}"], cache["resid_post", layer])
        torch.testing.assert_close(activations[f"z.{layer}"], cache["z", layer])
        torch.testing.assert_close(
            activations[f"pattern.{layer}"], cache["pattern", layer].transpose(1, 2)
        )


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.integers(4, 12), min_size=1, max_size=5),
    positions=st.lists(st.integers(-4, 3), min_size=1, max_size=3),
    batch_size=st.integers(1, 4),
)
def test_collect_selects_positions_in_any_batching(lengths, positions, batch_size):
    """Selected positions are rows of the whole activation for every batch size."""
    model = tiny.model("llama")
    prompts = tiny.ragged("text", lengths)
    all_positions = tv.collect(model, prompts, "resid_post", layers=1, progress=False)[
        "resid_post.1"
    ]
    selected = tv.collect(
        model, prompts, "resid_post", layers=1, positions=positions, batch_size=batch_size,
        progress=False,
    )["resid_post.1"]  # fmt: skip
    for i, n in enumerate(lengths):
        torch.testing.assert_close(selected[i], all_positions[i, [p % n for p in positions]])


def test_collect_into_a_file_equals_collect_in_memory(tmp_path, any_name):
    model = tiny.model(any_name)
    prompts = tiny.ragged(any_name)
    file = tmp_path / "states.safetensors"
    memory = tv.collect(model, prompts, ["resid_post", "z"], positions=[0, -1], progress=False)
    stored = tv.collect(
        model, prompts, ["resid_post", "z"], positions=[0, -1], progress=False, file=file,
        batch_size=2,
    )  # fmt: skip
    assert list(stored) and set(stored) == set(memory)
    for site in memory:
        torch.testing.assert_close(stored[site], memory[site])
    assert torch.equal(stored.lengths, memory.lengths)
    assert stored.stack("z").shape[0] == 3


def test_interrupted_collect_leaves_no_file(tmp_path, monkeypatch):
    model = tiny.model("gpt2")
    file = tmp_path / "states.safetensors"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tvlens.activations.run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        tv.collect(model, tiny.ragged("text"), file=file, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_collect_of_one_head_selects_it():
    model = tiny.model("llama")
    prompts = tiny.ragged("text")
    all_heads = tv.collect(model, prompts, ["z", "pattern"], layers=1, progress=False)
    selected = tv.collect(
        model, prompts, [tv.Site("z", 1, head=2), tv.Site("pattern", 1, head=-1)], progress=False
    )
    torch.testing.assert_close(selected["z.1 head 2"], all_heads["z.1"][:, :, 2])
    torch.testing.assert_close(selected["pattern.1 head 3"], all_heads["pattern.1"][:, :, 3])


def test_collect_tokenizes_texts_with_the_model():
    model = tiny.model("llama")
    text = "Q: cat"
    activations = tv.collect(model, text, layers=0, progress=False)
    assert activations.lengths.tolist() == [model.to_tokens(text).shape[1]]


def test_collect_refuses_a_site_whose_hook_never_fires():
    """BERT with fused attention has a hook point for its pattern, but never computes one."""
    import transformers as hf
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    fused = hf.BertForMaskedLM(copy.deepcopy(tiny.model("bert").original_model.config))
    fused.set_attn_implementation("sdpa")
    model = build_bridge_from_module(fused.eval(), "BertForMaskedLM", hf_config=fused.config)
    with pytest.raises(TvlensError, match=r"attn.hook_pattern' never fired"):
        tv.collect(model, tiny.ragged("text"), "pattern", layers=0, progress=False)


def test_with_hooks_removes_hooks_after_an_exception(causal):
    tokens = torch.tensor(tiny.ragged("text", (5,)))
    before = causal(tokens)
    name = "blocks.1.hook_resid_post"
    with (
        pytest.raises(RuntimeError, match="stop"),
        with_hooks(causal, [(name, lambda a, h: a * 0)]),
    ):
        assert not torch.allclose(causal(tokens), before)
        raise RuntimeError("stop")
    assert torch.equal(causal(tokens), before)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "no prompts"),
        ([[1, 2], []], {}, "prompt 1 is empty"),
        ([[1] * 97], {}, "97 tokens, but the model's context is 96"),
        ([[1, 2], [1, 2, 3]], {"positions": -3}, "position -3 is outside prompt 0"),
        ([[1, 2]], {"layers": 7}, "layer 7 does not exist"),
        ([[1, 2]], {"layers": "some"}, "layers must be 'all' or numbers"),
        ([[1, 2]], {"sites": 3}, "sites are names or `Site`s, one or several, not 3"),
        ([[1, 2]], {"sites": ["z", 5]}, "sites are names or `Site`s"),
        ([[1, 2]], {"positions": 1.5}, "positions must be one integer or several"),
        ([[1, 2]], {"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ([[1, 2]], {"file": "."}, "is a folder: give the name"),
    ],
)
def test_bad_input_raises_one_line_errors(unchecked, prompts, options, message):
    with pytest.raises(TvlensError, match=message):
        tv.collect(tiny.model("llama"), prompts, progress=False, **options)


def test_collect_checks_disk_space_before_the_first_forward(tmp_path, monkeypatch):
    model = tiny.model("gpt2")
    monkeypatch.setattr("tvlens.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr("tvlens.activations.run", None)
    with pytest.raises(TvlensError, match=r"states: 0\.0 MB are needed and 0\.0 MB are free"):
        tv.collect(model, tiny.ragged("text"), file=tmp_path / "states", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.no_arithmetic
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no limits of file sizes here")
def test_collect_beyond_the_file_size_limit_is_one_line(tmp_path):
    """Runs in a new process, because a mapped file without space kills it."""
    code = """
import resource, sys, tiny, tvlens as tv
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))
try:
    tv.collect(tiny.model("gpt2"), [list(range(3, 60))] * 40, file=sys.argv[1], progress=False)
except tv.TvlensError as error:
    sys.exit(f"one line: {error}")
"""
    command = [sys.executable, "-c", code, tmp_path / "states"]
    path = os.pathsep.join([str(Path(tiny.__file__).parent), *sys.path])
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "MB are needed" in done.stderr and "file too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
