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


def find_bundles(text: str) -> list[str]:
    return re.findall(r'data-tvlens-bundle="(\w+)"', text)


@pytest.fixture(scope="module")
def html():
    return page().html()


def test_page_contains_each_bundle_once(html):
    assert find_bundles(html) == ["circuitsvis", "vega"]
    assert html.count(LOADER) == 1
    eight = [*charts().values()][:4] + [*widgets().values()][:4]
    text = viz.Page("Eight", sections=[viz.Section("All", figures=eight)]).html()
    assert find_bundles(text) == ["circuitsvis", "vega"]
    assert len(text.encode()) < 1_500_000


def test_page_contains_needed_bundles_only():
    assert find_bundles(viz.Page("t", sections=[viz.Section("s", figures=[LINE])]).html()) == [
        "vega"
    ]
    plain = viz.Page("t", sections=[viz.Section("s", figures=[viz.table([{"a": 1}])])]).html()
    assert find_bundles(plain) == []
    assert "<script" not in plain


def test_page_has_no_network_sources(html):
    assert not re.search(
        r"https?:|//cdn|\ssrc=|url\(|@import|<link",
        re.sub(r"&\w+;", "", html).replace("img src=x", ""),
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_page_is_well_formed(html):
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


def test_page_is_written_atomically(tmp_path):
    path = tmp_path / "deep" / "page.html"
    report = viz.Page("t", ["One."], [viz.Section("s", "text", [LINE])], {"seed": 0})
    assert report.write(path) == path
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_figure_save_selects_the_format_by_suffix(tmp_path):
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


def test_titles_and_captions_are_escaped():
    text = viz.stack(LINE, title=HOSTILE, caption=HOSTILE).fragment()
    assert "<b>" not in text
    assert "<img" not in text
    assert "A &amp; B" in text


def test_groups_nest_and_collect_libraries():
    group = viz.stack(viz.row(LINE, TOKENS), viz.table([{"a": 1}]))
    assert group.libraries == {"vega", "circuitsvis"}
    assert group.fragment().count("<figure") == 3


@pytest.mark.parametrize("library", javascript.LIBRARIES)
def test_bundles_are_reproducible_and_decodable(library):
    code = gzip.decompress(base64.b64decode(javascript.encode_library(library))).decode()
    assert code == javascript.load_library(library)
    assert f"window.tvlens.libraries.{library}" in code
    assert "sourceMappingURL" not in code
    fresh = gzip.compress(code.encode(), 9, mtime=0)
    assert base64.b64encode(fresh).decode() == javascript.encode_library(library)
    with pytest.raises(ValueError, match="unknown library 'd3'"):
        javascript.load_library("d3")


def test_loader_contains_no_closing_tags():
    assert "</" not in LOADER
    assert "<!--" not in LOADER


class Kernel:
    """Stub of the shell of a Jupyter kernel."""

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


def test_figure_outside_a_notebook_contains_its_bundle(monkeypatch):
    monkeypatch.delitem(notebook.sys.modules, "IPython", raising=False)
    for _ in range(2):
        assert find_bundles(LINE._repr_html_()) == ["vega"]


@pytest.mark.parametrize("named", [True, False])
def test_notebook_contains_each_bundle_once(kernel, named):
    kernel.run("one", named=named)
    assert find_bundles(LINE._repr_html_()) == ["vega"]
    assert find_bundles(LINE._repr_html_()) == []  # the same run of the same cell
    kernel.run("two", named=named)
    assert find_bundles(LINE._repr_html_()) == []
    assert find_bundles(viz.row(LINE, TOKENS)._repr_html_()) == ["circuitsvis"]
    kernel.run("one", named=named)  # its old output, with the bundle, is gone
    assert find_bundles(LINE._repr_html_()) == ["vega"]
    assert find_bundles(TOKENS._repr_html_()) == []


def test_colab_cells_contain_their_own_bundle(kernel, monkeypatch):
    monkeypatch.setitem(notebook.sys.modules, "google.colab", SimpleNamespace())
    for cell in ("one", "two"):
        kernel.run(cell)
        assert find_bundles(LINE._repr_html_()) == ["vega"]
        assert find_bundles(LINE._repr_html_()) == []
