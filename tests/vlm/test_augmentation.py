import numpy as np
import torch

from tvlens import ImagePack
from tvlens.vlm.augmentation import (
    render_on_white,
    render_random_view,
    same_category_pairs,
    style_offsets,
)


def test_render_random_view_depends_on_seed_and_keeps_object_color():
    pack = ImagePack.load()
    pixels = pack.read_pixels(pack.names.index("lion"))
    white = render_on_white(pixels, size=56)
    assert white.shape == (56, 56, 3) and (white[0, 0] == 255).all()
    views = [render_random_view(pixels, size=56, seed=(0, 5, view)) for view in range(12)]
    np.testing.assert_array_equal(views[3], render_random_view(pixels, size=56, seed=(0, 5, 3)))
    assert len({view.tobytes() for view in views}) == 12
    # The background varies, but every view shows some of the lion's yellow.
    corners = {tuple(view[0, 0]) for view in views}
    assert len(corners) > 5
    yellow = [
        ((v[..., 0] > 120) & (v[..., 2] + 30 < v[..., 0])).mean() for v in map(np.int64, views)
    ]
    assert min(yellow) > 0.02


def test_render_on_white_of_transparent_image_is_white():
    transparent = np.zeros((8, 8, 4), dtype=np.uint8)
    assert (render_on_white(transparent, size=16) == 255).all()


def test_style_offsets_are_fractions_of_differences_within_a_category():
    pairs = same_category_pairs(["a", "b", "a", "c", "a"])
    assert sorted(map(tuple, pairs)) == [(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2)]
    states = torch.arange(5.0).view(5, 1, 1, 1).half() ** 2
    offsets = style_offsets(states, pairs, 400, seed=(0, 1)).flatten()
    assert set(offsets.sign().tolist()) == {-1, 1} and 4 < offsets.abs().max() <= 16


def test_style_offsets_without_pairs_are_zero():
    states = torch.arange(5.0).view(5, 1, 1, 1).half()
    pairs = same_category_pairs(["a", "b"])
    assert style_offsets(states, pairs, 3, seed=(0,)).abs().sum() == 0
