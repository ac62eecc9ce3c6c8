"""Hooks that read and write activations or skip blocks, and locks of models.

Everything here that changes a model is a context manager that undoes the change, and holds the
model's lock, as hooks and skipped blocks are state of the model.
"""

import contextlib
import functools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers
from .families import family, input_device, weight_dtype

# The name of a hook point, and a function of (activation, hook point) that reads or replaces it.
Hook = tuple[str, Callable]

# An index into an activation `[row, pos, ...]`, or a function from the activation to one.
Index = tuple | Callable[[Tensor], tuple]

# A replacement: a tensor, or a function of the activation.
Edit = Tensor | Callable[[Tensor], Tensor]

# model -> its lock
_locks: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
_new_lock = threading.Lock()

# model -> for each block, the length of the tuple that it returns; None for a tensor
_block_outputs: weakref.WeakKeyDictionary[Any, tuple[int | None, ...]] = weakref.WeakKeyDictionary()


def lock_of(model: Any) -> Any:
    """Return the model's reentrant lock."""
    with _new_lock:
        return _locks.setdefault(model, threading.RLock())


def exclusive(manager: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
    """Decorate a context manager's generator to hold the lock of the model, its first argument.

    Two threads that each hold a model and wait for the other's wait forever: take several models
    in the same order everywhere.
    """

    @functools.wraps(manager)
    def locked_manager(model: Any, *args: Any, **options: Any) -> Iterator[None]:
        with lock_of(model):
            yield from manager(model, *args, **options)

    return locked_manager


@contextlib.contextmanager
@exclusive
def locked(model: Any) -> Iterator[None]:
    """Keep other threads from running tvlens on this model inside the `with` block."""
    yield


@contextlib.contextmanager
@exclusive
def with_hooks(model: Any, hooks: Sequence[Hook]) -> Iterator[None]:
    """Run with forward hooks; they are removed afterwards, even after an exception.

    Raises:
        TvlensError: a forward pass ran to its end, but one of the hooks never fired.
    """
    fired: set[int] = set()
    passes = 0

    def count_pass(*_: Any) -> None:
        nonlocal passes
        passes += 1

    def record(i: int, function: Callable) -> Callable:
        # TransformerLens passes the hook point by the keyword `hook`.
        def run_hook(activation: Tensor, hook: Any) -> Tensor | None:
            fired.add(i)
            edited: Tensor | None = function(activation, hook)
            return edited

        return run_hook

    handle = model.register_forward_hook(count_pass)
    try:
        recorded = [(name, record(i, function)) for i, (name, function) in enumerate(hooks)]
        with model.hooks(fwd_hooks=recorded):
            yield
    finally:
        handle.remove()
    silent = [name for i, (name, _) in enumerate(hooks) if i not in fired]
    if passes and silent:
        raise TvlensError(f"hook {silent[0]!r} never fired: this model does not compute it")


def read_at(
    name: str,
    activations: MutableMapping,
    key: Any,
    select: Callable[[Tensor], Tensor] = torch.clone,
) -> Hook:
    """Create a hook that stores an activation.

    Args:
        name: name of the hook point.
        activations: dictionary in which it is stored.
        key: under which key.
        select: function of the activation to store; by default a copy, as models may reuse memory.
    """

    def read(activation: Tensor, hook: Any) -> None:
        activations[key] = select(activation)

    return name, read


def write_at(name: str, *edits: tuple[Index, Edit]) -> Hook:
    """Create a hook that writes parts of an activation into a copy of it.

    Args:
        name: name of the hook point.
        edits: (index, value) pairs; see `Index` and `Edit`.
    """

    def write(activation: Tensor, hook: Any) -> Tensor:
        edited = activation.clone()
        for index, edit in edits:
            place = index(activation) if callable(index) else index
            edited[place] = edit(edited[place]) if callable(edit) else edit.to(edited)
        return edited

    return name, write


def replace_at(name: str, edit: Callable[[Tensor], Tensor]) -> Hook:
    """Create a hook that replaces an activation by a function of it."""
    return name, lambda activation, hook: edit(activation)


def unembed_only(model: Any, positions: Int[Tensor, "row k"]) -> Hook:
    """Create a hook that selects positions before the unembedding: `[row, pos] -> [row, k]`."""
    rows = torch.arange(len(positions))[:, None]

    def select(activation: Tensor) -> Tensor:
        return activation[rows.to(activation.device), positions.to(activation.device)]

    return replace_at(family(model).unembedding_input, select)


def without_logits(model: Any) -> list[Hook]:
    """Create hooks that unembed one position only, for runs whose logits are not read."""
    architecture = family(model)
    if architecture.unembedding_input != "unembed.hook_in" or architecture.is_classifier:
        return []
    return [replace_at("unembed.hook_in", lambda activation: activation[:, :1])]


def row_positions(positions: Integers, activation: Tensor) -> tuple[Tensor, Int[Tensor, " row"]]:
    """Build the index of one position in each row of an activation `[row, pos, ...]`.

    Args:
        positions: one position for all rows, or one per row; negative ones count from the end of
            the activation.

    Raises:
        TvlensError: neither one position nor one per row, or one outside the activation.
    """
    rows, length = activation.shape[:2]
    numbers = as_integers(positions, name="positions")
    if len(numbers) not in (1, rows):
        raise TvlensError(f"{len(numbers)} positions for {rows} rows: give one, or one per row")
    for number in numbers:
        if not -length <= number < length:
            raise TvlensError(f"position {number} does not exist: there are 0 to {length - 1}")
    device = activation.device
    return torch.arange(rows, device=device), torch.tensor(numbers, device=device).expand(rows)


@contextlib.contextmanager
@exclusive
def restricted_vocabulary(model: Any, vocabulary: Sequence[int] | None) -> Iterator[None]:
    """Restrict logits to some tokens inside the `with` block; the others are not computed."""
    if vocabulary is None:
        yield
        return
    linear = getattr(model.unembed, "original_component", None) or model.unembed
    if isinstance(linear, torch.nn.Linear):
        tokens = torch.tensor(vocabulary, device=linear.weight.device)
        weight = linear.weight[tokens]
        bias = None if linear.bias is None else linear.bias[tokens]
        restricted = functools.partial(torch.nn.functional.linear, weight=weight, bias=bias)
    else:
        forward = linear.forward

        def restricted(residual: Tensor) -> Tensor:
            logits: Tensor = forward(residual)[..., vocabulary]
            return logits

    linear.__dict__["forward"] = restricted
    try:
        yield
    finally:
        del linear.__dict__["forward"]


@contextlib.contextmanager
@exclusive
def skip_blocks(model: Any, blocks: Iterable[int]) -> Iterator[None]:
    """Skip blocks inside the `with` block: each returns its input, through its output's hook.

    TransformerLens' `start_at_layer` on a bridge would run the blocks below it all the same.
    """
    points = model.hook_dict  # rebuilt at every access
    output_points = {i: points[f"blocks.{i}.hook_resid_post"] for i in blocks}
    tuple_lengths = block_outputs(model)

    def identity(i: int, point: Callable) -> Callable:
        length = tuple_lengths[i]
        padding = [] if length is None else [None] * (length - 1)

        def forward(hidden: Tensor, *_: Any, **__: Any) -> Any:
            return point(hidden) if length is None else (point(hidden), *padding)

        return forward

    for i, point in output_points.items():
        model.blocks[i].__dict__["forward"] = identity(i, point)
    try:
        yield
    finally:
        for i in output_points:
            del model.blocks[i].__dict__["forward"]


def block_outputs(model: Any) -> tuple[int | None, ...]:
    """Return the length of each block's output tuple, or None for a tensor.

    A skipped block must return the same form. Observed at the first call, which costs a forward
    pass of one token (one image for a vision encoder).
    """
    with locked(model):
        if model not in _block_outputs:
            _block_outputs[model] = _observe_block_outputs(model)
        return _block_outputs[model]


def _observe_block_outputs(model: Any) -> tuple[int | None, ...]:
    lengths: dict[int, int | None] = {}

    def observe(index: int) -> Callable:
        def record_length(module: Any, inputs: Any, output: Any) -> None:
            lengths[index] = len(output) if isinstance(output, tuple | list) else None

        return record_length

    handles = [b.register_forward_hook(observe(i)) for i, b in enumerate(model.blocks)]
    try:
        with torch.no_grad(), _without_hooks(model):
            _forward_one_position(model)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(lengths.get(i) for i in range(len(model.blocks)))


@contextlib.contextmanager
def _without_hooks(model: Any) -> Iterator[None]:
    """Disable the hooks of the model's hook points inside the `with` block."""
    points = list(model.hook_dict.values())
    hooks = [point._forward_hooks for point in points]
    for point in points:
        point._forward_hooks = OrderedDict()
    try:
        yield
    finally:
        for point, point_hooks in zip(points, hooks, strict=True):
            point._forward_hooks = point_hooks


def _forward_one_position(model: Any) -> None:
    """Run the smallest forward pass: one token, one image, or one input vector."""
    device, shape = input_device(model), family(model).image_shape
    if shape is not None:
        model(torch.zeros(1, *shape, device=device, dtype=weight_dtype(model)))
        return
    try:
        model(torch.zeros(1, 1, dtype=torch.long, device=device))
    except (RuntimeError, TypeError, ValueError):  # a model that reads vectors
        model(torch.zeros(1, 1, model.cfg.d_vocab, device=device, dtype=weight_dtype(model)))
