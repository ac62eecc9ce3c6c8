"""Every public name has an example in its docstring, and all examples run on tiny models."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import tiny
import torch
import transformers as hf

import tvlens as tv

MODULES = sorted(m.name for m in pkgutil.walk_packages(tv.__path__, "tvlens."))
SOURCES = {name: Path(importlib.util.find_spec(name).origin) for name in MODULES}
WITH_EXAMPLES = [name for name, path in SOURCES.items() if ">>> " in path.read_text("utf-8")]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def tiny_zoo(tmp_path_factory):
    """Tiny random models under the names of the zoo."""
    folder = tmp_path_factory.mktemp("zoo")
    torch.manual_seed(0)
    models = {"smollm2-135m": tiny._hugging_face("llama")}
    models["minilm-l6"] = hf.BertModel(hf.BertConfig(**tiny._TEXT))
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tiny.tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture
def zoo(tiny_zoo, monkeypatch, tmp_path):
    """Replace the models of the zoo by tiny ones, and work in an empty folder."""
    monkeypatch.setattr("tvlens.models.zoo.get", lambda name: tiny_zoo / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_run(module, zoo):
    loaded, runner = importlib.import_module(module), doctest.DocTestRunner(optionflags=FLAGS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(loaded, module):
        test.globs = test.globs | {"tv": tv, "torch": torch}
        runner.run(test)
    assert not runner.failures


@pytest.mark.parametrize("name", [n for n in tv.__all__ if n != "__version__"])
def test_public_name_has_an_example(name):
    assert ">>> " in (inspect.getdoc(getattr(tv, name)) or "")
