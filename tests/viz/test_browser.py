"""All figures in a browser: drawing, tooltips, no requests."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from chromium import ALL_DRAWN, needs_chromium
from viz_gallery import HOSTILE, page

from tvlens import viz
from tvlens.files import write
from tvlens.viz import javascript
from tvlens.viz.document import render_document
from tvlens.viz.javascript import LOADER
from tvlens.viz.style import FIGURE_STYLE

LAYOUT_SHIFT = """window.jump = 0; new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) window.jump += shift.value;
}).observe({type: "layout-shift", buffered: true});"""

# One worker draws the gallery, once.
pytestmark = [*needs_chromium, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def gallery(browser, tmp_path_factory):
    """The gallery page in a tab that records errors, requests and dialogs."""
    path = page().write(tmp_path_factory.mktemp("viz") / "page.html")
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.heard = {"errors": [], "requests": [], "dialogs": []}
    tab.on("console", lambda m: m.type == "error" and tab.heard["errors"].append(m.text))
    tab.on("pageerror", lambda error: tab.heard["errors"].append(str(error)))
    tab.on("request", lambda request: tab.heard["requests"].append(request.url))
    tab.on("dialog", lambda d: (tab.heard["dialogs"].append(d.message), d.dismiss()))
    tab.goto(path.as_uri())
    tab.wait_for_function(ALL_DRAWN, timeout=30_000)
    tab.wait_for_timeout(300)
    yield tab
    tab.close()


def test_every_chart_is_drawn_without_errors_and_requests(gallery):
    charts = gallery.locator("[data-tvlens=vega]")
    assert charts.count() == 8
    for i in range(charts.count()):
        marks = charts.nth(i).locator("svg .role-mark path, svg .role-mark line")
        assert marks.count() > 3, i
    assert gallery.locator(".tvlens-message").count() == 0
    assert gallery.heard["errors"] == []
    assert [
        u for u in gallery.heard["requests"] if not u.startswith(("file:", "data:", "blob:"))
    ] == []


def test_every_widget_shows_its_tokens(gallery):
    widgets = gallery.locator("[data-tvlens=circuitsvis]")
    assert widgets.count() == 6
    for i in range(widgets.count()):
        box = widgets.nth(i).bounding_box()
        assert box["width"] > 300, i
        assert box["height"] > 40, i
        if i == 2:  # attention: tokens are painted on canvases, one per head and the enlarged one
            assert widgets.nth(i).locator("canvas").count() == 5
        else:
            assert "France" in widgets.nth(i).inner_text()


def test_heatmap_shows_values_on_hover(gallery):
    chart = gallery.locator("[data-tvlens=vega]").nth(1)
    cell = chart.locator("path[aria-roledescription='rect mark']").nth(12 * 3 + 5)
    expected = cell.get_attribute("aria-label").split(": ")[1]
    cell.hover()
    tooltip = gallery.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5_000)
    words = tooltip.inner_text().split()
    assert words == ["layer", "3", "token", "dog", "logit", "difference", expected]


def test_colored_tokens_show_values_on_hover(gallery):
    widget = gallery.locator("[data-tvlens=circuitsvis]").first
    widget.locator("span span").nth(2).hover()
    gallery.wait_for_function(
        "document.querySelector('[data-tvlens=circuitsvis] strong')?.textContent == ' capital'"
    )


def test_hostile_text_is_escaped_on_hover(gallery):
    for name in ("vega", "circuitsvis"):
        figures = gallery.locator(f"[data-tvlens={name}]")
        for i in range(figures.count()):
            hostile = figures.nth(i).get_by_text("onerror").locator("visible=true")
            if hostile.count():
                hostile.last.hover(force=True)
                gallery.wait_for_timeout(100)
    assert gallery.locator("img").count() == 0
    assert gallery.heard["dialogs"] == []
    body_text = gallery.locator("body").inner_text().replace("\u2060", "")
    assert body_text.count(HOSTILE) > 5


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (900, "dark"), (1200, "dark")])
def test_page_fits_its_window_without_layout_shift(browser, gallery, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.add_init_script(LAYOUT_SHIFT)
    tab.goto(gallery.url)
    tab.wait_for_function(ALL_DRAWN, timeout=30_000)
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate("window.jump") < 0.1  # what web.dev calls good
    ink, paper = tab.evaluate(
        "[getComputedStyle(document.querySelector('svg text')).fill,"
        " getComputedStyle(document.body).backgroundColor]"
    )
    assert (ink, paper) == {
        "light": ("rgb(31, 35, 40)", "rgb(255, 255, 255)"),
        "dark": ("rgb(228, 231, 235)", "rgb(20, 23, 28)"),
    }[scheme]
    tab.close()


def test_figure_without_its_bundle_shows_a_message(browser):
    figure = viz.lines({"a": [1, 2]})
    tab = browser.new_page()
    style = f"<style>{FIGURE_STYLE}</style>"
    tab.set_content(f"<body>{style}{figure.fragment()}<script>{LOADER}</script></body>")
    tab.get_by_text("call tvlens.viz.load()").wait_for(timeout=5_000)
    # When the bundle arrives with another cell, the figure is drawn after all.
    tab.evaluate(
        "html => { const box = document.createElement('div'); box.innerHTML = html;"
        " document.body.append(box); window.tvlens.scan(); }",
        javascript.script_tags(["vega"]),
    )
    tab.locator("[data-tvlens=vega] svg").wait_for(timeout=10_000)
    tab.close()


def test_chart_in_closed_details_is_drawn_when_opened(browser, tmp_path):
    figure = viz.lines({"a": [1, 2]})
    folded = viz.Figure(
        "html", {"html": f"<details><summary>more</summary>{figure.fragment()}</details>"}
    )
    path = write(tmp_path / "a.html", render_document("t", folded.fragment(), ["vega"]))
    tab = browser.new_page()
    tab.goto(path.as_uri())
    tab.wait_for_function(ALL_DRAWN, timeout=10_000)
    tab.locator("summary").click()
    tab.wait_for_function("document.querySelector('svg.marks').getBoundingClientRect().width > 300")
    tab.close()


@pytest.mark.parametrize("cut", ['<script type="application/json"', '"data"'])
def test_figures_of_a_slowly_loading_page_are_drawn(browser, cut):
    """The library arrives before the data of the second figure."""
    first, second = (viz.lines({"a": [1, k]}, title=f"number {k}") for k in (2, 3))
    text = f"<!DOCTYPE html><body>{first._repr_html_()}{second._repr_html_()}"
    parts = text[: text.rindex(cut)], text[text.rindex(cut) :]

    class SlowServer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(parts[0].encode())
            time.sleep(1.5)
            self.wfile.write(parts[1].encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), SlowServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tab = browser.new_page()
    tab.goto(f"http://127.0.0.1:{server.server_port}/")
    tab.wait_for_function(ALL_DRAWN, timeout=10_000)
    assert tab.locator("[data-state=drawn] svg").count() == 2
    tab.close()
    server.shutdown()
    server.server_close()
