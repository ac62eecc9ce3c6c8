"""`Site`: the address of an activation by component, layer, head and position."""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, SupportsIndex

from .errors import TvlensError, unknown

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

# What people also call them. A head's output is z @ W_O: patching z patches it.
ALIASES = {"head_out": "z", "residual": "resid_post", "resid": "resid_post"}

# model -> hooks it was seen to have: a bridge puts its dictionary together anew at every look
_seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def component(name: str) -> str:
    """The canonical component name, aliases and `hook_` spellings resolved.

    Raises:
        TvlensError: no such component; names the nearest ones.
    """
    short = str(name).rsplit(".", 1)[-1].removeprefix("hook_")
    short = ALIASES.get(short, short)
    if short not in COMPONENTS:
        raise unknown("site", name, [*COMPONENTS, *ALIASES])
    return short


@dataclass(frozen=True)
class Site:
    """The address of an activation.

    Attributes:
        component: resid_pre, resid_mid, resid_post, attn_out, mlp_out, z (or head_out), q, k, v,
            pattern.
        layer: block index; negative ones count from the last block.
        head: one head, or every head. Keys and values of grouped-query models have fewer heads.
        position: one position, or every one; negative ones count from the end of each prompt.
    """

    component: str
    layer: int
    head: int | None = None
    position: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "component", component(self.component))
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
        """Which axis counts heads, if one does."""
        return next((i for i, axis in enumerate(self.axes) if axis.endswith("head")), None)

    @property
    def position_axis(self) -> int:
        """Which axis counts (query) positions."""
        return self.axes.index("pos")

    def on(self, model: Any) -> "Site":
        """This site with its layer and head resolved to what `model` has.

        Raises:
            TvlensError: the model has no such layer or head.
        """
        layers = model.cfg.n_layers
        layer = self.layer + layers if self.layer < 0 else self.layer
        if not 0 <= layer < layers:
            raise TvlensError(
                f"layer {self.layer} does not exist: the model has layers 0 to {layers - 1}"
            )
        heads = _heads(model, self.axes[self.head_axis]) if self.head is not None else 0
        if self.head is not None and not -heads <= self.head < heads:
            raise TvlensError(
                f"head {self.head} of {self.component} does not exist: heads 0 to {heads - 1}"
            )
        head = self.head % heads if self.head is not None else None
        return replace(self, layer=layer, head=head)

    def hook(self, model: Any) -> str:
        """The name of the hook point on `model`.

        Raises:
            TvlensError: the model has no such layer, head or hook point.
        """
        site = self.on(model)
        if site.component == "resid_mid" and _is_post_norm(model):
            # TransformerLens' alias points behind the MLP there; the state between attention
            # and MLP is what the first layer norm gives.
            return f"blocks.{site.layer}.ln1.hook_out"
        name = f"blocks.{site.layer}.{COMPONENTS[site.component][0]}"
        known = _seen.setdefault(model, set())
        if name not in known:
            known.update(model.hook_dict)
        if name not in known:
            have = [c for c in COMPONENTS if f"blocks.{site.layer}.{COMPONENTS[c][0]}" in known]
            raise TvlensError(
                f"this model has no {site.component} at layer {site.layer}; it has "
                + ", ".join(have)
            )
        return name

    def shape(self, model: Any, *, batch: int = 1, pos: int | None = None) -> tuple[int, ...]:
        """The shape of the whole activation for `batch` prompts of `pos` positions.

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
    """Every site of the given components at the given layers, in reading order.

    Args:
        components: one component name or several.
        layers: "all", one layer, or several.
    """
    names = [components] if isinstance(components, str) else list(components)
    if isinstance(layers, str) and layers != "all":
        raise TvlensError(f"layers must be 'all' or numbers, not {layers!r}")
    if layers == "all":
        layers = range(model.cfg.n_layers)
    elif isinstance(layers, int):
        layers = [layers]
    return [Site(name, layer).on(model) for name in names for layer in layers]


def available(model: Any, *, layer: int = 0) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Which components a model has at a layer: component -> (hook name, shape of one prompt)."""
    found = {}
    for name in COMPONENTS:
        site = Site(name, layer)
        try:
            found[name] = (site.hook(model), site.shape(model))
        except TvlensError:
            site.on(model)  # a wrong layer is the caller's mistake, a missing component is not
    return found


def _size(model: Any, axis: str) -> int:
    """How long an axis is that the model decides on: its heads, or a width such as "d_mlp"."""
    return _heads(model, axis) if axis in ("head", "kv_head") else getattr(model.cfg, axis)


def _heads(model: Any, axis: str) -> int:
    key_value = getattr(model.cfg, "n_key_value_heads", None)
    return key_value if axis == "kv_head" and key_value else model.cfg.n_heads


def _is_post_norm(model: Any) -> bool:
    """BERT-like blocks: the norm follows the residual sum, inside the attention's output module."""
    norm = getattr(model.blocks[0], "ln1", None)
    return str(getattr(norm, "name", "") or "").startswith("attention.output")
