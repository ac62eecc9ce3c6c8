"""Charts: valid Vega-Lite specifications with the given numbers."""

import json
import re
import subprocess
import sys

import altair
import numpy as np
import pytest
import torch
import vl_convert
from viz_gallery import HOSTILE, charts

from tvlens import viz
from tvlens.viz.points import _PLOTS, _overlaps, _to_pixels, place_labels

pytestmark = pytest.mark.no_arithmetic


@pytest.mark.parametrize("name", list(charts()))
def test_charts_are_valid_vega_lite_with_a_description(name):
    figure = charts()[name]
    altair.Chart.from_dict(figure.spec)  # validates against the Vega-Lite schema
    assert len(figure.spec["description"]) > 20
    assert figure.spec["width"] == "container"
    assert "tooltip" in json.dumps(figure.spec)
    assert "http" not in json.dumps(figure.spec)
    assert "<path" in vl_convert.vegalite_to_svg({**figure.spec, "width": 500})
    assert "<img" not in figure.fragment()


def test_heatmap_stores_values_in_row_order():
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, float("nan"), 0.123456]])
    figure = viz.heatmap(values, rows=["r", "r"], columns=["a", "a", HOSTILE])
    assert figure.spec["data"]["values"] == [
        {"data": number} for number in (1, 2, 3, 4, None, 0.1235)
    ]
    svg = vl_convert.vegalite_to_svg({**figure.spec, "width": 500})
    assert 'aria-label="r, a: 4"' in svg


def test_heatmap_frames_marked_cells():
    plain = dict(rows="rs", columns="abc")
    figure = viz.heatmap(np.eye(2, 3), **plain, marked=[(0, 2), (1, 0)])
    (frames,) = [l for l in figure.spec["layer"] if l["mark"].get("filled") is False]
    assert frames["transform"] == [{"filter": {"field": "index", "oneOf": [3, 4]}}]
    with pytest.raises(ValueError, match="outside a table"):
        viz.heatmap(np.eye(2, 3), **plain, marked=[(2, 0)])


def test_heatmap_color_scale_is_sequential_or_symmetric():
    plain = {"rows": range(2), "columns": range(2)}
    diverging = viz.heatmap([[-1.0, 0.5], [0, 0.2]], **plain, diverging=True).spec["layer"][0]
    assert diverging["encoding"]["color"]["scale"]["domain"] == [-1, 1]
    sequential = viz.heatmap([[0.01, 0.5], [0.3, 0.2]], **plain).spec["layer"][0]
    assert sequential["encoding"]["color"]["scale"]["domain"] == [0, 0.5]


def test_heatmap_annotates_small_tables_only():
    def layers(size, **options):
        labels = range(size)
        return len(viz.heatmap(np.eye(size), rows=labels, columns=labels, **options).spec["layer"])

    assert (layers(12), layers(13)) == (2, 1)
    assert (layers(12, annotate=False), layers(13, annotate=True)) == (1, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: viz.lines({}), "at least one series"),
        (lambda: viz.lines({"a": [1, 2], "b": [1]}), "2 x positions and 1 values of 'b'"),
        (lambda: viz.lines({"a": [1, 2]}, x=[1]), "1 x positions and 2 values of 'a'"),
        (lambda: viz.lines({"a": [1]}, bands={"b": ([0], [1])}), "band 'b' has no series"),
        (lambda: viz.lines({"a": [1]}, bands={"a": ([0], [1, 2])}), "1 x positions and 2 limits"),
        (lambda: viz.lines({"a": [1]}, rules={"b": float("nan")}), "1 of 1 numbers in rules"),
        (
            lambda: viz.heatmap(np.ones((2, 3)), rows="ab", columns="ab"),
            "2 column labels and 3 columns of values",
        ),
        (
            lambda: viz.heatmap(np.full((1, 1), np.nan), rows="a", columns="a"),
            "no number to show",
        ),
        (lambda: viz.scatter(np.ones((3, 2)), labels="ab"), "3 points and 2 labels"),
        (lambda: viz.scatter(np.ones((3, 3)), labels="abc"), r"must be \[n, 2\]"),
        (lambda: viz.intervals([("a", 1, 0, 2)], groups=[]), "1 rows and 0 groups"),
        (lambda: viz.intervals([]), "at least one row"),
        (lambda: viz.histogram([]), "at least one value"),
        (lambda: viz.table([]), "at least one row"),
    ],
)
def test_charts_refuse_inputs_of_other_lengths(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lines_accepts_gaps_and_many_series():
    figure = viz.lines({f"layer {i}": [0.1, float("nan"), i] for i in range(30)})
    altair.Chart.from_dict(figure.spec)
    values = figure.spec["data"]["values"]
    assert values[1] == {"series": "layer 0", "x": 1, "y": None}
    shades = figure.spec["layer"][0]["encoding"]["color"]["scale"]["range"]
    assert len(set(shades)) == 30


def test_lines_with_doublings_has_equal_distances():
    x = [1, 2, 8, 64]
    figure = viz.lines({"a": [1.0, 2.0, 3.0, 4.0]}, x=x, doublings=True)
    altair.Chart.from_dict(figure.spec)
    svg = vl_convert.vegalite_to_svg({**figure.spec, "width": 500})
    (path,) = re.findall(r'aria-roledescription="line mark" d="M([^"]*)"', svg)
    x_pixels = [float(point.split(",")[0]) for point in path.split("L")]
    steps = np.diff(x_pixels) / np.diff(np.log2(x))
    assert np.allclose(steps, steps[0], rtol=1e-3)
    assert {"1", "2", "8", "64"} <= set(read_labels(figure))


def test_lines_with_doublings_refuses_zero():
    with pytest.raises(ValueError, match="holds 0, which has no logarithm"):
        viz.lines({"a": [1.0, 2.0]}, x=[0, 1], doublings=True)
    only = viz.lines({"a": [1.0]}, x=[4], doublings=True)
    assert "4" in read_labels(only)


def read_labels(figure: viz.Figure) -> list[str]:
    svg = vl_convert.vegalite_to_svg({**figure.spec, "width": 500})
    return re.findall(r"<text[^>]*>([^<]*)", svg)


def test_lines_labels_its_axes_with_values():
    assert read_labels(viz.lines({"a": [0.5]})) == ["0", "0.3", "0.4", "0.5", "0.6", "0.7"]
    assert read_labels(viz.lines({"a": [1, 2, 3]}))[:3] == ["0", "1", "2"]
    assert read_labels(viz.lines({"a": [1, 2]}, x=[10, 2000]))[:2] == ["10", "2,000"]


def test_rules_are_labelled_with_their_values():
    figure = viz.lines({"a": [0, 1]}, rules={"chance": 0.16666})
    assert figure.spec["layer"][0]["data"]["values"] == [{"series": "chance (0.167)", "y": 0.1667}]


def test_place_labels_avoids_overlaps():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(40, 2)).tolist(), [f"label {i}" for i in range(40)]
    sides = place_labels(points, labels)
    placed = [(i, side) for side, indices in sides.items() for i in indices]
    assert 10 < len(placed) == len({i for i, _ in placed})
    for width, height in _PLOTS:
        plot = _to_pixels(points, width, height)
        boxes = [side.box(*plot[i], 6.4 * len(labels[i])) for i, side in placed]
        assert not any(_overlaps(a, b) for n, a in enumerate(boxes) for b in boxes[:n])


def test_table_aligns_numbers_and_escapes_text():
    rows = [
        {"name": HOSTILE, "p": 0.12345, "n": 3},
        {"name": "b", "p": torch.tensor(2.0), "ok": True},
    ]
    text = viz.table(rows, title="T & U").fragment()
    assert '<td class="number">0.123</td>' in text
    assert '<td class="number">2.000</td>' in text
    assert "<td>yes</td>" in text
    assert '<th scope="col" class="number">p</th>' in text
    assert "<img" not in text
    assert "T &amp; U" in text


def test_import_of_viz_loads_no_heavy_package():
    heavy = ["torch", "numpy", "altair", "vl_convert", "circuitsvis", "IPython", "pandas"]
    code = f"import sys, tvlens.viz; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_charts_accept_tensors_as_numbers():
    number = torch.tensor(0.5, requires_grad=True)
    with torch.no_grad():
        figure = viz.lines({"a": [0, 1]}, rules={"r": number}, marks={"m": (0, number, 0, 1)})
        assert figure == viz.lines({"a": [0, 1]}, rules={"r": 0.5}, marks={"m": (0, 0.5, 0, 1)})
        assert viz.histogram([0, 1], mark=number) == viz.histogram([0, 1], mark=0.5)
        assert viz.intervals([("a", number, 0, 1)]) == viz.intervals([("a", 0.5, 0, 1)])
