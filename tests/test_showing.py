"""The figure of every result: light and dark, wide and narrow, with descriptions."""

import re

import numpy as np
import pytest
import torch
from chromium import ALL_DRAWN, needs_chromium
from every_result import HOSTILE, make_every_result

from tvlens import viz
from tvlens.viz import Page, Section, notebook

# Plain statements that are best read as text.
TEXTS = {"Subspace", "PairMoments"}


# One worker makes all results, once.
pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.no_arithmetic]


@pytest.fixture(scope="module")
def every_result(tmp_path_factory):
    return make_every_result(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def result_html(every_result):
    """HTML of every result by name, as the cells of one notebook hold it."""
    named_results = dict(every_result)
    study_page = Page(
        "A study", ["Asked and found. " + HOSTILE], [Section("One", HOSTILE, [_chart()])]
    )
    named_results["Page"] = study_page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notebook, "_hosts", {})
        patch.setattr(notebook, "_current_run", lambda: (name, name))
        html = {}
        for name, result in named_results.items():
            if name not in TEXTS:
                html[name] = result._repr_html_()
    return html


def _chart():
    return viz.lines({"a": [1, 2]}, x_title="how many demonstrations had been read at that place")


def test_every_result_has_a_described_figure(result_html):
    assert len(result_html) > 35
    for name, html in result_html.items():
        assert "<figure" in html, name
        assert "<img" not in html, name  # names and tokens are text
        pictures = len(re.findall(r'data-tvlens="(?:vega|circuitsvis)"', html))
        described = re.findall(r'"description":"[^"]{10}|role="group" aria-label="[^"]{10}', html)
        assert len(described) >= pictures, name
        without_bundles = re.sub(
            r'<script type="text/plain".*?</script>', "", html, flags=re.DOTALL
        )
        assert len(without_bundles) < 120_000, name
    bundles_of_results = [
        re.findall(r'data-tvlens-bundle="(\w+)"', html) for html in result_html.values()
    ]
    assert sorted(b for bundles in bundles_of_results for b in bundles) == ["circuitsvis", "vega"]


def test_page_in_a_notebook_styles_only_itself(result_html):
    html = result_html["Page"]
    for style in re.findall(r"<style>(.*?)</style>", html, re.DOTALL):
        selectors = re.findall(r"([^{}]+)\{", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
        assert all(s.strip().startswith(".tvlens-") for s in selectors), selectors
    assert not re.search(r"<(!DOCTYPE|html|body|meta)|\sid=\"(section|heading)", html)


def test_results_without_figure_have_a_repr_with_numbers(every_result):
    results_by_name = every_result
    texts = {
        n for n, r in results_by_name.items() if getattr(r, "_repr_html_", lambda: None)() is None
    }
    assert texts == TEXTS
    assert all(re.fullmatch(r"\w+\(.*\d.*\)", repr(results_by_name[name])) for name in TEXTS)


CLIPPED = """[...document.querySelectorAll('[data-tvlens=vega] svg')].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.width && (own.left < box.left - 2 || own.right > box.right + 2);
  }).map((text) => text.textContent);
})"""


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (390, "light"), (900, "dark")])
@pytest.mark.parametrize("part", [0, 1])
class TestInABrowser:
    pytestmark = needs_chromium

    def test_every_result_is_drawn_and_fits_the_window(
        self, browser, result_html, tmp_path, width, scheme, part
    ):
        # All of them on one page take long to draw; halves bring both bundles each.
        names = [n for i, n in enumerate(result_html) if i % 2 == part]
        bundle_tags = [
            b for h in result_html.values() for b in re.findall(BUNDLE, h, flags=re.DOTALL)
        ]
        # Bundles stand first, as in an earlier cell: a loader looks for those that are there.
        body = "".join(bundle_tags) + "\n".join(result_html[name] for name in names)
        head = f'<meta charset="utf-8"><style>:root{{color-scheme:{scheme}}}</style>'
        head += '<meta name="viewport" content="width=device-width,initial-scale=1">'
        (tmp_path / "all.html").write_text(f"<!DOCTYPE html>{head}<body>{body}</body>")
        tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        errors, requests = [], []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto((tmp_path / "all.html").as_uri())
        tab.wait_for_function(ALL_DRAWN, timeout=60_000)
        assert errors == []
        assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
        assert tab.locator(".tvlens-message").count() == 0
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert tab.evaluate(CLIPPED) == []
        tab.close()


BUNDLE = r'<script type="text/plain" data-tvlens-bundle=.*?</script>'


class OnADevice(torch.Tensor):
    """Stub of a tensor on an accelerator, which numpy cannot read before `.cpu()`."""

    def cpu(self):
        return self.as_subclass(torch.Tensor)

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


def make_every_figure(values: torch.Tensor) -> dict[str, viz.Figure]:
    """Make every kind of figure from six numbers."""
    tokens = ["a", "b", "c"]
    square = values.reshape(2, 3)
    return {
        "lines": viz.lines({"a": values}, bands={"a": (values, values)}),
        "heatmap": viz.heatmap(square, rows="xy", columns=tokens),
        "scatter": viz.scatter(values.reshape(3, 2), labels=tokens),
        "intervals": viz.intervals([("a", values[0], values[1], values[2])]),
        "histogram": viz.histogram(values, mark=values[0]),
        "table": viz.table([{"a": values[0].double()}]),
        "tokens": viz.colored_tokens(tokens, values[:3]),
        "several": viz.colored_tokens_multi(tokens, values.reshape(3, 2), ["p", "q"]),
        "heads": viz.attention_heads(values[:4].reshape(1, 2, 2), tokens[:2]),
        "predictions": viz.token_log_probs(torch.tensor([0, 1]), square, tokens),
        "neurons": viz.text_neuron_activations(tokens, values.reshape(3, 2, 1)),
        "top": viz.topk_tokens(tokens, values.reshape(2, 3, 1), top_k=2),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
def test_figures_accept_tensors_of_any_dtype_and_device(dtype):
    values = torch.tensor([1, 2, 3, 4, 5, 7]).to(dtype)
    plain = make_every_figure(values.double())
    assert make_every_figure(values.as_subclass(OnADevice)) == plain
    assert make_every_figure(values) == plain


def test_nan_is_a_gap_or_raises_an_error():
    values = torch.tensor([1.0, 2.0, float("nan"), 4.0, 5.0, 6.0])
    assert None in [row["y"] for row in viz.lines({"a": values}).spec["data"]["values"]]
    cells = viz.heatmap([values], rows="a", columns="abcdef").spec["data"]["values"]
    assert cells[2] == {"data": None}
    with pytest.raises(ValueError, match="NaN or infinite, first at pos 2"):
        viz.colored_tokens(list("abcdef"), values)
    with pytest.raises(ValueError, match="NaN or infinite"):
        viz.histogram(values)


MANY = 1_000_000


@pytest.mark.parametrize(
    "make",
    [
        lambda v: viz.colored_tokens(["a"] * MANY, v),
        lambda v: viz.colored_tokens_multi(["a"] * MANY, v[:, None], ["x"]),
        lambda v: viz.text_neuron_activations(["a"] * MANY, v[:, None, None]),
        lambda v: viz.token_log_probs(np.zeros(MANY), np.zeros((MANY, 2)), ["a", "b"]),
        lambda v: viz.attention_heads(v.reshape(1, 1000, 1000), ["a"] * 1000),
        lambda v: viz.lines({"a": v}),
        lambda v: viz.heatmap(v.reshape(1000, 1000), rows=range(1000), columns=range(1000)),
        lambda v: viz.scatter(v.reshape(-1, 2), labels=[""] * (MANY // 2)),
    ],
)
def test_figures_refuse_a_million_numbers(make):
    with pytest.raises(ValueError, match=r"1,000,000 (numbers|tokens).* (200|20),000.*a part of"):
        make(np.zeros(MANY))


def test_histogram_and_topk_tokens_of_many_numbers_are_small():
    draws = viz.histogram(np.random.default_rng(0).normal(size=MANY))
    assert len(draws.fragment()) < 20_000
    words = [f"w{i}" for i in range(50_000)]
    assert len(viz.topk_tokens(words, np.eye(50_000, 20)[None]).fragment()) < 20_000
