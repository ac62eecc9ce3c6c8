"""The documentation: examples, and built pages, which make no requests."""

import doctest
import re
from pathlib import Path

import pytest
from chromium import CHROMIUM, FLAGS, needs_chromium

import tvlens

pytestmark = pytest.mark.no_arithmetic

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("docs/concepts/*.md"))
BUILT = ROOT / "out" / "docs"

# The built pages that are opened: with formulas, a wide table, an index of names, a snippet.
OPENED = ("index", "concepts/patching", "concepts/task-matrices", "api/vectors", "contributing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_on_concept_pages_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried > 5
    assert not failed


def test_every_concept_has_formula_source_example_and_limitations():
    assert len(PAGES) == 7
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert r"\frac" in text or "$$" in text, page.stem
        assert re.search(r"^\*\*Sources?\.\*\* ", text, re.M), page.stem
        for heading in ("## Example", "## Limitations"):
            assert text.count(f"\n{heading}\n") == 1, (page.stem, heading)


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in ROOT.glob("docs/api/*.md"))
    packages = {module.split(".")[1] for module in re.findall(r"automodule:: (\S+)", pages)}
    for name, module in (*tvlens._NAMES.items(), *zip(*[tvlens._MODULES] * 2, strict=True)):
        assert module.split(".")[0] in packages, name


@needs_chromium[0]
@needs_chromium[1]
@pytest.mark.skipif(not BUILT.is_dir(), reason="`make docs` has not been run")
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1300, "dark")])
def test_built_pages_fit_and_make_no_requests(width, scheme):
    from playwright.sync_api import sync_playwright

    errors = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda r: r.url.startswith(("file:", "data:")) or errors.append(r.url))
        for name in OPENED:
            tab.goto((BUILT / f"{name}.html").as_uri())
            tab.wait_for_timeout(100)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
        tab.goto((BUILT / "concepts" / "patching.html").as_uri())
        assert tab.locator("math").count() > 5
        browser.close()
    assert errors == []


@pytest.mark.skipif(not BUILT.is_dir(), reason="`make docs` has not been run")
def test_built_pages_load_only_their_own_files():
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"(https?:[^\"]*)", re.I)
    for page in BUILT.rglob("*.html"):
        assert not loads.findall(page.read_text(encoding="utf-8")), page
    for sheet in BUILT.rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:|@import", sheet.read_text("utf-8")), sheet
