"""The JavaScript of figures: bundled libraries, and the loader that draws with them."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from collections.abc import Iterable
from pathlib import Path

LIBRARIES = ("circuitsvis", "vega")


@functools.cache
def load_library(library: str) -> str:
    """JavaScript of a library, as one classic script that registers it with the loader.

    "circuitsvis" is the file inside the installed Python package; "vega" is Vega, Vega-Lite and
    Vega-Embed, built by vl-convert from copies that it carries (about 1 s, no network).

    Raises:
        ValueError: unknown library.
    """
    if library == "circuitsvis":
        body = _load_circuitsvis() + "\nwindow.tvlens.libraries.circuitsvis = CircuitsVis;"
    elif library == "vega":
        import vl_convert

        body = vl_convert.javascript_bundle("window.tvlens.libraries.vega = vegaEmbed;")
    else:
        raise ValueError(f"unknown library {library!r}; choose one of {', '.join(LIBRARIES)}")
    # Hiding these four names keeps the libraries away from the require.js of classic notebooks.
    return f"((define, module, exports, require) => {{\n{body}\n}})();"


def _load_circuitsvis() -> str:
    from importlib.util import find_spec

    spec = find_spec("circuitsvis")  # finds the file without importing torch
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("token widgets need circuitsvis: pip install circuitsvis")
    script = Path(spec.origin).parent / "dist" / "cdn" / "iife.js"
    # Developer tools would ask for the source map.
    return script.read_text(encoding="utf-8").replace("//# sourceMappingURL=iife.js.map", "")


@functools.cache
def encode_library(library: str) -> str:
    """Gzip'd `source` in base64: the same characters on every call and in every process."""
    packed = gzip.compress(load_library(library).encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode("ascii")


@functools.cache
def library_hash(library: str) -> str:
    """SHA-256 of `source`, in the form that a Content-Security-Policy asks for."""
    return script_hash(load_library(library))


def script_hash(script: str) -> str:
    """Content-Security-Policy source expression that allows exactly this inline script."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def script_tags(libraries: Iterable[str]) -> str:
    """Inert script elements with the encoded libraries, which the loader unpacks."""
    return "\n".join(
        f'<script type="text/plain" data-tvlens-bundle="{library}">'
        f"{encode_library(library)}</script>"
        for library in sorted(libraries)
    )


# Every output in a notebook carries this text, so it is short and safe to run many times.
# A bundle is a gzip'd library in base64 (see bundle.py). It runs as an inline script that registers
# itself in window.tvlens.libraries. There are no modules, no require.js and no requests.
LOADER = r"""
(() => {
  if (window.tvlens && window.tvlens.scan) { window.tvlens.scan(); return; }
  const tvlens = window.tvlens = {libraries: {}, bundles: {}, count: 0};
  const missing = "This picture needs JavaScript that an earlier cell brought along. " +
    "Run that cell again, or call tvlens.viz.load().";

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const gunzip = new DecompressionStream("gzip");
    return new Response(new Blob([bytes]).stream().pipeThrough(gunzip)).text();
  }

  // Until then the last figure may be there in part; each that is whole runs this text itself.
  async function parsed() {
    if (document.readyState !== "loading") return;
    await new Promise((go) => document.addEventListener("DOMContentLoaded", go, {once: true}));
  }

  async function load(name, text) {
    const script = document.createElement("script");
    script.textContent = await unpack(text);
    document.head.append(script);
    script.remove();
    if (!tvlens.libraries[name]) throw new Error("the browser refused to run " + name);
    await parsed();
    tvlens.scan();
  }

  function say(mount, text) {
    const line = document.createElement("p");
    line.className = "tvlens-message";
    line.textContent = text;
    mount.replaceChildren(line);
  }

  // Charts follow their box also where the window stays the same: side bars, folded outputs.
  function follow(mount) {
    let width = mount.clientWidth;
    new ResizeObserver(() => {
      if (mount.clientWidth === width) return;
      width = mount.clientWidth;
      window.dispatchEvent(new Event("resize"));
    }).observe(mount);
  }

  async function draw(mount, kind) {
    mount.dataset.state = "drawing";
    mount.replaceChildren();
    try {
      const spec = JSON.parse(mount.parentElement.querySelector("script").textContent);
      const library = tvlens.libraries[kind];
      if (kind === "vega") {
        const options = {mode: "vega-lite", renderer: "svg", ast: true, actions: false};
        await library(mount, spec, options);
        follow(mount);
      } else {
        mount.id = "tvlens-widget-" + tvlens.count++;  // saved notebooks may hold the same id twice
        library.render(mount.id, library[spec.element], spec.props);
      }
      mount.dataset.state = "drawn";
    } catch (error) {
      mount.dataset.state = "failed";
      say(mount, "This picture could not be drawn: " + error.message);
      console.error(error);
    }
  }

  tvlens.scan = () => {
    for (const script of document.querySelectorAll("script[data-tvlens-bundle]")) {
      const name = script.dataset.tvlensBundle;
      tvlens.bundles[name] ??= load(name, script.textContent).catch((error) => {
        for (const mount of document.querySelectorAll(`[data-tvlens="${name}"]`))
          say(mount, "The JavaScript of this picture could not be loaded: " + error.message);
        console.error(error);
      });
    }
    for (const mount of document.querySelectorAll("[data-tvlens]:not([data-state])")) {
      const kind = mount.dataset.tvlens;
      if (tvlens.libraries[kind]) draw(mount, kind);
      else if (!tvlens.bundles[kind]) setTimeout(() => {
        if (!mount.dataset.state && !tvlens.bundles[kind]) say(mount, missing);
      }, 2000);
    }
  };
  tvlens.scan();
})();
"""
