"""`Site`: the address of an activation by component, layer, head and position.

Example:
    >>> model = tv.load("smollm2-135m")
    >>> "resid_post" in tv.sites.available(model)
    True
"""

import re
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, cast

from torch import Tensor

from .errors import TvlensError, unknown
from .integers import Integer, as_integer, as_integers
from .models.families import family

# What a site is called; where one is asked for, a whole hook name will do as well.
SiteName = Literal[
    "resid_pre",
    "resid_mid",
    "resid_post",
    "attn_out",
    "mlp_out",
    "z",
    "q",
    "k",
    "v",
    "pattern",
    "head_out",
    "residual",
    "resid",
]

# Which layers: all of them, one (negative ones count from the last), or several.
Layers = Literal["all"] | SupportsIndex | Iterable[SupportsIndex]

# Component -> (hook name inside a block, axes after the batch axis).
COMPONENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "resid_pre": ("hook_resid_pre", ("pos", "d_model")),
    "resid_mid": ("hook_resid_mid", ("pos", "d_model")),
    "resid_post": ("hook_resid_post", ("pos", "d_model")),
    "attn_out": ("hook_attn_out", ("pos", "d_model")),
    "mlp_out": ("hook_mlp_out", ("pos", "d_model")),
    "z": ("attn.hook_z", ("pos", "head", "d_head")),
    "q": ("attn.hook_q", ("pos", "head", "d_head")),
    "k": ("attn.hook_k", ("pos", "kv_head", "d_head")),
    "v": ("attn.hook_v", ("pos", "kv_head", "d_head")),
    "pattern": ("attn.hook_pattern", ("head", "pos", "key_pos")),
}

# A site takes integers of every library and holds ints.
if TYPE_CHECKING:
    _Int = int
else:
    _Int = Integer
_IN_NAME = cast(int, None)  # the layer of a site whose hook name contains it

# What people also call them. A head's output is z @ W_O: patching z patches it.
ALIASES = {"head_out": "z", "residual": "resid_post", "resid": "resid_post"}

# model -> its hooks: a bridge builds its dictionary at every access
_hook_names: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


# "blocks.5.hook_resid_pre" as TransformerLens writes it, and "resid_pre.5" as a `Site` is written.
_HOOK_NAME = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<rest>.+)")
_SITE_NAME = re.compile(r"(?P<rest>[^.]+)\.(?P<layer>\d+)")


def parse_site(name: "str | Site") -> tuple[str, int | None]:
    """Parse a name into component and layer; resolves aliases and `hook_` spellings.

    Args:
        name: a component ("resid_pre"), a hook name of TransformerLens ("blocks.5.hook_resid_pre")
            or a site's own ("resid_pre.5"). Only the last two contain a layer.

    Raises:
        TvlensError: no such component; names the nearest ones.
    """
    if isinstance(name, Site):
        return name.component, name.layer
    text = str(name)
    parts = _HOOK_NAME.fullmatch(text) or _SITE_NAME.fullmatch(text)
    short = (parts["rest"] if parts else text).rsplit(".", 1)[-1].removeprefix("hook_")
    short = ALIASES.get(short, short)
    if short not in COMPONENTS:
        raise unknown("site", name, [*COMPONENTS, *ALIASES])
    return short, int(parts["layer"]) if parts else None


def component(name: "str | Site") -> str:
    """Return the canonical name of a component at all layers.

    Raises:
        TvlensError: no such component, or a name that contains a layer.
    """
    short, layer = parse_site(name)
    if layer is not None:
        raise TvlensError(
            f"site {str(name)!r} names layer {layer}, but here every layer is read: give {short!r}"
        )
    return short


def resolve_layers(layers: Any, site_layer: int | None, *, count: int) -> Any:
    """Choose between the argument `layers` and the layer that a site's name contains.

    Args:
        layers: "all" (which the name narrows), one layer or several, or None.
        site_layer: layer in the name.
        count: number of layers of the model.

    Raises:
        TvlensError: a layer in the name and other layers asked for.
    """
    if site_layer is None:
        return layers
    if isinstance(layers, str) and layers == "all":
        return site_layer
    numbers = (
        [] if layers is None or isinstance(layers, str) else as_integers(layers, name="layers")
    )
    if [n + count if n < 0 else n for n in numbers] != [site_layer]:
        raise TvlensError(
            f"the site names layer {site_layer}, but layers={layers!r}: name one of the two"
        )
    return layers


@dataclass(frozen=True)
class Site:
    """The address of an activation.

    Attributes:
        component: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (or head_out), q, k, v,
            pattern.
        layer: block index; negative ones count from the last block. A hook name contains it:
            `Site("blocks.5.hook_resid_pre")`.
        head: one head, or every head. Keys and values of grouped-query models have fewer heads.
        position: one position, or every one; negative ones count from the end of each prompt.

    Example:
        >>> model = tv.load("smollm2-135m")
        >>> tv.Site("resid_post", 1).hook(model)
        'blocks.1.hook_resid_post'
        >>> print(tv.Site("z", 1, head=2))
        z.1 head 2
    """

    component: str
    layer: _Int = _IN_NAME
    head: _Int | None = None
    position: _Int | None = None

    def __post_init__(self) -> None:
        name, name_layer = parse_site(self.component)
        layer = name_layer if self.layer is None else as_integer(self.layer, name="layer")
        if layer is None:
            raise TvlensError(f"{name} needs a layer: Site({name!r}, layer)")
        if name_layer is not None and layer != name_layer:
            raise TvlensError(f"{self.component!r} names layer {name_layer}, not {layer}: give one")
        object.__setattr__(self, "component", name)
        object.__setattr__(self, "layer", layer)
        for place in ("head", "position"):
            if (value := getattr(self, place)) is not None:
                object.__setattr__(self, place, as_integer(value, name=place))
        if self.head is not None and self.head_axis is None:
            raise TvlensError(f"{self.component} has no heads: leave head={self.head} out")

    def __str__(self) -> str:
        parts = [f"{self.component}.{self.layer}"]
        parts += [f"head {self.head}"] if self.head is not None else []
        parts += [f"position {self.position}"] if self.position is not None else []
        return " ".join(parts)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes of the whole activation, batch first."""
        return ("batch", *COMPONENTS[self.component][1])

    @property
    def head_axis(self) -> int | None:
        """Index of the axis of heads; None without one."""
        return next((i for i, axis in enumerate(self.axes) if axis.endswith("head")), None)

    @property
    def position_axis(self) -> int:
        """Index of the axis of (query) positions."""
        return self.axes.index("pos")

    def on(self, model: Any) -> "Site":
        """Resolve layer and head on a model.

        Raises:
            TvlensError: the model has no such layer or head.
        """
        layers = model.cfg.n_layers
        layer = self.layer + layers if self.layer < 0 else self.layer
        if not 0 <= layer < layers:
            raise TvlensError(
                f"layer {self.layer} does not exist: the model has layers 0 to {layers - 1}"
            )
        heads = family(model).heads[self.axes[self.head_axis]] if self.head is not None else 0
        if self.head is not None and not -heads <= self.head < heads:
            raise TvlensError(
                f"head {self.head} of {self.component} does not exist: heads 0 to {heads - 1}"
            )
        head = self.head % heads if self.head is not None else None
        return replace(self, layer=layer, head=head)

    def hook(self, model: Any) -> str:
        """Return the name of the hook point on `model`.

        Raises:
            TvlensError: the model has no such layer, head or hook point.
        """
        site = self.on(model)
        if site.component == "resid_mid" and family(model).is_post_norm:
            # TransformerLens' alias points behind the MLP there; the state between attention
            # and MLP is what the first layer norm gives.
            return f"blocks.{site.layer}.ln1.hook_out"
        unreadable = family(model).unreadable_components
        if site.component in unreadable:
            raise TvlensError(
                f"latent attention keeps no {site.component} as [pos, head, d_head]: choose from "
                + ", ".join(c for c in COMPONENTS if c not in unreadable)
            )
        name = f"blocks.{site.layer}.{COMPONENTS[site.component][0]}"
        hooks = _hook_names.setdefault(model, set())
        if name not in hooks:
            hooks.update(model.hook_dict)
        if name not in hooks:
            have = [c for c in COMPONENTS if f"blocks.{site.layer}.{COMPONENTS[c][0]}" in hooks]
            raise TvlensError(
                f"this model has no {site.component} at layer {site.layer}; it has "
                + ", ".join(have)
            )
        return name

    def check_shape(self, model: Any, activation: Tensor, *, any_width: bool = False) -> None:
        """Raise TvlensError unless an activation of the model has this site's axes.

        Args:
            any_width: allow any width of heads and any number of keys.
        """
        pos = activation.shape[self.position_axis] if activation.ndim == len(self.axes) else 1
        expected = self.shape(model, batch=len(activation), pos=pos)
        free = ("d_head", "key_pos") if any_width else ()
        pairs = zip(self.axes, activation.shape, expected, strict=False)
        if activation.ndim != len(expected) or any(
            size != expected_size for axis, size, expected_size in pairs if axis not in free
        ):
            raise TvlensError(
                f"{self} of this model is {list(activation.shape)} and not {list(expected)}, "
                f"[{', '.join(self.axes)}]: it cannot be read here"
            )

    def shape(self, model: Any, *, batch: int = 1, pos: int | None = None) -> tuple[int, ...]:
        """Return the shape of the activation for `batch` prompts of `pos` positions.

        `pos` defaults to the context length, which for vision models is the number of patches
        and the class token.
        """
        self.hook(model)
        pos = model.cfg.n_ctx if pos is None else pos
        sizes = {"batch": batch, "pos": pos, "key_pos": pos}
        return tuple(sizes[a] if a in sizes else _size(model, a) for a in self.axes)


def sites(
    model: Any, components: SiteName | str | Iterable[str], *, layers: Layers = "all"
) -> list[Site]:
    """List the sites of components at layers, component by component.

    Args:
        components: one component name or several; a hook name contains its layer.
        layers: "all" that have the component, one layer, or several.

    Raises:
        TvlensError: unknown component or layer, or a hook name with other layers.
    """
    names = [components] if isinstance(components, str) else list(components)
    if isinstance(layers, str) and layers != "all":
        raise TvlensError(f"layers must be 'all' or numbers, not {layers!r}")
    count = model.cfg.n_layers
    resolved = []
    for name in names:
        short, name_layer = parse_site(name)
        chosen = resolve_layers(layers, name_layer, count=count)
        every = isinstance(chosen, str)
        numbers = layers_with(model, short) if every else as_integers(chosen, name="layers")
        resolved += [Site(short, layer).on(model) for layer in numbers]
    return resolved


def layers_with(model: Any, component: str) -> list[int]:
    """List the layers that have a component; in hybrid models only some have attention.

    Raises:
        TvlensError: no layer has it.
    """

    def has(layer: int) -> bool:
        try:
            Site(component, layer).hook(model)
        except TvlensError:
            return False
        return True

    layers = [layer for layer in range(model.cfg.n_layers) if has(layer)]
    if not layers:
        Site(component, 0).hook(model)  # raises, with the alternatives
    return layers


def available(model: Any, *, layer: int = 0) -> dict[str, tuple[str, tuple[int, ...]]]:
    """List a model's components at a layer: component -> (hook name, shape of one prompt)."""
    components = {}
    for name in COMPONENTS:
        site = Site(name, layer)
        try:
            components[name] = (site.hook(model), site.shape(model))
        except TvlensError:
            site.on(model)  # a wrong layer is the caller's mistake, a missing component is not
    return components


def _size(model: Any, axis: str) -> int:
    """Return the length of a model-dependent axis: its heads, or a width such as "d_mlp"."""
    heads = family(model).heads
    return heads[axis] if axis in heads else getattr(model.cfg, axis)
