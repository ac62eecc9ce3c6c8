"""Notebooks in JupyterLab in a browser: execution, figures, tooltips, no requests."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from chromium import ALL_DRAWN, needs_chromium
from executed_notebooks import execute

pytest.importorskip("jupyterlab")
nbformat = pytest.importorskip("nbformat")
NotebookNotary = pytest.importorskip("nbformat.sign").NotebookNotary

ROOT = Path(__file__).parent.parent
SHOTS = ROOT / "out" / "jupyter"
# Name -> figures that it draws, at least.
NOTEBOOKS = {"figures": 4, "01_quickstart": 4, "02_patching": 6}
# This one runs there; the others are opened with the outputs that a run before has left in them.
RUN = "figures"
CELLS = [
    "import torch\n\nfrom tvlens import viz\n\ntokens = ['Q', ':', ' cat', ' dog']",
    "viz.lines({'a': [1, 3, 2, 5, 4]}, title='Curve')",
    "viz.colored_tokens(tokens, [1, -1, 0.5, 2], title='Tokens')",
    "viz.heatmap(torch.arange(12.0).reshape(3, 4), rows='abc', columns=tokens)",
    "viz.text_neuron_activations(tokens, torch.arange(24.0).reshape(4, 3, 2))",
]
# Without it JupyterLab asks for a kernel.
METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}

pytestmark = [*needs_chromium, pytest.mark.xdist_group("notebooks")]

OPTIONS = [
    "--no-browser",
    "--ip=127.0.0.1",
    "--ServerApp.token=",
    "--ServerApp.password=",
    "--ServerApp.port_retries=0",
    "--ServerApp.allow_root=True",
    "--LabApp.expose_app_in_browser=True",  # so that the test can give commands by name
    "--LabApp.extension_manager=readonly",
]

# Nothing is asked of the mouse that an accessible name cannot find.
UNNAMED = """[...document.querySelectorAll('[data-tvlens]')].filter((mount) => {
  const picture = mount.querySelector('svg') ?? mount;
  return !(picture.getAttribute('aria-label') ?? mount.getAttribute('aria-label'));
}).length"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab server on loopback with the notebooks and isolated settings."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "work").mkdir()
    for name in NOTEBOOKS:
        path = home / "work" / f"{name}.ipynb"
        if name == RUN:
            cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
            nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=METADATA), path)
        else:
            _save_trusted(execute(ROOT / "notebooks" / path.name), path, home / "DATA")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    environment = {"TVLENS_FAST": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    environment |= {
        f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("CONFIG", "DATA", "RUNTIME")
    }
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home),
    }
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, f"--port={port}"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={home / 'work'}"],
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, home / "log")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _save_trusted(book, path: Path, data: Path) -> None:
    """Save a notebook with its outputs, signed as trusted."""
    data.mkdir(exist_ok=True)
    NotebookNotary(data_dir=str(data)).sign(book)
    nbformat.write(book, path)


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{address}/api", timeout=2)
            return
        except OSError:
            time.sleep(0.25)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_and_draws_in_jupyterlab(lab, browser, name):
    tab = browser.new_page(viewport={"width": 1280, "height": 1700})
    errors, requests = [], []
    tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(f"{lab}/doc/tree/{name}.ipynb")
    tab.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel")
    if name == RUN:
        tab.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        tab.wait_for_timeout(1000)
    tab.wait_for_function(
        "jupyterapp.shell.currentWidget.content.widgets.every("
        "w => w.model.type != 'code' || w.model.executionCount)",
        timeout=240_000,
    )
    _check_outputs(tab, name)
    _look(tab, name, "Light")
    _hover(tab, name)
    _look(tab, name, "Dark")
    assert errors == []
    assert {url for url in requests if not url.startswith((lab, "data:", "blob:"))} == set()
    tab.close()


def _check_outputs(tab, name: str) -> None:
    """Every output exists, and every figure is drawn and has an accessible name."""
    assert tab.locator("[data-mime-type*=stderr], [data-mime-type*=error]").count() == 0
    # JupyterLab draws cells when they come near the window.
    for i in range(tab.locator(".jp-Cell").count()):
        tab.evaluate(f"jupyterapp.shell.currentWidget.content.scrollToItem({i})")
        tab.wait_for_timeout(60)
    tab.wait_for_function(ALL_DRAWN, timeout=30_000)
    assert tab.locator("[data-tvlens]").count() >= NOTEBOOKS[name]
    assert tab.locator(".tvlens-message").count() == 0
    assert tab.evaluate(UNNAMED) == 0
    for chart in tab.locator("[data-tvlens=vega]").all():
        assert chart.locator("svg .role-mark path, svg .role-mark line").count() > 3
    for widget in tab.locator("[data-tvlens=circuitsvis]").all():
        assert widget.bounding_box()["height"] > 40
        assert widget.locator("canvas").count() or "cat" in widget.inner_text()


def _look(tab, name: str, theme: str) -> None:
    """Save a screenshot of every figure for visual inspection."""
    command = "apputils:change-theme"
    tab.evaluate(f"jupyterapp.commands.execute('{command}', {{theme: 'JupyterLab {theme}'}})")
    is_light = str(theme == "Light").lower()
    tab.wait_for_function(f"document.body.dataset.jpThemeLight == '{is_light}'")
    SHOTS.mkdir(parents=True, exist_ok=True)
    for i, figure in enumerate(tab.locator(".jp-OutputArea-output:has(.tvlens-figure)").all()):
        figure.scroll_into_view_if_needed()
        figure.screenshot(path=SHOTS / f"{name}-{theme}-{i}.png")
    tab.screenshot(path=SHOTS / f"{name}-{theme}.png")


def _hover(tab, name: str) -> None:
    """A cell of the first heat map, or a point of the first curve, shows its value on hover."""
    mark = "rect mark" if name == "02_patching" else "point"
    spot = tab.locator(f"path[aria-roledescription='{mark}']").nth(3)
    expected = re.findall(r"[-−\d.]+", spot.get_attribute("aria-label"))[-1]
    spot.scroll_into_view_if_needed()
    spot.hover()
    tooltip = tab.locator("#vg-tooltip-element.visible")
    tooltip.wait_for(timeout=5_000)
    assert expected in tooltip.inner_text()
