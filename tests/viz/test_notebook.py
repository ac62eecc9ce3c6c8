"""Figures in a Jupyter kernel: one bundle per notebook, exports without requests."""

import re

import pytest
from chromium import ALL_DRAWN, needs_chromium

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
nbconvert = pytest.importorskip("nbconvert")

pytestmark = needs_chromium

CELLS = [
    "from tvlens import viz\nline = viz.lines({'a': [1, 3, 2]}, title='First')\nline",
    "viz.row(line, viz.colored_tokens(['<s>', ' b'], [1, -1], title='Second'))",
    "line",
    "display(viz.table([{'a': 1}]))\nviz.heatmap([[1, 2]], rows=['r'], columns=['a', 'b'])",
]


@pytest.fixture(scope="module")
def notebook():
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    return book


def read_html(cell) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)


def test_first_cell_that_needs_a_bundle_contains_it(notebook):
    bundles = [
        re.findall(r'data-tvlens-bundle="(\w+)"', read_html(cell)) for cell in notebook.cells
    ]
    assert bundles == [["vega"], ["circuitsvis"], [], []]
    assert len(nbformat.writes(notebook)) < 1_200_000


def test_exported_notebook_draws_without_network(notebook, browser, tmp_path):
    text, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    path = tmp_path / "notebook.html"
    path.write_text(text, encoding="utf-8")
    tab = browser.new_page()
    # The template of nbconvert itself asks for MathJax; our figures must not mind its absence.
    tab.route(re.compile("^https?:"), lambda route: route.abort())
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(path.as_uri(), wait_until="domcontentloaded")
    tab.wait_for_function(ALL_DRAWN, timeout=30_000)
    assert tab.locator("[data-tvlens=vega] svg").count() == 4
    assert "<s>" in tab.locator("[data-tvlens=circuitsvis]").inner_text().replace("\u2060", "")
    assert errors == []
    tab.close()
