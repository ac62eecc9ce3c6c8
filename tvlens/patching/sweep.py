"""`Sweep`: which patches a call asks for, as a grid over layers, heads and positions."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import TvlensError
from ..sites import Site, component

Choice = str | int | Iterable[int] | None


@dataclass(frozen=True)
class Cell:
    """One patch: a site's layer, one head or all of them, one position or all of them."""

    site: Site

    @property
    def layer(self) -> int:
        return self.site.layer

    @property
    def position(self) -> int | None:
        return self.site.position

    @property
    def own(self) -> Any:
        """The patched position, or all of them, as an index."""
        return slice(None) if self.position is None else self.position

    def part(self, activation: Tensor) -> Tensor:
        """What the patch takes from a whole activation of the prompts."""
        return activation[self.index(slice(None), self.own)]

    def index(self, rows: Any, position: Any) -> tuple:
        """Where the patch stands in the whole activation, for these rows and positions."""
        places = {"batch": rows, "pos": position}
        if self.site.head_axis is not None:
            head = slice(None) if self.site.head is None else self.site.head
            places[self.site.axes[self.site.head_axis]] = head
        return tuple(places[axis] for axis in self.site.axes if axis in places)


@dataclass(frozen=True)
class Sweep:
    """A grid of patches.

    Attributes:
        component: what is patched.
        axes: axis name -> its coordinates, in order; axes of one given value are left out.
        cells: every patch, in the order of the flattened grid.
    """

    component: str
    axes: dict[str, list[int]]
    cells: list[Cell]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(coordinates) for coordinates in self.axes.values())


def sweep(
    model: Any, site: str, *, layers: Choice, heads: Choice, positions: Choice, length: int
) -> Sweep:
    """Resolve what was asked on a model and prompts of `length` positions.

    "all" sweeps over all there are, several numbers over these, one number is taken without an
    axis, and None patches all heads or positions together.
    """
    name = component(site)
    probe = Site(name, 0)
    with_heads = probe.head_axis is not None
    if isinstance(positions, str) and positions == "auto":
        positions = None if with_heads else "all"
    head_count = probe.shape(model, pos=1)[probe.head_axis] if with_heads else 0
    chosen = {
        "layer": _coordinates("layers", layers, model.cfg.n_layers),
        "head": _coordinates("heads", heads if with_heads else None, head_count),
        "position": _coordinates("positions", positions, length),
    }
    if chosen["layer"][0] == [None]:
        raise TvlensError("layers=None: patching all layers together is patching the last one")
    grid = itertools.product(*(values for values, _ in chosen.values()))
    cells = [Cell(Site(name, l, head=h, position=p)) for l, h, p in grid]
    cells[0].site.hook(model)  # a component this model lacks is an error before any forward
    axes = {axis: values for axis, (values, swept) in chosen.items() if swept}
    return Sweep(name, axes, cells)


def _coordinates(name: str, choice: Choice, count: int) -> tuple[list, bool]:
    """The coordinates along one axis, and whether they are swept."""
    if choice is None:
        return [None], False
    if isinstance(choice, str):
        if choice != "all":
            raise TvlensError(f"{name} must be 'all', numbers or None, not {choice!r}")
        return list(range(count)), True
    single = isinstance(choice, int)
    numbers = [choice] if single else _numbers(choice)
    for number in numbers:
        if not -count <= number < count:
            raise TvlensError(f"{name}: {number} does not exist, there are 0 to {count - 1}")
    if not numbers:
        raise TvlensError(f"{name} is empty")
    return [number % count for number in numbers], not single


def _numbers(choice: Iterable[int]) -> list[int]:
    return choice.tolist() if isinstance(choice, Tensor) else [int(n) for n in choice]
