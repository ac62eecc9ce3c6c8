"""Path and flags of Chromium, and the condition that all figures of a page are drawn."""

import importlib.util
import os
import shutil

import pytest

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

ALL_DRAWN = "[...document.querySelectorAll('[data-tvlens]')].every(m => m.dataset.state == 'drawn')"

_FOUND = os.path.exists(CHROMIUM) and importlib.util.find_spec("playwright") is not None
_REASON = "needs Playwright and Chromium: pip install playwright; apt-get install chromium"

needs_chromium = [pytest.mark.slow, pytest.mark.skipif(not _FOUND, reason=_REASON)]
