"""`PatchGrid`: the patches of a call, as a grid over layers, heads and positions."""

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import TvlensError
from ..integers import Integers, as_integers, is_integer
from ..sites import Site, SiteName, layers_with, parse_site, resolve_layers

Choice = Literal["all"] | Integers | None
Positions = Literal["auto"] | Choice


@dataclass(frozen=True)
class Patch:
    """One patch: a site's layer, one head or all of them, one position or all of them."""

    site: Site

    @property
    def layer(self) -> int:
        """The layer of the site."""
        return self.site.layer

    @property
    def position(self) -> int | None:
        """The position of the site; None means all."""
        return self.site.position

    def positions(self, lengths: Int[Tensor, " row"]) -> Int[Tensor, " row"] | slice:
        """Return the patched position in prompts of these lengths, or all of them."""
        return slice(None) if self.position is None else self.first_position(lengths)

    def first_position(self, lengths: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Return the first position that the patch can change."""
        position = self.position or 0
        return (lengths if position < 0 else torch.zeros_like(lengths)) + position

    def select(self, activation: Tensor, lengths: Int[Tensor, " row"]) -> Tensor:
        """Select the patched part of an activation of prompts of these lengths."""
        return activation[self.index(torch.arange(len(lengths)), self.positions(lengths))]

    def index(self, rows: Any, positions: Any) -> tuple:
        """Build the index of the patched part in an activation, for these rows and positions."""
        index = {"batch": rows, "pos": positions}
        if self.site.head_axis is not None:
            head = slice(None) if self.site.head is None else self.site.head
            index[self.site.axes[self.site.head_axis]] = head
        return tuple(index[axis] for axis in self.site.axes if axis in index)


@dataclass(frozen=True)
class PatchGrid:
    """A grid of patches.

    Attributes:
        component: the patched component.
        axes: axis name -> its coordinates, in order; axes of one given value are left out.
        patches: every patch, in the order of the flattened grid.
    """

    component: str
    axes: dict[str, list[int]]
    patches: list[Patch]

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of coordinates on each axis."""
        return tuple(len(coordinates) for coordinates in self.axes.values())


@dataclass(frozen=True)
class SweptSites:
    """The sites of a sweep, as in the arguments of `patch`.

    "all" sweeps over all there are (layers: all that have the component), several numbers over
    these, one number is used without an axis, and None patches all heads or positions together.
    Where lengths differ, positions count from the start of each prompt or, negative ones, from its
    end. A site that contains its layer, head or position ("blocks.5.hook_resid_pre", a `Site`) is
    swept there alone.

    Attributes:
        site: component, hook name or `Site`.
        layers, heads, positions: "all", numbers, one number or None; "auto" positions are all
            positions of residual sites, and None for heads.
    """

    site: SiteName | str | Site
    layers: Choice = "all"
    heads: Choice = "all"
    positions: Positions = "auto"

    def grid(self, model: Any, lengths: Int[Tensor, " row"]) -> PatchGrid:
        """Resolve layers, heads and positions on a model and the lengths of all prompts.

        Raises:
            TvlensError: a component, layer, head or position that the model does not have.
        """
        name, site_layer = parse_site(self.site)
        layers = resolve_layers(self.layers, site_layer, count=model.cfg.n_layers)
        heads, positions = self.heads, self.positions
        if isinstance(self.site, Site):
            heads = _choose_named("heads", heads, self.site.head)
            positions = _choose_named("positions", positions, self.site.position)
        if isinstance(layers, str) and layers == "all":
            layers = layers_with(model, name)
        layer_choice = _coordinates("layers", layers, model.cfg.n_layers)
        if layer_choice[0] == [None]:
            raise TvlensError(
                "layers=None: patching all layers together equals patching the last one"
            )
        probe = Site(name, layer_choice[0][0])
        with_heads = probe.head_axis is not None
        if not with_heads and not (heads is None or (isinstance(heads, str) and heads == "all")):
            raise TvlensError(f"{name} has no heads: leave heads={heads!r} out")
        if isinstance(positions, str) and positions == "auto":
            positions = None if with_heads else "all"
        head_count = probe.shape(model, pos=1)[probe.head_axis] if with_heads else 0
        chosen = {
            "layer": layer_choice,
            "head": _coordinates("heads", heads if with_heads else None, head_count),
            "position": _positions(positions, lengths),
        }
        grid = itertools.product(*(values for values, _ in chosen.values()))
        patches = [Patch(Site(name, l, head=h, position=p)) for l, h, p in grid]
        patches[0].site.hook(model)  # a component this model lacks is an error before any forward
        axes = {axis: values for axis, (values, swept) in chosen.items() if swept}
        return PatchGrid(name, axes, patches)


def _positions(choice: Choice, lengths: Int[Tensor, " row"]) -> tuple[list, bool]:
    """Resolve positions; negative ones stay negative if lengths differ."""
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == longest or choice is None:
        return _coordinates("positions", choice, shortest)
    if isinstance(choice, str):
        raise TvlensError(
            f"prompts of {shortest} to {longest} tokens have no common positions to sweep: give "
            "positions, -1 for the last of each, or None to patch all of a prompt at once"
        )
    numbers = as_integers(choice, name="positions")
    values, swept = _coordinates("positions", choice, shortest)
    return [v - shortest if n < 0 else v for n, v in zip(numbers, values, strict=True)], swept


def _coordinates(name: str, choice: Choice, count: int) -> tuple[list, bool]:
    """Return the coordinates along one axis, and whether they are swept."""
    if choice is None:
        return [None], False
    if isinstance(choice, str):
        if choice != "all":
            raise TvlensError(f"{name} must be 'all', numbers or None, not {choice!r}")
        return list(range(count)), True
    numbers = as_integers(choice, name=name)
    for number in numbers:
        if not -count <= number < count:
            raise TvlensError(f"{name}: {number} does not exist, there are 0 to {count - 1}")
    return [number % count for number in numbers], not is_integer(choice)


def _choose_named(name: str, choice: Choice, number: int | None) -> Choice:
    """Choose between the argument and the head or position of the site."""
    if number is None:
        return choice
    if not isinstance(choice, str) and choice is not None:
        raise TvlensError(f"the site names one of {name}, {number}: leave {name}={choice!r} out")
    return number
