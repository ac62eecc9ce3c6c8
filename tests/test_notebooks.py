"""The notebooks: kept plain, and running from top to bottom without a word of complaint."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 3_000_000  # bytes of an executed notebook


def executed(path: Path):
    """The notebook after a run in the short version, in its own folder."""
    book = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=folder).execute(
        env=os.environ | {"TVLENS_FAST": "1", "PYTHONPATH": str(FOLDER.parent)}
    )
    return book


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_as_a_plain_diff(path):
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
def test_a_notebook_runs_and_says_nothing_it_should_not(path):
    book = executed(path)
    outputs = [(cell.source, out) for cell in book.cells for out in cell.get("outputs", [])]
    said = {source: out.text for source, out in outputs if out.get("name") == "stderr"}
    assert said == {}
    pictures = [out.data["text/html"] for _, out in outputs if "text/html" in out.get("data", {})]
    assert len(pictures) >= 5
    kinds = {kind for _, out in outputs for kind in out.get("data", {})}
    assert kinds <= {"text/plain", "text/html"}  # nothing that asks for a widget manager
    assert len(nbformat.writes(book).encode()) < LARGEST
