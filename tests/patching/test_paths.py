import pytest
import tiny
import torch
from helpers import METRIC, prompt_pair, without_warnings

import tvlens as tv
from tvlens import Site, TvlensError

pytestmark = pytest.mark.tl3


def patch_paths(*args, **options):
    return without_warnings(tv.patch_paths, *args, metric=METRIC, **options)


def read_activations(model, tokens, names):
    activations = {}
    hooks = [(n, lambda a, hook, n=n: activations.update({n: a.clone()})) for n in names]
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        model(tokens)
    return activations


def patch_path_by_freezing(model, clean, corrupted, sender, receiver, position=None):
    """The definition: run with the sender patched and all between frozen, keep what the receiver
    reads; then put that into an untouched corrupted run."""
    between = [
        Site(part, l).hook(model)
        for l in range(sender[0] + 1, receiver.layer)
        for part in ("attn_out", "mlp_out")
    ]
    between.append(Site("mlp_out", sender[0]).hook(model))
    z, target = Site("z", sender[0]).hook(model), receiver.hook(model)
    frozen = read_activations(model, corrupted, between)
    source = read_activations(model, clean, [z])[z]
    positions = slice(None) if position is None else position

    def send(activation, hook):
        activation = activation.clone()
        activation[:, positions, sender[1]] = source[:, positions, sender[1]]
        return activation

    receiver_input = {}
    hooks = [(z, send), *[(n, lambda a, hook, n=n: frozen[n]) for n in between]]
    hooks.append((target, lambda a, hook: receiver_input.update(a=a.clone())))

    def receive(activation, hook):
        activation = activation.clone()
        head = slice(None) if receiver.head is None else receiver.head
        index = (
            (slice(None), positions, head)
            if receiver.head is not None
            else (slice(None), positions)
        )
        activation[index] = receiver_input["a"][index]
        return activation

    with torch.no_grad():
        model.run_with_hooks(corrupted, fwd_hooks=hooks)
        return METRIC(model.run_with_hooks(corrupted, fwd_hooks=[(target, receive)]))


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_patch_paths_equals_freezing_everything_between(causal, component):
    clean, corrupted = prompt_pair(9, 2)
    receiver = Site(component, 2, head=-1).on(causal)
    result = patch_paths(causal, clean, corrupted, receiver=receiver)
    assert result.axes == ("layer", "head") and result.coordinates["layer"] == [0, 1]
    for sender in [(0, 0), (0, 3), (1, 2)]:
        wanted = patch_path_by_freezing(causal, clean, corrupted, sender, receiver)
        torch.testing.assert_close(result.values[sender], wanted, rtol=1e-4, atol=1e-5)
    at_end = patch_paths(causal, clean, corrupted, receiver=receiver, positions=[2, 8], layers=[1])
    wanted = patch_path_by_freezing(causal, clean, corrupted, (1, 3), receiver, position=8)
    torch.testing.assert_close(at_end.values[0, 3, 1], wanted, rtol=1e-4, atol=1e-5)


def test_patch_paths_to_logits_equals_freezing(causal):
    clean, corrupted = prompt_pair(9, 2)
    result = patch_paths(causal, clean, corrupted, receiver="logits", positions=-1)
    assert result.coordinates["layer"] == [0, 1, 2] and result.site == "z to logits"
    last = Site("resid_post", 2)
    sender = patch_direct_path_by_freezing(causal, clean, corrupted, (1, 2), last)
    torch.testing.assert_close(result.values[1, 2], sender, rtol=1e-4, atol=1e-5)


def patch_direct_path_by_freezing(model, clean, corrupted, sender, last):
    """As above, with everything behind the sender frozen, the last block too."""
    between = [Site("mlp_out", sender[0]).hook(model)]
    between += [Site(part, 2).hook(model) for part in ("attn_out", "mlp_out")]
    z = Site("z", sender[0]).hook(model)
    frozen, source = (
        read_activations(model, corrupted, between),
        read_activations(model, clean, [z])[z],
    )

    def send(activation, hook):
        activation = activation.clone()
        activation[:, -1, sender[1]] = source[:, -1, sender[1]]
        return activation

    hooks = [(z, send), *[(n, lambda a, hook, n=n: frozen[n]) for n in between]]
    with torch.no_grad():
        return METRIC(model.run_with_hooks(corrupted, fwd_hooks=hooks))


@pytest.mark.skipif(tiny.HAS_HOOKED, reason="3.9 approximates with a frozen norm")
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_patch_paths_equals_transformer_lens_direct_paths(name):
    from transformer_lens import patching

    model = tiny.model(name)
    clean, corrupted = prompt_pair(9, 2)
    with torch.no_grad():
        caches = [model.run_with_cache(tokens)[1] for tokens in (clean, corrupted)]
        theirs = patching.get_act_patch_direct_path(
            model, corrupted, *caches, lambda l: METRIC(l).mean(), 0, 1, verbose=False
        )
    for head in range(4):
        ours = patch_paths(
            model, clean, corrupted, receiver=Site("q", 2, head=head), layers=0, heads=1
        )
        torch.testing.assert_close(ours.values.mean(-1), theirs[2, head], rtol=1e-4, atol=1e-5)


def test_patch_paths_of_ragged_prompts_equals_single_prompts():
    model = tiny.model("llama")
    generator = torch.Generator().manual_seed(1)
    sides = [
        [torch.randint(3, 120, (n,), generator=generator).tolist() for n in (5, 9)]
        for _ in range(2)
    ]
    together = patch_paths(model, *sides, receiver=Site("q", 2, head=1))
    for i in range(2):
        alone = patch_paths(model, [sides[0][i]], [sides[1][i]], receiver=Site("q", 2, head=1))
        torch.testing.assert_close(
            together.values[..., i], alone.values[..., 0], rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(receiver=Site("z", 2, head=0)), "not an input of a head"),
        (dict(receiver=Site("q", 2)), "not an input of a head"),
        (dict(receiver="logit"), "not an input of a head"),
        (dict(receiver=Site("q", 2, head=9)), "head 9 of q does not exist"),
        (dict(receiver=Site("q", 1, head=0), layers=[1]), "must lie below q.1 head 0"),
        (dict(receiver=Site("q", 0, head=0)), "must lie below q.0 head 0"),
    ],
)
def test_bad_input_raises_one_line_errors(options, message):
    with pytest.raises(TvlensError, match=message):
        patch_paths(tiny.model("llama"), *prompt_pair(9, 2), **options)
