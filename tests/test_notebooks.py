"""The notebooks: stored without outputs; they run without errors and warnings."""

import re
from pathlib import Path

import pytest
from chromium import ALL_DRAWN, needs_chromium

nbformat = pytest.importorskip("nbformat")
execute = pytest.importorskip("executed_notebooks").execute

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
LARGEST = 3_000_000  # bytes of an executed notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert all(cell.metadata == {} for cell in book.cells)
    assert set(book.metadata) == {"kernelspec", "language_info"}
    assert nbformat.writes(book) + "\n" == path.read_text(encoding="utf-8")
    assert book.cells[0].source.startswith("# ")


@pytest.mark.slow
@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_without_stderr_and_shows_figures(path):
    book = execute(path)
    outputs = [(cell.source, out) for cell in book.cells for out in cell.get("outputs", [])]
    stderr = {source: out.text for source, out in outputs if out.get("name") == "stderr"}
    assert stderr == {}
    figures = [out.data["text/html"] for _, out in outputs if "text/html" in out.get("data", {})]
    assert len(figures) >= 5
    kinds = {kind for _, out in outputs for kind in out.get("data", {})}
    assert kinds <= {"text/plain", "text/html"}  # nothing that asks for a widget manager
    assert len(nbformat.writes(book).encode()) < LARGEST


@pytest.mark.xdist_group("notebooks")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestAsAPage:
    pytestmark = needs_chromium

    def test_exported_notebook_draws_without_network(self, path, browser, tmp_path):
        """Exported as by `make notebooks`, in a window of a phone's width."""
        nbconvert = pytest.importorskip("nbconvert")
        page = nbconvert.HTMLExporter(mathjax_url="", require_js_url="")
        text, _ = page.from_notebook_node(execute(path))
        (tmp_path / "page.html").write_text(text, encoding="utf-8")
        tab = browser.new_page(viewport={"width": 390, "height": 900})
        errors, requests = [], []
        tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((tmp_path / "page.html").as_uri())
        tab.wait_for_function(ALL_DRAWN, timeout=60_000)
        assert tab.locator("[data-tvlens]").count() >= 4
        assert tab.locator(".tvlens-message").count() == 0
        for chart in tab.locator("[data-tvlens=vega]").all():
            assert chart.locator("svg .role-mark path, svg .role-mark line").count() > 1
        assert errors == []
        assert [url for url in requests if not re.match("file:|data:|blob:", url)] == []
        tab.close()
