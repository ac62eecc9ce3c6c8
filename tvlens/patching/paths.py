"""`patch_paths`: exact path patching, from sender heads to one receiver."""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import TvlensError
from ..integers import as_integers
from ..models.families import family
from ..models.forward import Batch, check_runnable, run
from ..models.hooks import read_at, replace_at, skip_blocks
from ..models.loading import model_name
from ..sites import Site, available, layers_with
from .grid import Choice, Patch, SweptSites
from .metrics import Metric
from .result import PatchResult
from .setup import PatchingSetup, Prompts, prepare_patching, run_source
from .sweep import SweepOptions, run_sweep

# Models whose attention output is known to reach the residual stream unchanged.
_additive: weakref.WeakSet = weakref.WeakSet()


def patch_paths(
    model: Any,
    clean: Any,
    corrupted: Prompts,
    *,
    receiver: Site | Literal["logits"],
    metric: Metric | Mapping[str, Metric],
    layers: Choice = "all",
    heads: Choice = "all",
    positions: Choice = None,
    batch_tokens: int = 512,
    verify: float = 0.01,
    seed: int = 0,
    progress: bool | None = None,
) -> PatchResult:
    """Patch the direct paths from sender heads to the input of one receiver.

    The change of a sender's output from the corrupted to the clean run is added to the residual
    stream that the receiver reads, before its norm. All other heads and MLPs read the corrupted
    stream, and change only through the receiver.

    Args:
        receiver: `Site("q", layer, head=h)`, `Site("k", ...)` or `Site("v", ...)`; or "logits",
            for what senders write directly into the final norm.
        layers, heads: the senders, all those below the receiver by default.
        positions: positions at which senders are patched; by default all together.
        clean, corrupted, metric, batch_tokens, verify, seed: as in `patch`.

    Cost: a forward per swept head, the receiver's block once per sender, and one resumed pass
    from the receiver up per sender.

    Raises:
        TvlensError: as `patch`; a receiver that is no head's q, k or v; senders not below it; a
            model whose norms follow its residual sums.

    Source: Wang et al. 2022, "Interpretability in the Wild", section 3.1.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> clean, corrupted = ["Q: cat A:", "Q: dog A:"], ["Q: red A:", "Q: bus A:"]
        >>> metric = tv.logit_difference("a", "b")
        >>> options = dict(receiver=tv.Site("q", 1, head=0), positions=-1, metric=metric)
        >>> result = tv.patch_paths(model, clean, corrupted, **options)
        >>> result.axes
        ('layer', 'head')
    """
    check_runnable(model)
    if family(model).is_post_norm:
        raise TvlensError(
            f"{model_name(model)} normalizes its residual stream after every sum: contributions "
            "of paths are not additive, so paths cannot be patched"
        )
    target = _receiver_site(model, receiver)
    options = SweepOptions(batch_tokens, verify, seed, progress)
    senders, receivers = (
        prepare_patching(model, clean, corrupted, sites, metric=metric, seed=seed)
        for sites in (
            SweptSites("z", _sender_layers(layers, model, target), heads, positions),
            SweptSites(target.component, target.layer, target.head, positions),
        )
    )
    by_position = {patch.position: patch for patch in receivers.grid.patches}
    patches = [by_position[patch.position] for patch in senders.grid.patches]
    _check_additive(model, senders)
    activations = _compute_receiver_activations(model, senders, patches)
    sweep = run_sweep(model, receivers, patches, activations, options)
    name = "logits" if receiver == "logits" else str(target)
    result = senders.result(model, sweep.values, method="path", receiver=name, **sweep.settings)
    return dataclasses.replace(result, site=f"z to {name}")


def _receiver_site(model: Any, receiver: Site | str) -> Site:
    """Return the site of a receiver: its own, or the end of the residual stream."""
    if receiver == "logits":
        return Site("resid_post", model.cfg.n_layers - 1)
    if isinstance(receiver, Site) and receiver.component in "qkv" and receiver.head is not None:
        return receiver.on(model)
    raise TvlensError(
        f"receiver {receiver!s} is not an input of a head: give Site('q', layer, head=h), 'k' or "
        "'v', or 'logits'"
    )


def _sender_layers(layers: Choice, model: Any, target: Site) -> Choice:
    """Resolve the layers of the senders; by default all below the receiver."""
    # Every head's output reaches the end of the stream; another head sits behind lower layers.
    above = model.cfg.n_layers if target.head is None else target.layer
    if isinstance(layers, str):
        if layers != "all":
            raise TvlensError(f"layers must be 'all' or numbers, not {layers!r}")
        layers = [layer for layer in layers_with(model, "z") if layer < above]
    is_empty = layers is None or (isinstance(layers, range | list) and not layers)
    numbers = [] if is_empty else as_integers(layers, name="layers")
    wrong = [l for l in numbers if l % model.cfg.n_layers >= above]
    if wrong or not numbers:
        raise TvlensError(f"senders must lie below {target}: layers 0 to {above - 1}")
    return layers


def _check_additive(model: Any, senders: PatchingSetup) -> None:
    """Raise TvlensError if attention's output is changed before the residual stream.

    Falcon-H1 multiplies it by a factor after the hook. Cost: two forwards, once per model.
    """
    if model in _additive:
        return
    prompts, layer = senders.base.prompts, min(senders.source.activations)
    z = senders.base.site_activations.activations[layer]
    # In parallel blocks the MLP does not read what attention writes.
    after = "resid_mid" if "resid_mid" in available(model, layer=layer) else "resid_post"
    changes = {}
    for component in ("attn_out", after):
        outputs: dict[int, Tensor] = {}
        for sign in (1, -1):
            hooks = [
                replace_at(Site("z", layer).hook(model), lambda _, sign=sign: sign * z),
                read_at(Site(component, layer).hook(model), outputs, sign),
            ]
            run(model, prompts, hooks=hooks)
        changes[component] = (outputs[-1] - outputs[1]).float()
    output, received = changes.values()
    gap = float((output - received).abs().max() / received.abs().max().clamp_min(1e-6))
    if gap > max(1e-3, 50 * torch.finfo(z.dtype).eps):
        raise TvlensError(
            f"{model_name(model)} changes the output of attention before it reaches the residual "
            "stream: contributions of paths are not additive, so paths cannot be patched"
        )
    _additive.add(model)


def _compute_receiver_activations(
    model: Any, senders: PatchingSetup, patches: list[Patch]
) -> list[Float[Tensor, "batch ..."]]:
    """Compute the receiver's activation with each sender patched."""
    receiver = patches[0].site
    prompts, layer = senders.base.prompts, receiver.layer
    stream_site = "resid_post" if receiver.head is None else "resid_pre"
    stream = run_source(
        model, prompts, component=stream_site, layers=[layer], positions=[-1]
    ).activations[layer]
    activations: dict[int, Tensor] = {}
    for members, change in _compute_sender_changes(model, senders):
        changed = stream + change
        if receiver.head is not None:
            changed = _project_stream(model, prompts, changed, receiver)
        for i, activation in zip(members, changed, strict=True):
            activations[i] = patches[i].select(activation, prompts.lengths)
    return [activations[i] for i in range(len(patches))]


def _compute_sender_changes(
    model: Any, senders: PatchingSetup
) -> Iterator[tuple[list[int], Float[Tensor, "sender batch pos d_model"]]]:
    """Compute the change of each sender's output from the corrupted to the clean run.

    It is the change of the attention layers' outputs, which includes a norm after them. As their
    inputs are replaced, one forward pass serves the senders of all layers, a head at a time.
    """
    by_head: dict[tuple, list[int]] = {}
    for i, patch in enumerate(senders.grid.patches):
        by_head.setdefault((patch.site.head, patch.position), []).append(i)
    base_outputs = dict(senders.base.site_activations.activations)
    before = _compute_attention_outputs(model, senders.base.prompts, base_outputs)
    for members in by_head.values():
        patched = {l: z.clone() for l, z in base_outputs.items()}
        for patch in (senders.grid.patches[i] for i in members):
            output, lengths = patched[patch.layer], senders.base.prompts.lengths
            index = patch.index(torch.arange(len(lengths)), patch.positions(lengths))
            output[index] = senders.source_part(patch).to(output)
        after = _compute_attention_outputs(model, senders.base.prompts, patched)
        layers = [senders.grid.patches[i].layer for i in members]
        yield members, torch.stack([after[l] - before[l] for l in layers])


def _compute_attention_outputs(
    model: Any, prompts: Batch, outputs: Mapping[int, Tensor]
) -> dict[int, Float[Tensor, "batch pos d_model"]]:
    """Compute the outputs of attention layers, given their heads' outputs."""
    activations: dict[int, Tensor] = {}

    hooks = [
        replace_at(Site("z", l).hook(model), lambda z, output=output: output.to(z))
        for l, output in outputs.items()
    ]
    hooks += [read_at(Site("attn_out", l).hook(model), activations, l) for l in outputs]
    run(model, prompts, hooks=hooks)
    return activations


def _project_stream(
    model: Any, prompts: Batch, stream: Float[Tensor, "sender batch pos d_model"], receiver: Site
) -> Float[Tensor, "sender batch pos ..."]:
    """Compute the receiver's activation from residual streams before its block."""
    senders, batch = stream.shape[:2]
    rows = prompts.repeat(senders)
    activations: dict[int, Tensor] = {}
    hooks = [
        replace_at(Site("resid_pre", receiver.layer).hook(model), lambda _: stream.flatten(0, 1)),
        read_at(receiver.hook(model), activations, receiver.layer),
    ]
    with skip_blocks(model, range(receiver.layer)):
        run(model, rows, hooks=hooks, stop_at_layer=receiver.layer + 1)
    received: Tensor = activations[receiver.layer].unflatten(0, (senders, batch))
    return received
