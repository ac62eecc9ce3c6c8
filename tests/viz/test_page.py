"""Figures in files, pages and notebooks: self-contained, small, each bundle once."""

import base64
import gzip
import re
from types import SimpleNamespace

import pytest
from viz_gallery import HOSTILE, charts, page, widgets

from tvlens import viz
from tvlens.viz import javascript, notebook
from tvlens.viz.javascript import LOADER

pytestmark = pytest.mark.no_arithmetic

LINE = viz.lines({"a": [1, 2]}, title="A & B", caption="<b>")
TOKENS = viz.colored_tokens(["a", "b"], [1, 2])


def bundles(text: str) -> list[str]:
    return re.findall(r'data-tvlens-bundle="(\w+)"', text)


@pytest.fixture(scope="module")
def html():
    return page().html()


def test_a_page_carries_each_bundle_once_and_stays_small(html):
    assert bundles(html) == ["circuitsvis", "vega"]
    assert html.count(LOADER) == 1
    eight = [*charts().values()][:4] + [*widgets().values()][:4]
    text = viz.Page("Eight", sections=[viz.Section("All", figures=eight)]).html()
    assert bundles(text) == ["circuitsvis", "vega"]
    assert len(text.encode()) < 1_500_000


def test_a_page_brings_only_what_it_needs():
    assert bundles(viz.Page("t", sections=[viz.Section("s", figures=[LINE])]).html()) == ["vega"]
    plain = viz.Page("t", sections=[viz.Section("s", figures=[viz.table([{"a": 1}])])]).html()
    assert bundles(plain) == []
    assert "<script" not in plain


def test_a_page_names_no_network_source(html):
    assert not re.search(
        r"https?:|//cdn|\ssrc=|url\(|@import|<link",
        re.sub(r"&\w+;", "", html).replace("img src=x", ""),
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_a_page_is_well_formed(html):
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert re.findall(r"<(h\d)", html) == ["h1"] + ["h2"] * 4
    assert html.count("<main>") == html.count("<header>") == html.count("<nav ") == 1
    identities = re.findall(r'\sid="([^"]+)"', html)
    assert len(identities) == len(set(identities)) > 14
    targets = re.findall(r'href="#([^"]+)"', html)
    assert len(targets) == 4
    assert set(targets) <= set(identities)
    assert "<img" not in html
    assert html.index("<details>") > html.rindex("<figure")


def test_a_page_is_written_in_one_step(tmp_path):
    path = tmp_path / "deep" / "page.html"
    report = viz.Page("t", ["One."], [viz.Section("s", "text", [LINE])], {"seed": 0})
    assert report.write(path) == path
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_figures_are_saved_by_suffix(tmp_path):
    for figure, name in ((LINE, "a.html"), (TOKENS, "b.html"), (viz.row(LINE, TOKENS), "c.html")):
        assert "</html>" in figure.save(tmp_path / name).read_text(encoding="utf-8")
    svg = LINE.save(tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.startswith("<svg")
    assert "currentColor" not in svg
    assert LINE.save(tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"use \.html, \.svg or \.png"):
        LINE.save(tmp_path / "a.gif")
    with pytest.raises(ValueError, match=r"needs a chart.*'circuitsvis'"):
        TOKENS.save(tmp_path / "b.svg")
    with pytest.raises(ValueError, match="several figures"):
        viz.stack(LINE).save(tmp_path / "c.svg")


def test_words_around_a_figure_are_escaped():
    text = viz.stack(LINE, title=HOSTILE, caption=HOSTILE).fragment()
    assert "<b>" not in text
    assert "<img" not in text
    assert "A &amp; B" in text


def test_groups_nest_and_know_their_libraries():
    group = viz.stack(viz.row(LINE, TOKENS), viz.table([{"a": 1}]))
    assert group.libraries == {"vega", "circuitsvis"}
    assert group.fragment().count("<figure") == 3


@pytest.mark.parametrize("library", javascript.LIBRARIES)
def test_bundles_are_reproducible_and_safe_inside_a_script(library):
    code = gzip.decompress(base64.b64decode(javascript.encode_library(library))).decode()
    assert code == javascript.load_library(library)
    assert f"window.tvlens.libraries.{library}" in code
    assert "sourceMappingURL" not in code
    fresh = gzip.compress(code.encode(), 9, mtime=0)
    assert base64.b64encode(fresh).decode() == javascript.encode_library(library)
    with pytest.raises(ValueError, match="unknown library 'd3'"):
        javascript.load_library("d3")


def test_the_loader_is_safe_inside_a_script():
    assert "</" not in LOADER
    assert "<!--" not in LOADER


class Kernel:
    """Stands for the shell of a Jupyter kernel."""

    kernel = object()
    runs = 0

    def run(self, cell: str, *, named: bool = True) -> None:
        self.runs += 1
        self.execution_count = self.runs
        self.parent = {
            "header": {"msg_id": f"run {self.runs}"},
            "metadata": {"cellId": cell} if named else {},
            "content": {"code": f"code of {cell}"},
        }

    def get_parent(self) -> dict:
        return self.parent


@pytest.fixture
def kernel(monkeypatch):
    shell = Kernel()
    monkeypatch.setattr(notebook, "_hosts", {})
    monkeypatch.setitem(notebook.sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


def test_outside_a_notebook_every_figure_brings_its_bundle(monkeypatch):
    monkeypatch.delitem(notebook.sys.modules, "IPython", raising=False)
    for _ in range(2):
        assert bundles(LINE._repr_html_()) == ["vega"]


@pytest.mark.parametrize("named", [True, False])
def test_a_notebook_carries_each_bundle_once(kernel, named):
    kernel.run("one", named=named)
    assert bundles(LINE._repr_html_()) == ["vega"]
    assert bundles(LINE._repr_html_()) == []  # the same run of the same cell
    kernel.run("two", named=named)
    assert bundles(LINE._repr_html_()) == []
    assert bundles(viz.row(LINE, TOKENS)._repr_html_()) == ["circuitsvis"]
    kernel.run("one", named=named)  # its old output, with the bundle, is gone
    assert bundles(LINE._repr_html_()) == ["vega"]
    assert bundles(TOKENS._repr_html_()) == []


def test_cells_that_are_frames_of_their_own_carry_their_own(kernel, monkeypatch):
    monkeypatch.setitem(notebook.sys.modules, "google.colab", SimpleNamespace())
    for cell in ("one", "two"):
        kernel.run(cell)
        assert bundles(LINE._repr_html_()) == ["vega"]
        assert bundles(LINE._repr_html_()) == []
