import pytest

from tvlens import viz

pytestmark = pytest.mark.no_arithmetic

PNG = b"\x89PNG"


def test_image_grid_embeds_files_and_escapes_names():
    figure = viz.image_grid([('a "lion" <script>', PNG)], title="seen")
    body = figure.fragment()
    assert "data:image/png;base64,iVBORw==" in body and "<script>" not in body
    assert "a &quot;lion&quot; &lt;script&gt;" in body and figure.alt.startswith("images of a")
    assert figure.libraries == frozenset()
    with pytest.raises(ValueError, match="at least one image"):
        viz.image_grid([])


def test_image_among_tokens_has_no_spaces_in_its_tag():
    """CircuitsVis replaces spaces of a token, also within tags."""
    figure = viz.colored_tokens(["Q:", "a lion", "\n"], [0.1, 0.2, 0.3], images={1: PNG})
    tokens = figure.spec["props"]["tokens"]
    assert tokens[1].startswith("<img/") and 'alt="a lion"' in tokens[1]
    assert " " not in tokens[1].replace("a lion", "") and tokens[0] == "Q:"
