import pytest

from tvlens import viz

PNG = b"\x89PNG"


def test_names_stay_text_and_pictures_are_carried():
    shown = viz.pictures([('a "lion" <script>', PNG)], title="seen")
    body = shown.fragment()
    assert "data:image/png;base64,iVBORw==" in body and "<script>" not in body
    assert "a &quot;lion&quot; &lt;script&gt;" in body and shown.alt.startswith("pictures of a")
    assert shown.libraries == frozenset()
    with pytest.raises(ValueError, match="at least one picture"):
        viz.pictures([])


def test_a_picture_among_tokens_has_no_space_to_break_it():
    """CircuitsVis turns spaces of a token into ones that end no attribute."""
    figure = viz.colored_tokens(["Q:", "a lion", "\n"], [0.1, 0.2, 0.3], pictures={1: PNG})
    tokens = figure.spec["props"]["tokens"]
    assert tokens[1].startswith("<img/") and 'alt="a lion"' in tokens[1]
    assert " " not in tokens[1].replace("a lion", "") and tokens[0] == "Q:"
