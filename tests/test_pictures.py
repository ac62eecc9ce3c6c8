import numpy as np
import pytest

import tvlens as tv
from tvlens import Pictures, Task, TvlensError
from tvlens.training.naming.augment import augmented, plain
from tvlens.training.naming.parts import split


@pytest.fixture(scope="module")
def pack():
    return Pictures.load()


def test_the_pack_is_whole(pack):
    assert len(pack.hands) == 10 and set(pack.kinds) == {
        "animal",
        "flag",
        "food",
        "object",
        "plant",
    }
    by_artist = {artist: pack.where(artist=artist) for artist in pack.hands}
    noto = set(by_artist["noto"].names)
    for artist, drawn in by_artist.items():
        assert len(set(drawn.names)) == len(drawn) >= 190
        assert set(drawn.names) <= noto, artist
    counts = dict.fromkeys(noto, 0)
    for name in pack.names:
        counts[name] += 1
    assert min(counts.values()) >= 3
    assert pack.read_pixels(0).shape == (64, 64, 4) and len(set(pack.files)) > 0.99 * len(pack)


def test_flags_are_those_of_their_countries(pack):
    """France from left to right: blue, white, red, by every artist."""
    flags = pack.where(kind="flag", names=["France"])
    assert len(flags) >= 6
    for row in range(len(flags)):
        seen = plain(flags.read_pixels(row), size=64)[20:44].astype(int)
        left, middle, right = (seen[:, at : at + 4].mean((0, 1)) for at in (14, 30, 46))
        assert left.argmax() == 2 and right.argmax() == 0 and middle.min() > 180, flags.artists[row]


def test_choosing(pack):
    lions = pack.where(names=["lion", "tiger"], artist="noto").by_name()
    assert set(lions) == {"lion", "tiger"}
    task = Task("cry", [("lion", "roar"), ("ant", "none"), ("tiger", "roar")]).with_images(lions)
    assert [x for x, _ in task] == ["lion", "tiger"]
    assert task.shown(task.pairs[0], "image")[0].read_pixels().shape == (64, 64, 3)
    with pytest.raises(TvlensError, match="several artists drew the same things"):
        pack.where(names=["lion"]).by_name()
    for wrong in ({"artist": "nota"}, {"kind": "animals"}, {"names": ["lyon"]}):
        with pytest.raises(TvlensError, match="did you mean"):
            pack.where(**wrong)
    assert tv.Pictures is Pictures


def test_parts_share_neither_artist_nor_thing(pack):
    parts = split(pack, seed=1)
    assert sum(map(len, parts.values())) == len(pack)
    names = {part: set(found.names) for part, found in parts.items()}
    artists = {part: set(found.artists) for part, found in parts.items()}
    assert not names["train"] & (names["new_things"] | names["new_both"])
    assert artists["new_artist"] == artists["new_both"] == {"noto"}
    assert "noto" not in artists["train"] | artists["new_things"]
    assert split(pack, seed=1)["train"].names == parts["train"].names
    assert split(pack, seed=2)["train"].names != parts["train"].names
    kinds = {kind: pack.where(kind=kind) for kind in set(pack.kinds)}
    for drawn in kinds.values():
        share = len(set(drawn.names) & names["new_things"]) / len(set(drawn.names))
        assert 0.05 < share < 0.15
    with pytest.raises(TvlensError, match="did you mean 'noto'"):
        split(pack, held_out="notto")


def test_views(pack):
    drawing = pack.read_pixels(pack.names.index("lion"))
    white = plain(drawing, size=56)
    assert white.shape == (56, 56, 3) and (white[0, 0] == 255).all()
    drawn = [augmented(drawing, size=56, seed=(0, 5, view)) for view in range(12)]
    np.testing.assert_array_equal(drawn[3], augmented(drawing, size=56, seed=(0, 5, 3)))
    assert len({view.tobytes() for view in drawn}) == 12
    # The background changes, the lion's yellow stays: of every view, some of it is left.
    corners = {tuple(view[0, 0]) for view in drawn}
    assert len(corners) > 5
    yellow = [
        ((v[..., 0] > 120) & (v[..., 2] + 30 < v[..., 0])).mean() for v in map(np.int64, drawn)
    ]
    assert min(yellow) > 0.02


def test_nothing_is_added_to_an_empty_drawing():
    empty = np.zeros((8, 8, 4), dtype=np.uint8)
    assert (plain(empty, size=16) == 255).all()
