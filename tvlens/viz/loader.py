"""The hand-written JavaScript that draws figures once the library they need is on the page."""

from __future__ import annotations

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
