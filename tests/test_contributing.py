"""Run the snippets of CONTRIBUTING.md unchanged."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from chromium import ALL_DRAWN, CHROMIUM, FLAGS, needs_chromium

import tvlens as tv
from tvlens import TvlensError
from tvlens.sites import COMPONENTS, Site, available
from tvlens.studies import methods, vectors
from tvlens.tasks import TEMPLATES, build, contexts
from tvlens.vectors import METHODS

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"
# Every section "Add a ..." has one Python block.
SECTION = re.compile(r"^Add an? (.+?)\n.*?^```python\n(.*?)^```$", re.M | re.S)
SECTIONS = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
SNIPPETS = dict(match.groups() for part in SECTIONS if (match := SECTION.match(part)))


def run_snippet(name: str) -> dict:
    """Run a snippet and return its namespace."""
    namespace: dict = {"__name__": "snippet"}
    exec(compile(SNIPPETS[name], f"CONTRIBUTING.md, {name}", "exec"), namespace)
    return namespace


@pytest.fixture
def registries():
    """Restore the registries that snippets change."""
    backup = [(registry, dict(registry)) for registry in (METHODS, COMPONENTS)]
    yield
    for registry, before in backup:
        registry.clear()
        registry.update(before)


def test_pre_commit_runs_the_checks_of_make_lint():
    root = PAGE.parent
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (root / ".pre-commit-config.yaml").read_text())
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", (root / "Makefile").read_text(), re.M)[1]
    commands = [line.strip().removeprefix("$(VENV)/bin/") for line in lint.splitlines()]
    assert [hook.replace(" --force-exclude", "") for hook in hooks] == [
        command.removesuffix(" .") for command in commands
    ]


def test_every_snippet_has_fewer_than_twenty_lines():
    wanted = {"task", "extraction method", "family of latent tasks", "site", "widget"}
    assert set(SNIPPETS) == wanted
    for name, code in SNIPPETS.items():
        lines = [line for line in code.splitlines() if line.strip()]
        assert 0 < len(lines) < 20, name
        assert max(map(len, lines)) <= 100, name


@pytest.mark.filterwarnings("ignore:.*cannot resume at a position")
def test_task_snippet_works_in_the_study_of_vectors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = run_snippet("task")["task"]
    antonyms = tv.Task.load("antonym").subset(range(16))
    study = vectors.run(
        tiny.model("llama"),
        ["spelled-backwards.json", antonyms],
        shots=2,
        contexts=3,
        folder=tmp_path / "out",
        progress=False,
    )
    assert list(study.vectors) == ["spelled-backwards", "antonym"]
    assert study.reports["antonym"].meta["wrong_tasks"] == ["spelled-backwards"]
    _, _, test = task.split(seed=0)
    assert study.reports["spelled-backwards"].conditions["vector"].count == len(test) > 5
    assert "spelled-backwards" in (tmp_path / "out" / "index.html").read_text()


@pytest.mark.filterwarnings("ignore:.*cannot resume at a position")
def test_method_snippet_extracts_and_is_evaluated(registries):
    run_snippet("extraction method")
    model = tiny.model("llama")
    tasks = [tv.Task.load(name).subset(range(16)) for name in ("singular-plural", "antonym")]
    options = dict(shots=2, contexts=5, seed=3)
    vector = tv.extract(model, tasks[0], method="median", **options)
    demonstrations = contexts(tasks[0], shots=2, count=5, seed=3)
    prompts = [
        build(model.tokenizer, TEMPLATES["qa"], shots, *query) for shots, query in demonstrations
    ]
    states = tv.collect(model, prompts, positions=-1, progress=False).stack("resid_post")[:, :, 0]
    np.testing.assert_allclose(vector.values, np.median(states, axis=1), rtol=1e-5, atol=1e-6)

    study = methods.run(
        model, tasks, methods=["state", "median"], items=4, progress=False, **options
    )
    assert study.accuracy.shape == (2, 2)
    assert study.reports["antonym"]["median"].meta["vector"]["method"] == "median"


@pytest.fixture(scope="module")
def sticky():
    return run_snippet("family of latent tasks")["Sticky"](tasks=2, minor=3, minor_mass=0.3, seed=1)


def test_family_snippet_has_the_posterior_of_enumeration(sticky):
    sequences = torch.tensor(list(itertools.product(range(4), repeat=5)))
    retrieval = tv.bayes.retrieval(sticky, sequences)
    joint = np.array(
        [
            [
                prior * np.prod([s if a == b else (1 - s) / 3 for a, b in itertools.pairwise(row)])
                for prior, s in zip(sticky.prior, sticky.parameters, strict=True)
            ]
            for row in [[0, *row] for row in sequences.tolist()]
        ]
    )
    np.testing.assert_allclose(retrieval.log_evidence[:, -1].exp(), joint.sum(1), rtol=1e-10)
    assert joint.sum() == pytest.approx(1)
    posterior = joint / joint.sum(1, keepdims=True)
    np.testing.assert_allclose(retrieval.posterior[:, -1], posterior, rtol=1e-10)
    # What comes next, as the ratio of the evidence of a sequence to that of its beginning.
    predictive = retrieval.predictive[:, -2].gather(-1, sequences[:, -1:])[:, 0]
    ratio = (retrieval.log_evidence[:, -1] - retrieval.log_evidence[:, -2]).exp()
    np.testing.assert_allclose(predictive, ratio, rtol=1e-10)


def test_family_snippet_samples_its_tasks(sticky):
    tokens = sticky.sample_tasks(torch.arange(5).repeat_interleave(400), 50, seed=0).tokens
    start = torch.zeros_like(tokens[:, :1])
    repeats = (tokens.diff(dim=1, prepend=start) == 0).double().view(5, -1).mean(1)
    np.testing.assert_allclose(repeats, sticky.parameters, atol=0.015)  # 4 standard errors
    with pytest.raises(TvlensError, match="Sticky does not define `new_task_predictive`"):
        tv.bayes.extrapolation(sticky, tokens)
    with pytest.raises(TvlensError, match="NaN or infinity"):
        sticky.with_tasks([0.5, float("nan")])
    with (
        pytest.raises(TvlensError, match="gives a probability of NaN"),
        np.errstate(invalid="ignore"),
    ):
        tv.bayes.retrieval(sticky.with_tasks([0.5, 1.5]), tokens)


def test_family_snippet_trains_a_model(sticky, tmp_path):
    config = tv.training.TransformerConfig(context=24, vocab=4, layers=1, d_model=32, heads=2)

    def sample(seed: int):
        return sticky.sample(64, 25, seed=seed).tokens

    trained = tv.training.train(
        config, sample, steps=200, folder=tmp_path, lr=5e-3, checkpoints=[200], progress=False
    )
    tokens = sticky.sample(256, 24, seed=12345).tokens
    prediction = trained.transformer()(tokens).detach().double().softmax(-1)
    bayes = tv.bayes.retrieval(sticky, tokens).predictive
    uniform = torch.full_like(bayes, 0.25)
    uniform_kl, model_kl = (float(tv.bayes.kl(bayes, p).mean()) for p in (uniform, prediction))
    assert model_kl < uniform_kl / 3


@pytest.mark.parametrize("name", ["gpt2", "llama", "native"])
@pytest.mark.filterwarnings("ignore:.*cannot resume at a position")
def test_site_snippet_is_collected_and_patched(registries, name):
    run_snippet("site")
    model = tiny.model(name)
    assert available(model)["mlp_post"] == ("blocks.0.mlp.hook_post", (1, 96, model.cfg.d_mlp))
    clean, corrupted = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[5, 9, 7, 8]])
    metric = tv.logit_difference(3, 4)
    result = tv.patch(model, clean, corrupted, site="mlp_post", metric=metric)
    assert result.axes == ("layer", "position") and result.values.shape == (3, 4, 1)
    assert result.effect[:, 0].tolist() == [0, 0, 0]  # the first token is the same

    hook = Site("mlp_post", 1).hook(model)
    source = tv.collect(model, clean, "mlp_post", layers=1, progress=False).stack("mlp_post")[0]

    def write(activation, hook):
        edited = activation.clone()
        edited[:, 1] = source[:, 1]
        return edited

    with torch.no_grad():
        logits = model.run_with_hooks(corrupted, fwd_hooks=[(hook, write)])
    expected = float(logits[0, -1, 3] - logits[0, -1, 4])
    assert float(result.values[1, 1, 0]) == pytest.approx(expected, abs=1e-5)
    assert float(result.effect[1, 1].abs()) > 1e-6


TOKENS = ["<s>", " The", " capital", "</script>"]
PATTERN = torch.eye(4).bfloat16()


def test_widget_snippet_makes_a_figure():
    attention_pattern = run_snippet("widget")["attention_pattern"]
    figure = attention_pattern(PATTERN, TOKENS, title="head 3")
    assert figure.spec["element"] == "AttentionPattern"
    assert figure.spec["props"]["attention"] == PATTERN.tolist()
    assert "attention pattern over 4 tokens" in figure.fragment()
    with pytest.raises(ValueError, match="same length"):
        attention_pattern(PATTERN, TOKENS[:2])
    with pytest.raises(ValueError, match="NaN"):
        attention_pattern(PATTERN * float("nan"), TOKENS)
    json.dumps(figure.spec, allow_nan=False)


@needs_chromium[0]
@needs_chromium[1]
def test_widget_snippet_is_drawn_in_a_browser(tmp_path):
    from playwright.sync_api import sync_playwright

    figure = run_snippet("widget")["attention_pattern"](PATTERN, TOKENS)
    errors = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 600, "height": 700})
        tab.on("console", lambda m: m.type == "error" and errors.append(m.text))
        tab.on("request", lambda r: r.url.startswith("http") and errors.append(r.url))
        tab.goto(figure.save(tmp_path / "widget.html").as_uri())
        tab.wait_for_function(ALL_DRAWN, timeout=30_000)
        tab.locator("[data-tvlens=circuitsvis] canvas").first.wait_for()
        browser.close()
    assert errors == []
