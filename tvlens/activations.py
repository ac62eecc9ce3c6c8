"""`collect`: activations at given sites and positions over many prompts, in bounded memory.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> states = tv.activations.collect(model, ["Q: cat A:"], ["z", "mlp_out"], positions=-1)
    >>> len(states) == 2 * model.cfg.n_layers
    True
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from .errors import TvlensError
from .field_checks import check_value
from .files import atomic_write, check_folder, reserve
from .integers import Integers, as_integer
from .models.families import weight_dtype
from .models.forward import Batch, check_runnable, run
from .models.hooks import read_at, without_logits
from .models.prompts import Prompts, read_prompts
from .progress import progress_bar
from .saved import reading
from .sites import Layers, Site, SiteName, parse_site
from .sites import sites as sites_of

# safetensors' names of the dtypes that activations come in.
_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}

# Key and first value of the checksum in the header of a file.
_CHECKSUM = "tvlens.checksum"
_NO_CHECKSUM = "0" * 32


class NotCollectedError(TvlensError, KeyError):
    """A site that was not collected; a `KeyError` too, as mappings have it."""

    __str__ = TvlensError.__str__


@dataclass(frozen=True)
class Activations(Mapping):
    """Activations by site name ("resid_post.3"), each `[prompt, position, ...]` on the CPU.

    Ragged prompts asked at all positions are padded with zeros up to the longest one.
    Attention patterns have their query position first: `[prompt, position, head, key]`.

    Attributes:
        tensors: site name -> tensor.
        lengths: number of positions of each prompt.
    """

    tensors: dict[str, Tensor]
    lengths: Int[Tensor, " prompt"]

    def __getitem__(self, site: str | Site) -> Tensor:
        name = _key(site)
        if name not in self.tensors:
            raise NotCollectedError(f"{site!s} was not collected: choose from {', '.join(self)}")
        return self.tensors[name]

    def __contains__(self, site: object) -> bool:
        return _key(site) in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def stack(self, name: str) -> Float[Tensor, "layer prompt position ..."]:
        """Stack the collected layers of one component, in order of layer."""
        name, layer = parse_site(name)
        keys = sorted((k for k in self if k.split(".")[0] == name), key=_layer)
        if layer is not None:
            keys = [key for key in keys if _layer(key) == layer]
        if not keys:
            raise TvlensError(f"{name} was not collected: choose from {', '.join(self)}")
        return torch.stack([self.tensors[k] for k in keys])

    @classmethod
    def load(cls, path: str | os.PathLike, *, verify: bool = True) -> "Activations":
        """Read what `collect(..., file=path)` wrote; tensors are mapped, not copied.

        Args:
            verify: compare the whole file with its checksum, in one pass over it.

        Raises:
            TvlensError: no such file, it is damaged, or it holds no activations.
        """
        from safetensors import safe_open

        with reading(path, "activations"):
            with safe_open(path, framework="pt") as file:
                checksum = (file.metadata() or {}).get(_CHECKSUM)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if verify and checksum and checksum != _file_checksum(path, checksum):
                raise TvlensError("it is damaged: its content is not what was written")
            lengths = tensors.pop("lengths")
            sizes: dict[str, int] = {}
            check_value("lengths", lengths, Int[Tensor, " prompt"], sizes)
            for name, values in tensors.items():
                parse_site(name.split(" ")[0])
                check_value(name, values, Float[Tensor, "prompt position ..."], sizes | {})
        return cls(tensors, lengths)


def collect(
    model: Any,
    prompts: Prompts,
    sites: SiteName | str | Site | Sequence[str | Site] = "resid_post",
    *,
    layers: Layers = "all",
    positions: Integers | None = None,
    batch_size: int = 16,
    file: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Activations:
    """Collect activations over many prompts, holding one batch of them at a time.

    Args:
        model: any model that `load` gives.
        prompts: texts (tokenised by the model), token lists, a tensor of them, padded or not, a
            tokenizer's output with its attention mask, built prompts (with images or without),
            images, or the input vectors of a model that reads vectors. See `read_prompts` for
            what counts as padding.
        sites: component names (at `layers`), hook names and sites.
        layers: "all", one layer or several, for component names.
        positions: one position or several, negative ones from the end of each prompt; all of
            them by default.
        batch_size: prompts per forward pass. Cost: len(prompts) / batch_size forwards, only up
            to the last asked layer.
        progress: show a progress bar; by default on a terminal.
        file: write to this safetensors file, in bounded memory, and map it.

    Raises:
        TvlensError: unknown site, a hook that never fires, a prompt beyond the context length,
            padding that cannot be told from the text, a model in training mode.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> states = tv.collect(model, ["Q: cat A:", "Q: dog A:"], "resid_post", positions=-1)
        >>> states.stack("resid_post").shape == (model.cfg.n_layers, 2, 1, model.cfg.d_model)
        True
    """
    check_runnable(model)
    batch_size = as_integer(batch_size, name="batch_size", minimum=1)
    addresses = _resolve_sites(model, sites, layers)
    rows = read_prompts(model, prompts)
    all_prompts = Batch.of(model, rows, process_images=False)
    shapes = {str(s): _stored_shape(model, s, all_prompts, positions) for s in addresses}
    dtype = weight_dtype(model)
    if file is not None:
        if os.path.isdir(file):
            raise TvlensError(f"file={str(file)!r} is a folder: give the name of a file in it")
        check_folder(Path(file).parent)
    storage = _in_memory if file is None else _in_file
    with storage(shapes, dtype, all_prompts.lengths, file) as values:
        starts = range(0, len(all_prompts), batch_size)
        for start in progress_bar(starts, desc="collecting", progress=progress):
            part = slice(start, start + batch_size)
            batch = Batch.of(model, rows[part])
            for site, activation in _stream(model, batch, addresses, positions).items():
                target = values[site][part]
                target[tuple(slice(n) for n in activation.shape)] = activation
    if file is None:
        return Activations(values, all_prompts.lengths)
    return Activations.load(file, verify=False)


def _resolve_sites(model: Any, sites: Any, layers: Any) -> list[Site]:
    """Resolve the requested sites on the model, each once."""
    items = [sites] if isinstance(sites, str | Site) else sites
    if not isinstance(items, Iterable) or not all(isinstance(i, str | Site) for i in items):
        raise TvlensError(f"sites are names or `Site`s, one or several, not {sites!r}")
    resolved: dict[str, Site] = {}
    for item in items:
        for site in (
            [item.on(model)] if isinstance(item, Site) else sites_of(model, item, layers=layers)
        ):
            if site.position is not None:
                raise TvlensError(f"{site}: give positions to collect, not to a site")
            resolved[str(site)] = site
    if not resolved:
        raise TvlensError("no site to collect")
    return list(resolved.values())


def _stored_shape(
    model: Any, site: Site, batch: Batch, positions: Integers | None
) -> tuple[int, ...]:
    """Shape of a site's tensor over all prompts: [prompt, position, ...]."""
    longest = int(batch.lengths.max())
    width = longest if positions is None else batch.positions(positions).shape[1]
    sizes = dict(zip(site.axes, site.shape(model, pos=longest), strict=True))
    if site.head is not None:
        sizes.pop(site.axes[site.head_axis])
    return len(batch), width, *(n for axis, n in sizes.items() if axis not in ("batch", "pos"))


def _stream(
    model: Any, batch: Batch, addresses: Sequence[Site], positions: Integers | None
) -> dict[str, Tensor]:
    """Run one batch and return the activations at the given sites and positions, on the CPU."""
    absolute = None if positions is None else batch.positions(positions)
    activations: dict[str, Tensor] = {}
    rows = torch.arange(len(batch))[:, None]

    def select(site: Site) -> Callable[[Tensor], Tensor]:
        def at_positions(activation: Tensor) -> Tensor:
            site.check_shape(model, activation)
            selected = activation.detach().movedim(site.position_axis, 1)
            if site.head is not None:
                selected = selected.select(2, site.head)  # behind the position, also in a pattern
            if absolute is not None:
                device = selected.device
                selected = selected[rows.to(device), absolute.to(device)]
            return selected.cpu().clone()

        return at_positions

    hooks = [read_at(site.hook(model), activations, str(site), select(site)) for site in addresses]
    last = max(site.layer for site in addresses)
    if last + 1 < model.cfg.n_layers:
        run(model, batch, hooks=hooks, stop_at_layer=last + 1)
    else:
        run(model, batch, hooks=[*hooks, *without_logits(model)])
    if absolute is None:
        real = torch.arange(int(batch.lengths.max())) < batch.lengths[:, None]
        for site, activation in activations.items():
            activations[site] = activation * real.view(*real.shape, *[1] * (activation.ndim - 2))
    return activations


@contextlib.contextmanager
def _in_memory(shapes: dict, dtype: torch.dtype, lengths: Tensor, file: None) -> Iterator[dict]:
    yield {name: torch.zeros(shape, dtype=dtype) for name, shape in shapes.items()}


@contextlib.contextmanager
def _in_file(
    shapes: dict, dtype: torch.dtype, lengths: Tensor, file: str | os.PathLike
) -> Iterator[dict]:
    """Open a safetensors file of final size, which is filled through a memory map batch by batch.

    The format is eight bytes of header length, a JSON header, and the raw tensors; the library
    itself can only write tensors that are in memory. Disk space is reserved at once:
    a map of a file that finds the disk full later kills the process. The checksum is of all bytes
    but its own, and written last.
    """
    size = torch.empty(0, dtype=dtype).element_size()
    header: dict[str, Any] = {"__metadata__": {_CHECKSUM: _NO_CHECKSUM}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * size
        header[name] = {"dtype": _DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    start, end = end, end + 8 * len(lengths)
    header["lengths"] = {"dtype": "I64", "shape": [len(lengths)], "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with atomic_write(Path(file)) as temporary:
        with temporary.open("wb") as out:
            out.write(len(head).to_bytes(8, "little") + head)
            out.flush()
            reserve(out.fileno(), 8 + len(head) + end, file)
        raw = np.memmap(temporary, dtype=np.uint8, mode="r+", offset=8 + len(head), shape=(end,))
        whole = torch.from_numpy(raw)
        yield {
            name: whole[slice(*header[name]["data_offsets"])].view(dtype).view(shape)
            for name, shape in shapes.items()
        }
        whole[start:end].view(torch.int64).copy_(lengths)
        raw.flush()
        checksum = _file_checksum(temporary, _NO_CHECKSUM).encode()
        with temporary.open("r+b") as out:
            out.seek(8 + head.index(_NO_CHECKSUM.encode()))
            out.write(checksum)


def _file_checksum(path: str | os.PathLike, checksum: str) -> str:
    """Compute a digest of a file's bytes, without the checksum in its header."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        size = file.read(8)
        header = file.read(int.from_bytes(size, "little"))
        blank = _NO_CHECKSUM.encode()
        digest.update(size + header.replace(checksum.encode(), blank, 1))
        while part := file.read(1 << 24):
            digest.update(part)
    return digest.hexdigest()


def _key(site: object) -> str:
    """Key of a site; a hook name has the key of its site."""
    text = str(site)
    if text.startswith("blocks."):
        name, layer = parse_site(text)
        return str(Site(name, layer))
    return text


def _layer(site: str) -> int:
    return int(site.split(".")[1].split()[0])
