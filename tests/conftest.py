import os

# One thread per worker: workers that spin for each other's cores run ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import checked
import hypothesis
import pytest
import tiny

checked.reuse_checks()

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(params=tiny.CAUSAL)
def causal(request):
    """A tiny causal model of each architecture, with a tokenizer."""
    return tiny.model(request.param)


@pytest.fixture(params=tiny.CAUSAL + tiny.ENCODERS)
def any_name(request):
    """The name of each tiny model, encoders included."""
    return request.param


@pytest.fixture(scope="session")
def smollm2():
    """The real SmolLM2-135M from its package."""
    import tvlens as tv

    return tv.load("smollm2-135m")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A local Hugging Face folder of a tiny Llama with a tokenizer."""
    import torch

    path = tmp_path_factory.mktemp("models") / "small-llama"
    torch.manual_seed(3)
    tiny._hugging_face("llama").save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium."""
    from chromium import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def unchecked():
    """Disable the shape checker, so that functions receive bad input as they do from users."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
